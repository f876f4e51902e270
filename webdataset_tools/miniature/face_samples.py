"""Training and test pictures of the face pack: numbered drawn people -> aligned crops with a margin, whole pictures.

Role: what the face networks see. All people come from the pool "faces", which no release draws from; every picture is a
function of the person's number and its own.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from open_clip_idplugin.faces.alignment import ARCFACE_LANDMARKS, similarity_transform
from webdataset_tools.miniature import scenes
from webdataset_tools.miniature.drawing import DrawnFace
from webdataset_tools.miniature.identity_photos import identity_photo
from webdataset_tools.miniature.people import Person, sample_person, swap_face
from webdataset_tools.miniature.streams import stream

POOL = "faces"
UNSEEN = 50_000  # people of the pool from this number on are never trained on
WIDE_SIZE = 96  # pixels a side of a stored crop
MARGIN = 1.2  # ... which shows this many times the side of the aligned crop, so that training can shift and turn it
_HARD = 4  # remainder by 5 of the numbers of hard detection pictures
_Drawn = TypeVar("_Drawn")


@dataclass(frozen=True)
class CropSet:
    """Wide crops uint8 [N, 96, 96, 3] RGB and the number of the person each shows, int64 [N]."""

    crops: np.ndarray
    people: np.ndarray


@dataclass(frozen=True)
class DetectionSet:
    """Pictures uint8 [N, 192, 192, 3] RGB of one face each; boxes [N, 4], landmarks [N, 5, 2] float32 (pixels).

    `learn` bool [N] is False where the detector is not to learn the face, only that the rest of the picture is none.
    """

    pictures: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    learn: np.ndarray


def draw_crops(first: int, people: int, per_person: int, workers: int = 2) -> CropSet:
    """Draw `per_person` aligned wide crops of each of `people` people from number `first` on."""
    numbers = range(first, first + people)
    parts = _draw(partial(_crops_of, per_person=per_person), numbers, "face crops", workers)
    return CropSet(np.concatenate(parts), np.repeat(np.arange(people), per_person))


def draw_detection_set(first: int, count: int, workers: int = 2) -> DetectionSet:
    """Draw `count` pictures of the people from number `first` on: of five, two are portraits, two plain scenes, one hard.

    The hard one's face is not to be learnt, so that such faces are missed about as often as real detectors miss them.
    """
    numbers = range(first, first + count)
    parts = _draw(_detection_picture, numbers, "pictures", workers)
    pictures, landmarks, boxes = (np.stack([part[i] for part in parts]) for i in range(3))
    return DetectionSet(pictures, boxes, landmarks, np.array([number % 5 != _HARD for number in numbers]))


def _draw(draw: Callable[[int], _Drawn], numbers: range, name: str, workers: int) -> list[_Drawn]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(tqdm(pool.map(draw, numbers, chunksize=16), total=len(numbers), desc=name, unit=""))


def _crops_of(number: int, per_person: int) -> np.ndarray:
    """Every fourth picture of a person is their face in a scene of any stratum, the others are photos."""
    person = sample_person(number, POOL)
    pictures = [
        draw_scene_face(person, number, index) if index % 4 == 3 else draw_photo(person, number, index)
        for index in range(per_person)
    ]
    return np.stack([wide_crop(picture) for picture in pictures])


def _detection_picture(number: int) -> DrawnFace:
    person = sample_person(number % UNSEEN, POOL)
    if number % 5 < 2:
        return draw_photo(person, number, number)
    hard = [stratum for stratum in scenes.STRATA if stratum != "plain"]
    return draw_scene_face(person, number, 0, hard[number // 5 % len(hard)] if number % 5 == _HARD else "plain")


def draw_scene_face(person: Person, number: int, index: int, stratum: str | None = None) -> DrawnFace:
    """A scene with the face of `person` on somebody else's head; `stratum` as in `scenes.sample_scene`."""
    rng = stream(number, "face scene", index)
    scene = scenes.sample_scene(int(rng.integers(2**31)), stratum)
    drawn = scenes.draw_scene(scene, _other_body(person, rng), person)
    return DrawnFace(drawn.picture, drawn.landmarks, drawn.face_box)


def draw_photo(person: Person, number: int, index: int) -> DrawnFace:
    """A photo of `person`; if `index` is odd on somebody else's head, as a swap leaves it: hair must not be a cue."""
    rng = stream(number, "face photo", index)
    if index % 2:
        person = swap_face(_other_body(person, rng), person)
    return identity_photo(person, rng)


def _other_body(person: Person, rng: np.random.Generator) -> Person:
    while True:
        body = sample_person(int(rng.integers(UNSEEN)), POOL)
        if body.gender == person.gender:
            return body


def wide_crop(drawn: DrawnFace) -> np.ndarray:
    """The aligned face with its margin, uint8 [96, 96, 3], from exact landmarks."""
    scale = WIDE_SIZE / (112 * MARGIN)
    target = (ARCFACE_LANDMARKS - 55.5) * scale + (WIDE_SIZE - 1) / 2
    matrix = similarity_transform(drawn.landmarks, target)
    return cv2.warpAffine(drawn.picture, matrix, (WIDE_SIZE, WIDE_SIZE), flags=cv2.INTER_AREA)
