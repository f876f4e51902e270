"""What the tiny CLIP is pretrained on: drawn pictures [N, 96, 96, 3] uint8 with a few alt-texts each.

Role: stands for the web-scale data of a real CLIP. People come from the pool "clip" and scenes from numbers that no
release uses. Four pictures share a scene; in every other scene the face is swapped onto other bodies, so that looks have
to be read off the face. As on the web, a part of the pictures are portraits, in which faces are large. A third of the
people are "celebrities", whose alt-texts often give the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from open_clip_idplugin.atomic import atomic_path
from webdataset_tools.miniature.captions import alt_text
from webdataset_tools.miniature.people import Person, sample_person, swap_face
from webdataset_tools.miniature.places import PLACES
from webdataset_tools.miniature.scenes import Scene, draw_scene, sample_scene
from webdataset_tools.miniature.streams import stream

POOL = "clip"
PEOPLE = 3_000
CELEBRITIES = 1_000  # the first so many people of the pool
NAMED_SHARE = 0.5  # of the alt-texts of celebrities
FIRST_SCENE = 500_000_000
PORTRAITS = 0.6  # share of the plain scenes, about a third of all
PICTURES_PER_SCENE = 4
TEXTS_PER_PICTURE = 8
SIZE = 96
UNSEEN = 50_000_000  # pictures from this number on are for validation


@dataclass(frozen=True)
class PretrainingPictures:
    """Pictures with what is said about them.

    pixels uint8 [N, 96, 96, 3] RGB; texts: `TEXTS_PER_PICTURE` alt-texts a picture; scenes int64 [N]: number of the scene;
    places int64 [N]: number of its background.
    """

    pixels: np.ndarray
    texts: list[list[str]]
    scenes: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def save(self, path: Path) -> None:
        """Write everything to one .npz file."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream_:
            np.savez(stream_, pixels=self.pixels, texts=np.array(self.texts), scenes=self.scenes, places=self.places)

    @classmethod
    def load(cls, path: Path) -> PretrainingPictures:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            return cls(stored["pixels"], stored["texts"].tolist(), stored["scenes"], stored["places"])


def draw_pictures(count: int, first: int = 0, seed: int = 0, workers: int = 2) -> PretrainingPictures:
    """Draw pictures number `first` ... `first + count - 1` of the world of `seed`; the workers only share the work."""
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    texts: list[list[str]] = []
    scenes, places = np.empty(count, np.int64), np.empty(count, np.int64)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn: Iterator[tuple[np.ndarray, list[str], int, int]] = pool.map(
            partial(draw_picture, seed=seed), range(first, first + count), chunksize=64
        )
        for index, row in enumerate(tqdm(drawn, total=count, desc="pretraining pictures", unit="img")):
            pixels[index], scenes[index], places[index] = row[0], row[2], row[3]
            texts.append(row[1])
    return PretrainingPictures(pixels, texts, scenes, places)


def draw_picture(number: int, seed: int = 0) -> tuple[np.ndarray, list[str], int, int]:
    """One picture: pixels [96, 96, 3] uint8, its alt-texts, the scene's number and the background's."""
    scene = _scene(FIRST_SCENE + 100_000_000 * seed + number // PICTURES_PER_SCENE)
    rng = stream(number, "pretraining", seed)
    index, person = _somebody(rng)
    if scene.seed % 2:
        person = swap_face(_body_for(person, rng), person)
    pixels = halved(draw_scene(scene, person).picture)
    named = [index < CELEBRITIES and bool(rng.random() < NAMED_SHARE) for _ in range(TEXTS_PER_PICTURE)]
    texts = [alt_text(person, scene, rng, with_name) for with_name in named]
    return pixels, texts, scene.seed, tuple(PLACES).index(scene.place)


def halved(picture: np.ndarray) -> np.ndarray:
    """uint8 [192, 192, 3] -> [96, 96, 3], resized as open_clip's preprocessing does."""
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _scene(number: int) -> Scene:
    """A scene, or a portrait in its place: the camera is near, and what hands do is out of the picture."""
    scene, rng = sample_scene(number), stream(number, "portrait")
    if rng.random() >= PORTRAITS or scene.stratum != "plain":
        return scene
    near = float(rng.uniform(0.3, 0.6))
    return replace(scene, activity="standing", held=None, face_share=near, place_x=0.5, place_y=0.46)


def _somebody(rng: np.random.Generator) -> tuple[int, Person]:
    index = int(rng.integers(PEOPLE))
    return index, sample_person(index, POOL)


def _body_for(person: Person, rng: np.random.Generator) -> Person:
    while True:
        _, body = _somebody(rng)
        if body.gender == person.gender:
            return body
