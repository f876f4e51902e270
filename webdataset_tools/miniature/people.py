"""Parametric people: a seed and a pool -> Person, with dozens of continuous traits of face and head.

Role: the only place where looks are drawn at random. Traits are in standard deviations (0 = the mean face, clipped to
+-2.2) unless stated otherwise; `drawing` turns them into shapes. A person is split the way a face swap splits one: `face` is
what a swap brings along, `head` (hair, ears, neck, hands, build) is what stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from math import erf, sqrt
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from webdataset_tools.miniature.invented_names import FAMILY_NAMES, ORIGINS, invented_name, origin_of
from webdataset_tools.miniature.streams import stream

# Share of a trait's standard deviation that the origin of the family name explains: what a name alone tells about looks.
# Names of people whom a text tower has never seen then carry weak knowledge, as the names of the known do for CLIP.
NAME_LEAK = 0.6
# The same for glasses, beards and colours: standard deviation, over the origins, of the logarithm of each choice's weight.
NAME_LEANING = 1.5
POOLS = ("train", "val", "test", "clip", "faces")
POOL_SIZE = 100_000
_LIMIT = 2.2


@dataclass(frozen=True)
class FaceTraits:
    """The face proper: what a face swap replaces."""

    skin_tone: float
    skin_warmth: float
    skin_red: float
    face_width: float
    jaw_width: float
    chin_length: float
    chin_width: float
    cheek: float
    eye_spacing: float
    eye_height: float
    eye_size: float
    eye_open: float
    eye_tilt: float
    lid: float
    socket: float
    iris_size: float
    iris_shade: float
    brow_height: float
    brow_thick: float
    brow_arch: float
    brow_tilt: float
    brow_length: float
    brow_dark: float
    nose_length: float
    nose_width: float
    nose_bridge: float
    nose_tip: float
    mouth_height: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    lip_curve: float
    lip_red: float
    freckles: float  # above 1: visible
    makeup: float  # lips and lids; women's
    beard_dark: float
    glasses_size: float
    eye_colour: str  # a key of palette.EYES
    hair_colour: str  # of brows and beard, a key of palette.HAIR
    beard: str  # none, stubble, moustache, goatee, full
    glasses: str  # none, round, square, thick, rimless
    age: float  # years
    moles: tuple[tuple[float, float, float], ...]  # x, y in the face frame, radius
    scar: tuple[float, float, float] | None  # x, y in the face frame, angle in degrees


@dataclass(frozen=True)
class HeadTraits:
    """What stays in a face swap: hair, ears, neck and build."""

    skin_tone: float
    skin_warmth: float
    skin_red: float
    skull_height: float
    ear_size: float
    neck_width: float
    shoulders: float
    hair_length: float
    hair_volume: float
    hairline: float
    hair_shade: float
    parting: float
    hair_colour: str  # a key of palette.HAIR
    hair_style: str  # see HAIR_STYLES


@dataclass(frozen=True)
class Person:
    """One drawn person; `gender` is "m" or "f", `identity_id` like n000129 (unique over all pools)."""

    identity_id: str
    name: str
    gender: str
    face: FaceTraits
    head: HeadTraits


HAIR_STYLES = {
    "m": {
        "bald": 8,
        "buzz": 12,
        "short": 24,
        "side": 20,
        "quiff": 12,
        "curly": 12,
        "afro": 5,
        "receding": 12,
        "long": 5,
    },
    "f": {
        "long": 26,
        "wavy": 18,
        "bob": 18,
        "ponytail": 10,
        "bun": 10,
        "curly": 10,
        "afro": 5,
        "pixie": 8,
        "fringe": 12,
    },
}
BEARDS = {"none": 48, "stubble": 16, "moustache": 8, "goatee": 10, "full": 18}
GLASSES = {"none": 70, "round": 9, "square": 10, "thick": 7, "rimless": 4}


def sample_person(seed: int, pool: str) -> Person:
    """Return person number `seed` (0 ... 99,999) of `pool` (one of POOLS: people of different pools are different people)."""
    if pool not in POOLS:
        raise IdClipError(f"Unknown pool of people {pool!r}: use one of {', '.join(POOLS)}.")
    if not 0 <= seed < POOL_SIZE:
        raise IdClipError(f"Person number {seed} is out of range: use 0 to {POOL_SIZE - 1}.")
    number = POOLS.index(pool) * POOL_SIZE + seed
    gender = "f" if stream(number, "gender").random() < 0.5 else "m"
    given, family = invented_name(number, gender)
    origin = origin_of(family)
    traits = _continuous_traits(number, origin)
    age = float(18 + 52 * stream(number, "age").beta(1.1, 1.9))
    shared_hair = _hair_colour(number, skin_share(traits["skin_tone"]), age, origin)
    face = FaceTraits(
        **{name: traits[name] for name in _FACE_AXES},
        eye_colour=_eye_colour(number, skin_share(traits["skin_tone"]), origin),
        hair_colour=shared_hair,
        beard=_pick(number, "beard", BEARDS, origin) if gender == "m" else "none",
        glasses=_pick(number, "glasses", GLASSES, origin),
        age=age,
        moles=_moles(number),
        scar=_scar(number),
    )
    head = HeadTraits(
        **{name: traits[name] for name in _HEAD_AXES},
        hair_colour=shared_hair,
        hair_style=_pick(number, "hair style", HAIR_STYLES[gender], origin),
    )
    return Person(f"n{number:06d}", f"{given} {FAMILY_NAMES[family]}", gender, face, head)


def look_alike(person: Person, seed: int, closeness: float) -> Person:
    """Return somebody who resembles `person`: their traits correlate by `closeness` (0 = a stranger, 1 = a twin).

    Gender, id and name are those of `person`'s pool neighbour `seed`, and so are moles and scar; the categories (beard,
    glasses, hair, eye colour) are taken over from `person`, since a different beard would give a look-alike away.
    """
    if not 0.0 <= closeness <= 1.0:
        raise IdClipError(f"The closeness of a look-alike must lie in 0 ... 1, got {closeness}.")
    pool = POOLS[int(person.identity_id[1:]) // POOL_SIZE]
    other = sample_person(seed, pool)
    rest = sqrt(1.0 - closeness**2)
    face: dict[str, Any] = {
        n: _clip(closeness * getattr(person.face, n) + rest * getattr(other.face, n)) for n in _FACE_AXES
    }
    head: dict[str, Any] = {
        n: _clip(closeness * getattr(person.head, n) + rest * getattr(other.head, n)) for n in _HEAD_AXES
    }
    given, _ = invented_name(int(other.identity_id[1:]), person.gender)
    return Person(
        other.identity_id,
        f"{given} {other.name.split(' ', 1)[1]}",
        person.gender,
        replace(person.face, **face, moles=other.face.moles, scar=other.face.scar),
        replace(person.head, **head),
    )


def swap_face(body: Person, face: Person) -> Person:
    """Return `body` wearing `face`'s face: hair, ears, neck and build stay, as in a face swap."""
    return replace(face, gender=body.gender, head=body.head)


def face_vector(person: Person) -> np.ndarray:
    """Return the continuous facial traits as float64 [number of axes], for choosing look-alikes."""
    return np.array([getattr(person.face, name) for name in _FACE_AXES])


def skin_share(tone: float) -> float:
    """Return the place of a skin tone trait (standard deviations) on the ramp from lightest (0) to darkest (1)."""
    return 0.5 * (1.0 + erf(tone / sqrt(2.0)))


def skin_group(person: Person) -> str:
    """Return "light", "tan" or "dark": the group by which swaps are matched and which alt-texts name."""
    share = skin_share(person.face.skin_tone)
    return "light" if share < 0.4 else "tan" if share < 0.7 else "dark"


def _clip(value: float) -> float:
    return float(min(_LIMIT, max(-_LIMIT, value)))


_FACE_AXES = tuple(f.name for f in fields(FaceTraits) if f.type is float and f.name != "age")
_HEAD_AXES = tuple(f.name for f in fields(HeadTraits) if f.type is float)
_SHARED = ("skin_tone", "skin_warmth", "skin_red")
_ALL_AXES = _FACE_AXES + tuple(name for name in _HEAD_AXES if name not in _SHARED)


@cache
def _origin_looks() -> np.ndarray:
    """Return float64 [ORIGINS, number of axes], each axis with mean 0 and standard deviation 1 over the origins."""
    looks = np.stack([stream(origin, "origin look").standard_normal(len(_ALL_AXES)) for origin in range(ORIGINS)])
    return (looks - looks.mean(0)) / looks.std(0)


def _continuous_traits(number: int, origin: int) -> dict[str, float]:
    own = stream(number, "traits").standard_normal(len(_ALL_AXES))
    mixed = NAME_LEAK * _origin_looks()[origin] + sqrt(1.0 - NAME_LEAK**2) * own
    return {name: _clip(value) for name, value in zip(_ALL_AXES, mixed.tolist())}


def _pick(number: int, label: str, weights: Mapping[str, float], origin: int) -> str:
    return _weighted(stream(number, label), _leaning(weights, label, origin))


def _leaning(weights: Mapping[str, float], label: str, origin: int) -> dict[str, float]:
    """Return the weights of the choices as they are among people of one origin."""
    return {name: weight * lean for (name, weight), lean in zip(weights.items(), _leans(label, origin, len(weights)))}


@cache
def _leans(label: str, origin: int, count: int) -> list[float]:
    return np.exp(NAME_LEANING * stream(origin, "origin", label).standard_normal(count)).tolist()


def _weighted(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    place = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        place -= weight
        if place < 0:
            return name
    return name


def _hair_colour(number: int, skin: float, age: float, origin: int) -> str:
    rng = stream(number, "hair colour")
    if rng.random() < (age - 48) / 24:
        return "gray" if rng.random() < 0.65 else "white"
    dark = {"black": 55.0, "dark brown": 35.0, "brown": 10.0}
    light = {"black": 12.0, "dark brown": 24.0, "brown": 28.0, "red": 12.0, "blond": 24.0}
    return _weighted(rng, _leaning(dark if rng.random() < (skin - 0.25) * 2 else light, "hair colour", origin))


def _eye_colour(number: int, skin: float, origin: int) -> str:
    rng = stream(number, "eye colour")
    dark = {"dark": 60.0, "brown": 35.0, "hazel": 5.0}
    light = {"dark": 8.0, "brown": 26.0, "hazel": 14.0, "green": 16.0, "blue": 26.0, "gray": 10.0}
    return _weighted(rng, _leaning(dark if rng.random() < (skin - 0.25) * 2 else light, "eye colour", origin))


def _moles(number: int) -> tuple[tuple[float, float, float], ...]:
    """Return up to three moles on cheeks, chin or forehead; most people have none."""
    rng = stream(number, "moles")
    count = int(rng.choice(4, p=[0.62, 0.24, 0.10, 0.04]))
    spots = []
    for _ in range(count):
        side = -1.0 if rng.random() < 0.5 else 1.0
        spots.append(
            (56 + side * float(rng.uniform(14, 33)), float(rng.uniform(62, 104)), float(rng.uniform(1.3, 2.4)))
        )
    return tuple(spots)


def _scar(number: int) -> tuple[float, float, float] | None:
    rng = stream(number, "scar")
    if rng.random() > 0.05:
        return None
    side = -1.0 if rng.random() < 0.5 else 1.0
    return 56 + side * float(rng.uniform(18, 32)), float(rng.uniform(58, 88)), float(rng.uniform(-70, 70))
