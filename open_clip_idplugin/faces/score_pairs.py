"""Genuine and impostor pairs: faces of a collection, named or not -> cosines of pairs.

Role: which pairs of faces are compared for a calibration. Two faces of different people's names, or of one photograph, are
different people; two photos of one name are one person. Where no name is given, faces that the model itself groups are one
person, provisionally. Pairs share faces and people, so that each one notes whose it is: intervals are made by drawing people
again, not pairs.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.calibration import FMR_WARNINGS
from open_clip_idplugin.faces.face_table import FaceTable
from open_clip_idplugin.faces.grouping import group_faces
from open_clip_idplugin.faces.score_distributions import (
    FEWEST_GENUINES,
    GROUPS,
    LABELS,
    body_threshold,
    impostors_of,
    require_enough,
)

UNKNOWN = -1  # whose face it is
MOST_PAIRS = 400_000  # impostors, drawn at random where there are more
FEWEST_CERTAIN = 1000  # pairs that are surely different people, from which no other pairs are needed
LEAST_FACE = 32  # pixels of a face's shorter side: smaller ones look alike to a face model
_MOST_FACES = 10_000  # of a collection; photographs are drawn at random where it holds more
_MOST_OVERLAP = 0.2  # of two boxes of one photograph; beyond, a detector has found one face twice
_MOST_OF_A_PERSON = 40  # photos of one person that are compared with each other

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CollectedFaces:
    """N faces that are compared with each other.

    Attributes:
        embeddings: [N, D] float32, rows of length 1.
        people: [N] int64, whose face it is, `UNKNOWN` where nobody says.
        photos: [N] int64, the photograph.
        boxes: [N, 4] float32, x0, y0, x1, y1 in its pixels.
    """

    embeddings: Floats
    people: Ints
    photos: Ints
    boxes: Floats

    def __len__(self) -> int:
        return len(self.people)

    @classmethod
    def of_table(cls, table: FaceTable, least_face: float = LEAST_FACE, seed: int = 0) -> "CollectedFaces":
        """The faces of a table that are large enough: of `_MOST_FACES` at most, by whole photographs."""
        rows = table.face_of_embedding
        boxes = table.column("box")[rows]
        large = np.flatnonzero(np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) >= least_face)
        shards, keys = table.column("shard"), table.column("key")  # faces of a photograph stand together
        photos = np.cumsum(np.r_[False, (keys[1:] != keys[:-1]) | (shards[1:] != shards[:-1])][: len(keys)])[
            rows[large]
        ]
        if len(large) > _MOST_FACES:
            order = np.random.default_rng(seed).permutation(int(photos.max()) + 1)[photos]
            chosen = np.sort(np.argsort(order, kind="stable")[:_MOST_FACES])
            large, photos = large[chosen], photos[chosen]
        embeddings = np.asarray(table.embeddings[large], np.float32)
        return cls(embeddings, np.full(len(large), UNKNOWN), photos, boxes[large])

    @classmethod
    def together(cls, parts: Sequence["CollectedFaces"]) -> "CollectedFaces":
        """All of several collections; photographs and people of different ones are different."""
        people: list[Ints] = []
        photos: list[Ints] = []
        for part in parts:
            first_photo = max((int(one.max(initial=-1)) for one in photos), default=-1) + 1
            first_person = max((int(one.max(initial=-1)) for one in people), default=-1) + 1
            photos.append(part.photos + first_photo)
            people.append(np.where(part.people == UNKNOWN, UNKNOWN, part.people + first_person))
        return cls(
            np.concatenate([part.embeddings for part in parts]),
            np.concatenate(people),
            np.concatenate(photos),
            np.concatenate([part.boxes for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """Cosines of pairs, and what they share.

    Attributes:
        impostors: [I] float32, of different people; genuines: [G] float32, of different photos of one person.
        units: [I, 2] int64, the two people, or photographs of unknown ones, of each impostor pair.
        origin: how genuine pairs are known, `calibration.LABELS` or `GROUPS`.
        how: where the impostors come from, in words.
    """

    impostors: Floats
    genuines: Floats
    units: Ints
    origin: str
    how: str


def collect_scores(faces: CollectedFaces, seed: int = 0, groups: bool = True) -> Scores:
    """Compare the faces of a collection.

    Impostors are the pairs that are surely different people. Where these are few, other pairs count as well, up to the cosine
    from which the body of the scores leaves no impostor to expect: what lies above is one person, or cannot be told from it.

    Args:
        faces: to be compared.
        seed: of the pairs that are drawn where there are too many.
        groups: look for genuine pairs where nobody is named.

    Raises:
        CalibrationError: fewer than `score_distributions.FEWEST_IMPOSTORS` pairs in all.
    """
    first, second = _some_pairs(len(faces), seed)
    together = faces.photos[first] == faces.photos[second]
    named = (faces.people[first] != UNKNOWN) & (faces.people[second] != UNKNOWN)
    other_names = named & (faces.people[first] != faces.people[second])
    certain = other_names & ~together
    one_photo = _within(faces.photos, np.arange(len(faces)))
    one_photo = _apart(faces, *one_photo)
    ends = np.stack([np.concatenate([first[certain], one_photo[0]]), np.concatenate([second[certain], one_photo[1]])])
    cosines, how = _cosines(faces.embeddings, *ends), "other names, or one photograph"
    if len(cosines) < FEWEST_CERTAIN and not named.all():
        unsure = ~named & ~together
        ends = np.concatenate([ends, [first[unsure], second[unsure]]], axis=1)
        sure = np.arange(ends.shape[1]) < len(cosines)
        cosines, how = _cosines(faces.embeddings, *ends), f"{how}, or different photographs"
        require_enough(len(cosines))
        alike = body_threshold(
            cosines, max(1 / len(cosines), FMR_WARNINGS)
        )  # one impostor of all is expected to reach it
        kept = sure | (cosines < alike)
        ends, cosines = ends[:, kept], cosines[kept]
    else:
        alike = impostors_of(cosines).threshold(FMR_WARNINGS)
    genuines, origin = _cosines(faces.embeddings, *_named_pairs(faces)), LABELS
    if groups and len(genuines) < FEWEST_GENUINES and not (faces.people != UNKNOWN).all():
        people = _groups(faces.embeddings, alike)
        genuines, origin = _cosines(faces.embeddings, *_within(people, faces.photos)), GROUPS
    units = np.where(faces.people == UNKNOWN, faces.photos, faces.photos.max(initial=0) + 1 + faces.people)
    return Scores(cosines, genuines, units[ends].T, origin, how)


def _named_pairs(faces: CollectedFaces) -> tuple[Ints, Ints]:
    """Different photos of one name."""
    named = np.flatnonzero(faces.people != UNKNOWN)
    first, second = _within(faces.people[named], faces.photos[named])
    return named[first], named[second]


def _groups(embeddings: Floats, threshold: float) -> Ints:
    """[N] whose face each is, as far as the model itself tells: a number of its own for whoever is in no group.

    Without scikit-learn nobody is grouped.
    """
    people = np.arange(len(embeddings), dtype=np.int64)
    with contextlib.suppress(ModuleNotFoundError):
        for rows in group_faces(embeddings, threshold, 2):
            people[rows] = rows[0]
    return people


def _some_pairs(count: int, seed: int) -> tuple[Ints, Ints]:
    """All pairs of `count`, or `MOST_PAIRS` of them at random."""
    if count * (count - 1) // 2 <= MOST_PAIRS:
        first, second = np.triu_indices(count, 1)
        return first.astype(np.int64), second.astype(np.int64)
    rng = np.random.default_rng(seed)
    first, second = rng.integers(count, size=MOST_PAIRS), rng.integers(count - 1, size=MOST_PAIRS)
    return first, second + (second >= first)


def _within(groups: Ints, photos: Ints) -> tuple[Ints, Ints]:
    """Pairs of one group and different photographs; of large groups the first members."""
    pairs = [np.zeros((2, 0), np.int64)]
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        rows = rows[:_MOST_OF_A_PERSON]
        first, second = np.triu_indices(len(rows), 1)
        first, second = rows[first], rows[second]
        apart = photos[first] != photos[second]
        pairs.append(np.stack([first[apart], second[apart]]))
    first, second = np.concatenate(pairs, axis=1)
    return first, second


def _apart(faces: CollectedFaces, first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Those pairs of one photograph whose boxes hardly overlap: the others are one face, found twice."""
    one, other = faces.boxes[first], faces.boxes[second]
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    smaller = np.minimum(np.prod(one[:, 2:] - one[:, :2], axis=1), np.prod(other[:, 2:] - other[:, :2], axis=1))
    apart = shared <= _MOST_OVERLAP * smaller
    return first[apart], second[apart]


def _cosines(embeddings: Floats, first: Ints, second: Ints, block: int = 1 << 16) -> Floats:
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), block):
        part = slice(start, start + block)
        found[part] = np.einsum("nd,nd->n", embeddings[first[part]], embeddings[second[part]])
    return found
