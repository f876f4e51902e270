"""Measures of a face pack: drawn people that it never saw -> detection and recognition as numbers.

Everything goes through the face engine, as for a user: detect, align, embed. People are those of the pool "faces" from
number `face_samples.UNSEEN` on.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from open_clip_idplugin.faces import Face, FaceEngine
from webdataset_tools.miniature.drawing import DrawnFace
from webdataset_tools.miniature.face_samples import POOL, UNSEEN, draw_photo, draw_scene_face
from webdataset_tools.miniature.people import sample_person
from webdataset_tools.miniature.scenes import STRATA

FALSE_ACCEPT_RATE = 1e-3
_PHOTOS = 4  # of a person; the first ones are the gallery, the last is the query
_CHUNK = 50  # people in memory at a time


def measure_pack(engine: FaceEngine, people: int = 400) -> dict[str, object]:
    """Detection and recognition on portraits and, by stratum, on scenes of `people` unseen people each.

    recall: share of drawn faces found (IoU over 0.5); precision: share of findings that are drawn faces;
    landmark_error: mean distance over the face's height; rank1: share of the faces found that are nearest to their own
    person's photos; tar: share of same-person pairs above the threshold that 1 in 1,000 different-person pairs pass.
    """
    numbers = range(UNSEEN, UNSEEN + people)
    photos = [_Found(people) for _ in range(_PHOTOS)]
    scenes = {stratum: _Found(people) for stratum in STRATA}
    for start in tqdm(range(0, people, _CHUNK), desc="measuring", unit="chunk"):
        chunk = numbers[start : start + _CHUNK]
        for index, found in enumerate(photos):
            # even numbers are people's own heads, as in a gallery
            found.add(engine, start, [draw_photo(sample_person(n, POOL), n, 2 * index) for n in chunk])
        for stratum, found in scenes.items():
            found.add(engine, start, [draw_scene_face(sample_person(n, POOL), n, 1, stratum) for n in chunk])
    gallery = _mean([found.embeddings for found in photos[:-1]])
    portraits = photos[-1]
    single = verification(portraits.embeddings, photos[0].embeddings)
    return {
        "people": people,
        "portraits": portraits.summary() | {"one_photo": single} | verification(portraits.embeddings, gallery),
        "scenes": {name: found.summary() | verification(found.embeddings, gallery) for name, found in scenes.items()},
    }


class _Found:
    """What an engine found in one picture of each person."""

    def __init__(self, people: int):
        self.embeddings = np.full((people, 512), np.nan, np.float32)
        self._hits = self._drawn = self._findings = 0
        self._errors: list[float] = []

    def add(self, engine: FaceEngine, start: int, drawn: Sequence[DrawnFace]) -> None:
        """Search the pictures of people `start`, `start + 1`, ..."""
        for offset, (truth, faces) in enumerate(zip(drawn, engine.detect_many([d.picture for d in drawn]))):
            self._drawn += 1
            self._findings += len(faces)
            best = max(faces, key=lambda face: overlap(face.box, truth.box), default=None)
            if best is not None and overlap(best.box, truth.box) > 0.5:
                self._hits += 1
                self._errors.append(landmark_error(best, truth))
                if best.embedding is not None:
                    self.embeddings[start + offset] = best.embedding

    def summary(self) -> dict[str, float | None]:
        """Recall, precision and landmark error."""
        return {
            "recall": _round(self._hits / max(1, self._drawn)),
            "precision": _round(self._hits / max(1, self._findings)),
            "landmark_error": _round(float(np.mean(self._errors))) if self._errors else None,
        }


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared + 1e-9)


def landmark_error(face: Face, truth: DrawnFace) -> float:
    """Mean distance of the five landmarks over the height of the face."""
    return float(np.linalg.norm(face.landmarks - truth.landmarks, axis=1).mean() / (truth.box[3] - truth.box[1]))


def verification(queries: np.ndarray, gallery: np.ndarray) -> dict[str, float | None]:
    """Unit rows [N, D] of the same N people, NaN where no face was found -> rank1, tar, mean similarities.

    All are None where too few faces were found to compare anybody with anybody else.
    """
    queried, known = np.isfinite(queries[:, 0]), np.isfinite(gallery[:, 0])
    both = queried & known
    if not both.any() or known.sum() < 2:
        return dict.fromkeys(("rank1", "tar", "same", "different"))
    similarity = queries[both] @ gallery[known].T
    own = np.flatnonzero(both[known])
    same = similarity[np.arange(len(own)), own]
    different = similarity[np.arange(similarity.shape[1])[None] != own[:, None]]
    threshold = np.quantile(different, 1 - FALSE_ACCEPT_RATE)
    return {
        "rank1": _round(float((similarity.argmax(1) == own).mean())),
        "tar": _round(float((same > threshold).mean())),
        "same": _round(float(same.mean())),
        "different": _round(float(different.mean())),
    }


def _mean(embeddings: list[np.ndarray]) -> np.ndarray:
    """Unit mean over several photos, of those where a face was found; NaN rows where none was."""
    stack = np.stack(embeddings)
    total = np.nansum(stack, axis=0)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(norm > 0, total / np.maximum(norm, 1e-9), np.nan)


def _round(value: float) -> float:
    return round(value, 4)
