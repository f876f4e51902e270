"""Scenes: a seed -> what happens where (Scene) -> a picture with one person in it (DrawnScene).

Role: the context half of the miniature. Each property of a scene comes from a stream of its own. The body person gives
hair, build and hands, the face person the face; drawing the same scene with another face changes the face region alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from webdataset_tools.miniature import hair
from webdataset_tools.miniature.body import Clothes, Figure, draw_arm, draw_body
from webdataset_tools.miniature.drawing import FacePose, HeadFrame, apply_camera, locate_face, paint_head
from webdataset_tools.miniature.identity_photos import sample_pose
from webdataset_tools.miniature.objects import draw_object
from webdataset_tools.miniature.occluders import OCCLUDERS, STANDING, draw_occluder
from webdataset_tools.miniature.palette import CLOTHES
from webdataset_tools.miniature.people import Person, swap_face
from webdataset_tools.miniature.places import PLACES, draw_place
from webdataset_tools.miniature.streams import stream

SIZE = 192
PLACE, PERSON, THING = 0, 1, 2  # what a pixel shows: the place, the person, the thing held
# Shares of the strata in per cent: some two fifths of the scenes are hard, as archives are.
STRATA = {"plain": 58, "small": 12, "turned": 10, "occluded": 8, "dark": 6, "blurred": 6}
# What each activity holds; the hands' places are below, offsets from the middle of the shoulders in frame units.
ACTIVITIES: dict[str, tuple[str, ...]] = {
    "holding": (
        "cup",
        "soccer ball",
        "basketball",
        "flowers",
        "pizza",
        "cake",
        "teddy bear",
        "cat",
        "guitar",
        "camera",
        "gift",
        "laptop",
        "pumpkin",
    ),
    "raising": ("umbrella", "kite", "frisbee", "tennis racket", "balloon", "flag", "baseball bat", "trophy"),
    "carrying": ("suitcase", "handbag", "surfboard", "skateboard"),
    "reading": ("book", "newspaper"),
    "phoning": ("phone",),
    "waving": (),
    "pointing": (),
    "standing": (),
}
_ACTIVITY_WEIGHTS = {
    "holding": 34,
    "raising": 22,
    "carrying": 9,
    "reading": 8,
    "phoning": 5,
    "waving": 7,
    "pointing": 6,
    "standing": 9,
}
_HANDS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "holding": ((-46, 122), (46, 122)),
    "raising": ((-104, 205), (142, -34)),
    "carrying": ((-112, 205), (128, 84)),
    "reading": ((-56, 116), (56, 116)),
    "phoning": ((-104, 205), (60, -62)),
    "waving": ((-104, 205), (156, -50)),
    "pointing": ((-104, 205), (212, 4)),
    "standing": ((-104, 205), (104, 205)),
}
GARMENTS = ("shirt", "jacket", "sweater", "striped shirt", "coat")


@dataclass(frozen=True)
class Scene:
    """What a picture shows, all but the person. `face_share` is the face height over the picture's height."""

    seed: int
    place: str
    activity: str  # a key of ACTIVITIES
    held: str | None  # a key of objects.OBJECTS
    held_colour: str  # a key of palette.CLOTHES
    garment: str
    top_colour: str
    bottom_colour: str
    stratum: str  # a key of STRATA
    occluder: str | None  # a key of occluders.OCCLUDERS
    face_share: float
    place_x: float  # of the face's middle, 0 ... 1
    place_y: float
    mirrored: bool  # activities of the right hand move to the left
    pose: FacePose


@dataclass(frozen=True)
class DrawnScene:
    """A picture uint8 [S, S, 3] RGB and what is known about it: landmarks float32 [5, 2] and boxes float32 [4], in pixels."""

    picture: np.ndarray
    landmarks: np.ndarray
    face_box: np.ndarray
    person_box: np.ndarray
    stratum: str


def sample_scene(seed: int, stratum: str | None = None) -> Scene:
    """Return scene number `seed` (>= 0); `stratum` forces one without changing anything that does not depend on it."""
    drawn = _weighted(seed, "stratum", STRATA)
    stratum = stratum or drawn
    activity = _weighted(seed, "activity", _ACTIVITY_WEIGHTS)
    things = ACTIVITIES[activity]
    colours = tuple(CLOTHES)
    place_rng, frame_rng = stream(seed, "place"), stream(seed, "framing")
    top = colours[int(stream(seed, "top").integers(len(colours)))]
    share = _face_share(stratum, activity, frame_rng.random())
    mirrored = bool(stream(seed, "mirror").random() < 0.5)
    return Scene(
        seed=seed,
        place=tuple(PLACES)[int(place_rng.integers(len(PLACES)))],
        activity=activity,
        held=things[int(stream(seed, "held").integers(len(things)))] if things else None,
        held_colour=colours[int(stream(seed, "held colour").integers(len(colours)))],
        garment=GARMENTS[int(stream(seed, "garment").integers(len(GARMENTS)))],
        top_colour=top,
        bottom_colour=("black", "blue", "brown", "gray")[int(stream(seed, "bottom").integers(4))],
        stratum=stratum,
        occluder=tuple(OCCLUDERS)[int(stream(seed, "occluder").integers(len(OCCLUDERS)))]
        if stratum == "occluded"
        else None,
        face_share=share,
        place_x=_sideways(stratum, activity, mirrored, frame_rng.random()),
        place_y=_height(stratum, activity, share, frame_rng.random()),
        mirrored=mirrored,
        pose=_pose(seed, stratum),
    )


def draw_scene(scene: Scene, body: Person, face: Person | None = None, size: int = SIZE) -> DrawnScene:
    """Draw `scene` with `body` in it, wearing the face of `face` (None: their own). Equal inputs give equal pixels."""
    person = body if face is None else swap_face(body, face)
    canvas = _background(scene.place, scene.seed, size).copy()
    frame = _head_frame(scene, size)
    for _, paint in _layers(scene, person, frame):
        paint(canvas)
    landmarks, box = locate_face(person.face, scene.pose, frame)
    return DrawnScene(
        picture=apply_camera(canvas, scene.pose, stream(scene.seed, "noise")),
        landmarks=landmarks,
        face_box=box,
        person_box=_person_box(_figure(frame), frame, size),
        stratum=scene.stratum,
    )


def visible_parts(scene: Scene, person: Person, size: int = SIZE) -> np.ndarray:
    """Return what each pixel of the drawn scene shows, uint8 [size, size]: PLACE, PERSON or THING."""
    parts = np.zeros((size, size), np.uint8)
    for part, paint in _layers(scene, person, _head_frame(scene, size)):
        black, white = (np.full((size, size, 3), value, np.uint8) for value in (0, 255))
        paint(black)
        paint(white)  # where both look alike, the paint covers
        parts[(white[:, :, 1].astype(np.int16) - black[:, :, 1]) < 128] = part
    return parts


@lru_cache(maxsize=2)
def _background(place: str, seed: int, size: int) -> np.ndarray:
    """Return the empty place; faces are swapped into one scene after another, which saves most of its drawing."""
    canvas = np.zeros((size, size, 3), np.uint8)
    draw_place(canvas, place, stream(seed, "background"))
    return canvas


def face_box(scene: Scene, face: Person, size: int = SIZE) -> np.ndarray:
    """Return the box [4] that `draw_scene` gives the face, without drawing."""
    return locate_face(face.face, scene.pose, _head_frame(scene, size))[1]


def _head_frame(scene: Scene, size: int) -> HeadFrame:
    return HeadFrame(scene.pose, scene.face_share * size / 105, (scene.place_x * size, scene.place_y * size))


def _figure(frame: HeadFrame) -> Figure:
    return Figure((frame.centre[0], frame.centre[1] + 80 * frame.scale), frame.scale)


def _layers(scene: Scene, person: Person, frame: HeadFrame) -> Iterator[tuple[int, Callable[[np.ndarray], object]]]:
    """Yield (what it shows, a function that paints it) from back to front: the person and what is with them."""
    figure = _figure(frame)
    clothes = Clothes(scene.garment, CLOTHES[scene.top_colour], CLOTHES[scene.bottom_colour])
    yield PERSON, lambda canvas: hair.draw_back_hair(canvas, person.head, scene.pose, frame)
    yield PERSON, lambda canvas: draw_body(canvas, person, clothes, figure)
    yield PERSON, lambda canvas: paint_head(canvas, person, scene.pose, frame, figure.shoulders)
    if (occluder := scene.occluder) is not None:
        worn = PLACE if occluder in STANDING else PERSON
        yield worn, lambda canvas: draw_occluder(canvas, occluder, frame, CLOTHES[scene.held_colour])
    turn = -1.0 if scene.mirrored else 1.0
    left, right = _HANDS[scene.activity]
    both = scene.activity in ("holding", "reading")
    grip = ((left[0] + right[0]) / 2, left[1] - 8) if both else right
    arms = [
        lambda canvas: draw_arm(canvas, person, clothes, figure, -turn, (turn * left[0], left[1])),
        lambda canvas: draw_arm(canvas, person, clothes, figure, turn, (turn * right[0], right[1])),
    ]
    yield PERSON, arms[0]
    if not both:
        yield PERSON, arms[1]
    if (held := scene.held) is not None:
        place = figure.at((turn * grip[0], grip[1]))
        yield THING, lambda canvas: draw_object(canvas, held, place, figure.scale, CLOTHES[scene.held_colour])
    if both:
        yield PERSON, arms[1]


def _person_box(figure: Figure, frame: HeadFrame, size: int) -> np.ndarray:
    top = frame.project(np.array([[56.0, -16.0, 0.0]]))[0, 1]
    corners = np.concatenate([figure.at((-130, 0)), figure.at((130, 630))])
    corners[1] = top
    return np.clip(corners, 0, size - 1).astype(np.float32)


def _face_share(stratum: str, activity: str, place: float) -> float:
    """Return the face height as a share of the picture; scenes with a held thing need room for it."""
    if stratum == "small":
        return 0.075 + 0.055 * place
    if activity in ("holding", "reading"):
        return 0.23 + 0.09 * place
    if activity in ("raising", "carrying"):
        return 0.22 + 0.08 * place
    return 0.24 + 0.18 * place


def _sideways(stratum: str, activity: str, mirrored: bool, place: float) -> float:
    """Return how far right the face's middle is; a hand at one side moves the person to the other."""
    if stratum == "small":
        return 0.28 + 0.44 * place
    aside = {"raising": 0.07, "carrying": 0.07, "waving": 0.05, "pointing": 0.10, "phoning": 0.03}.get(activity, 0.0)
    return 0.44 + 0.12 * place + (aside if mirrored else -aside)


def _height(stratum: str, activity: str, share: float, place: float) -> float:
    """Return the height of the face's middle."""
    if stratum == "small":
        return 0.36 + 0.16 * place
    base = 0.46 if activity == "raising" else 0.34
    return base + 0.08 * place + (share - 0.22) * 0.25


def _pose(seed: int, stratum: str) -> FacePose:
    """Return the pose of the scene's head and its light; hard strata turn, darken or blur it."""
    pose = replace(sample_pose(stream(seed, "pose"), turn=14.0), blur=0.0, noise=2.0)
    rng = stream(seed, "hardship")
    if stratum == "turned":
        side = -1.0 if rng.random() < 0.5 else 1.0
        return replace(pose, yaw=side * float(rng.uniform(48, 86)), pitch=float(rng.uniform(-8, 26)))
    if stratum == "dark":
        return replace(pose, exposure=float(rng.uniform(0.16, 0.34)), noise=float(rng.uniform(6, 11)), warmth=-0.6)
    if stratum == "blurred":
        return replace(pose, blur=float(rng.uniform(2.0, 3.4)))
    return replace(pose, exposure=float(np.clip(pose.exposure, 0.8, 1.06)))


def _weighted(seed: int, label: str, weights: dict[str, int]) -> str:
    place = stream(seed, label).random() * sum(weights.values())
    for name, weight in weights.items():
        place -= weight
        if place < 0:
            return name
    return name
