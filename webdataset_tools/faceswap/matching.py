"""What is known about the person of an image and about an identity -> the values by which they are matched.

Role: several sources, one answer. Image: the user's file, then the captions' words, then the face engine. Identity: the user's
file and identity_meta.csv, then the face engine's votes over the photos. None stands for unknown. Captions do not tell a young
woman from an old one, so that they know one more age group: `adult`, which agrees with all but children and teenagers.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.identities import GENDER

Values = tuple[str | None, ...]

AGE_GROUP = "age_group"
_AGE_GROUPS = ((13, "child"), (20, "teenager"), (40, "young"), (60, "middle"), (1000, "old"))  # (below, name)
CHILD, ADULT = "child", "adult"
_GROWN_UP = ("young", "middle", "old")
_CHILD = re.compile(r"\b(?:bab(?:y|ies)|infant|newborn|toddler|child|kid|boy|(?:little|small|young) girl)\b", re.I)
_TEENAGER = re.compile(r"\b(?:teenager|teen|adolescent)\b", re.I)
_ADULT = re.compile(
    r"\b(?:man|woman|lady|gentleman|guy|adult|mother|father|mum|mom|dad|wife|husband|bride|groom|waiter|waitress)\b",
    re.I,
)
_FEMALE = re.compile(r"\b(?:woman|girl|lady|female|mother|mum|mom|wife|bride|actress|waitress|she|her|hers)\b", re.I)
_MALE = re.compile(r"\b(?:man|boy|guy|male|father|dad|husband|groom|gentleman|actor|waiter|he|him|his)\b", re.I)


def image_values(
    names: Sequence[str], given: dict[str, str], captions: Sequence[str], face: FoundFace | None
) -> dict[str, str | None]:
    """Return the attributes `names` of an image's person."""
    values: dict[str, str | None] = {name: given.get(name) for name in names}
    if GENDER in values and values[GENDER] is None:
        values[GENDER] = gender_of_captions(captions) or (face.gender if face else None)
    if AGE_GROUP in values and values[AGE_GROUP] is None:
        measured = age_group(face.age) if face is not None and face.age is not None else None
        values[AGE_GROUP] = age_group_of_captions(captions, measured)
    return values


def identity_values(names: Sequence[str], given: dict[str, str], faces: Iterable[FoundFace]) -> dict[str, str | None]:
    """Return the attributes `names` of an identity; the face engine counts by majority (gender) and median (age)."""
    values: dict[str, str | None] = {name: given.get(name) for name in names}
    known = list(faces)
    if GENDER in values and values[GENDER] is None:
        votes = Counter(face.gender for face in known if face.gender).most_common(2)
        tied = len(votes) == 2 and votes[0][1] == votes[1][1]
        values[GENDER] = votes[0][0] if votes and not tied else None
    ages = sorted(face.age for face in known if face.age is not None)
    if AGE_GROUP in values and values[AGE_GROUP] is None and ages:
        values[AGE_GROUP] = age_group(ages[len(ages) // 2])
    return values


def age_group(age: float) -> str:
    """Return the name of the age group of a person of `age` years."""
    return next(name for below, name in _AGE_GROUPS if age < below)


def gender_of_captions(captions: Sequence[str]) -> str | None:
    """Return the gender that captions of one person tell, when none of them contradicts."""
    female = any(_FEMALE.search(caption) for caption in captions)
    male = any(_MALE.search(caption) for caption in captions)
    if female == male:
        return None
    return "female" if female else "male"


def age_group_of_captions(captions: Sequence[str], measured: str | None = None) -> str | None:
    """Return the age group that captions of one person tell; what the face engine `measured` refines `adult`.

    Captions that contradict each other ("a boy", "a young man") are as good as none: then what was measured counts.
    """
    told = {
        group
        for group, words in ((CHILD, _CHILD), ("teenager", _TEENAGER), (ADULT, _ADULT))
        if any(words.search(caption) for caption in captions)
    }
    if len(told) != 1:
        return measured
    (group,) = told
    return measured if group == ADULT and measured in _GROWN_UP else group


def compatible(image: Values, identity: Values) -> bool:
    """Whether all values agree; an unknown one agrees with everything but a child."""
    return all(_agree(a, b) for a, b in zip(image, identity))


def _agree(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return CHILD not in (one, other)  # most people are adults, and nothing looks worse than one on a baby
    return one == other or {one, other} in ({ADULT, group} for group in _GROWN_UP)
