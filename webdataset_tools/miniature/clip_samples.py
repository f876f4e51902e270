"""Samples for pretraining the tiny CLIP: a seed -> pictures [N, 96, 96, 3] uint8, a few alt-texts each, and labels of them.

Role: stands for the web-scale data of a real CLIP. People come from the pool "clip" and scenes from numbers that no
release uses. Four pictures share a scene; in every other scene the face is swapped onto other bodies, so that looks have
to be read off the face. Every picture can also be cut down to a head, as the web's many portraits are. Two thirds of the
people are "celebrities", whose alt-texts often give the name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from open_clip_idplugin.storage.atomic import atomic_path
from webdataset_tools.miniature.captions import alt_text, scene_captions
from webdataset_tools.miniature.people import Person, sample_person, swap_face
from webdataset_tools.miniature.places import PLACES
from webdataset_tools.miniature.scenes import draw_scene, sample_scene
from webdataset_tools.miniature.streams import stream

POOL = "clip"
PEOPLE = 900
CELEBRITIES = 600  # the first so many people of the pool
NAMED_SHARE = 0.5  # of the alt-texts of celebrities
FIRST_SCENE = 500_000_000
PICTURES_PER_SCENE = 4
TEXTS_PER_PICTURE = 8
SIZE = 96
HEAD_SIZE = 48
UNSEEN = 50_000_000  # pictures from this number on are for validation
_WORD = re.compile(r"[a-z]+|[,.:]")
# Words that say nothing about a picture: their coming and going is noise in the labels.
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "before",
        "beside",
        "by",
        "dressed",
        "in",
        "is",
        "near",
        "of",
        "on",
        "photo",
        "picture",
        "portrait",
        "some",
        "the",
        "there",
        "to",
        "wearing",
        "who",
        "with",
    ]
)
# Groups in nearly every text, or in hardly any, teach nothing.
_MOST = 0.6
_FEWEST = 15


@dataclass(frozen=True)
class PretrainingPictures:
    """Pictures with what is said about them.

    pixels uint8 [N, 96, 96, 3] RGB; texts: `TEXTS_PER_PICTURE` alt-texts a picture; scenes int64 [N]: number of the scene;
    places int64 [N]: number of its background; centres int64 [N, 2]: x and y of the middle of the face, in pixels.
    """

    pixels: np.ndarray
    texts: list[list[str]]
    scenes: np.ndarray
    places: np.ndarray
    centres: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def heads(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, 48, 48, 3]: the surroundings of the faces of some pictures, not enlarged."""
        corners = np.clip(self.centres[rows] - HEAD_SIZE // 2, 0, SIZE - HEAD_SIZE)
        return np.stack([self.pixels[r, y : y + HEAD_SIZE, x : x + HEAD_SIZE] for r, (x, y) in zip(rows, corners)])

    def save(self, path: Path) -> None:
        """Write everything to one .npz file."""
        with atomic_path(path) as temporary, temporary.open("wb") as target:
            np.savez(target, **{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> PretrainingPictures:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            arrays = dict(stored)
        return cls(**{**arrays, "texts": arrays["texts"].tolist()})


def draw_pictures(count: int, first: int = 0, seed: int = 0, workers: int = 2) -> PretrainingPictures:
    """Draw pictures number `first` ... `first + count - 1` of the world of `seed`; the workers only share the work."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = pool.map(partial(draw_picture, seed=seed), range(first, first + count), chunksize=64)
        rows = list(tqdm(drawn, total=count, desc="pretraining pictures", unit="img"))
    pixels, texts, scenes, places, centres = zip(*rows)
    return PretrainingPictures(np.stack(pixels), list(texts), np.array(scenes), np.array(places), np.array(centres))


def draw_picture(number: int, seed: int = 0) -> tuple[np.ndarray, list[str], int, int, tuple[int, int]]:
    """One picture: what `PretrainingPictures` holds of it, in that order."""
    scene = sample_scene(FIRST_SCENE + 100_000_000 * seed + number // PICTURES_PER_SCENE)
    rng = stream(number, "pretraining", seed)
    index, person = _somebody(rng)
    if scene.seed % 2:
        person = swap_face(_body_for(person, rng), person)
    drawn = draw_scene(scene, person)
    named = [index < CELEBRITIES and bool(rng.random() < NAMED_SHARE) for _ in range(TEXTS_PER_PICTURE)]
    texts = [alt_text(person, scene, rng, with_name) for with_name in named]
    x, y = (drawn.landmarks.mean(0) * SIZE / drawn.picture.shape[0]).round().astype(int).tolist()
    return halved(drawn.picture), texts, scene.seed, tuple(PLACES).index(scene.place), (x, y)


def halved(picture: np.ndarray) -> np.ndarray:
    """uint8 [192, 192, 3] -> [96, 96, 3], resized as open_clip's preprocessing does."""
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _somebody(rng: np.random.Generator) -> tuple[int, Person]:
    index = int(rng.integers(PEOPLE))
    return index, sample_person(index, POOL)


def _body_for(person: Person, rng: np.random.Generator) -> Person:
    while True:
        _, body = _somebody(rng)
        if body.gender == person.gender:
            return body


def captions_of_scenes(count: int) -> list[str]:
    """COCO-like captions of the first scenes, as they are written in a release."""
    scenes = [sample_scene(FIRST_SCENE + number) for number in range(count)]
    return [text for s in scenes for text in scene_captions(s, "mf"[s.seed % 2], stream(s.seed, "vocabulary"))]


def groups_of(text: str) -> set[str]:
    """The words of a text that say something, in lower case, and the pairs of them that are neighbours."""
    words = _WORD.findall(text.lower())
    telling = [word.isalpha() and word not in _STOP_WORDS for word in words]
    singles = {word for word, tells in zip(words, telling) if tells}
    pairs = pairwise(zip(words, telling))
    return singles | {f"{first} {second}" for (first, tells), (second, also) in pairs if tells and also}


def choose_groups(texts: Iterable[Iterable[str]], most: int) -> list[str]:
    """The `most` commonest groups among pictures (each with its texts), neither everywhere nor rare; commonest first."""
    counts: Counter[str] = Counter()
    pictures = 0
    for of_picture in texts:
        pictures += 1
        counts.update(set().union(*(groups_of(text) for text in of_picture)))
    kept = [group for group, count in counts.items() if _FEWEST <= count <= _MOST * pictures]
    return sorted(kept, key=lambda group: (-counts[group], group))[:most]


def group_targets(texts: list[list[str]], groups: list[str]) -> np.ndarray:
    """bool [N, G]: which groups any of a picture's texts holds.

    After SuperClass (Huang et al., "Classification Done Right for Vision-Language Pre-Training", arXiv 2411.03313): an image
    encoder learns by predicting which pieces of text go with a picture. Here the pieces are single words and pairs of
    neighbours, since "red" says less than "red shirt".
    """
    numbers = {group: number for number, group in enumerate(groups)}
    targets = np.zeros((len(texts), len(groups)), bool)
    for row, of_picture in enumerate(texts):
        for text in of_picture:
            targets[row, [numbers[group] for group in groups_of(text) if group in numbers]] = True
    return targets
