"""Late fusion: similarities of whole images and of their faces -> one score.

Role: pure arithmetic, the only one: the search service and the evaluation both rank by it, so that what is measured is what is
served. `context` is the cosine of query and image; `face` the cosine of the person and the best matching face of the image.
Both are arrays whose last axis is the images, of numpy or torch unless stated.

Face models have scales of their own, so that cosines of faces are standardised before they are added: how many deviations
they lie above the mean of different people (see `faces.calibration`), times `FACE_SCALE`. One weight then fits every model.

Where no face was found, `face` says nothing: `Fusion.unseen` takes its place, a cosine between strangers' and the
person's. A low one, such as what unrelated faces have, would count a face that was missed as somebody
else's.
"""

from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np

from open_clip_idplugin.faces.calibration import FMR_NAMES, REFERENCE_DEVIATION, Calibration

WEIGHTED, RECIPROCAL_RANK, FILTER, NONE = "weighted", "reciprocal_rank", "filter", "none"
RULES = (WEIGHTED, RECIPROCAL_RANK, FILTER, NONE)
FACE_WEIGHT = 0.5  # of the face where the rule adds scores, unless it was tuned
FACE_SCALE = REFERENCE_DEVIATION  # what one deviation of a face counts beside a cosine of query and image
RANK_OFFSET = 60  # of reciprocal ranks: how little the very first places count more than the next
DIGITS = 6  # of cosines and their sums: what is closer ties, and is ordered by row
_BELOW_ALL = 4.0  # contexts lie in [-2, 2]
_NOBODY = -2.0  # below every threshold

Scores = Any  # np.ndarray or torch.Tensor


@dataclass(frozen=True)
class Fusion:
    """A rule with its numbers.

    weight: of the face, the rule's own where it is not given; threshold: of the filter; unseen: the face cosine of an image in
    which no face was found; mean, deviation: of the face cosines of different people. The filter puts images without a face
    after all others, with those of other people.
    """

    rule: str = WEIGHTED
    weight: float = nan
    threshold: float = 0.0
    unseen: float = 0.0
    mean: float = 0.0
    deviation: float = FACE_SCALE

    def __post_init__(self) -> None:
        if isnan(self.weight):
            object.__setattr__(self, "weight", 1.0 if self.rule == RECIPROCAL_RANK else FACE_WEIGHT)

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        rule: str = WEIGHTED,
        weight: float | None = None,
        threshold: float | None = None,
        unseen: float | None = None,
    ) -> "Fusion":
        """A rule on the scale of a face model; what is not given follows from the model's calibration.

        threshold, unseen: cosines; without them the one that different people reach with the false match rate of names, and
        the one that stands for a face that was not found.
        """
        impostors = calibration.impostors
        return cls(
            rule,
            nan if weight is None else weight,
            calibration.threshold(FMR_NAMES) if threshold is None else threshold,
            calibration.unseen if unseen is None else unseen,
            impostors.mean,
            impostors.deviation,
        )

    def standardise(self, face: Scores) -> Scores:
        """Face cosines as they are added: 0 for the mean of different people, `FACE_SCALE` a deviation."""
        return (face - self.mean) * (FACE_SCALE / self.deviation)

    def of_people(self, faces: np.ndarray) -> np.ndarray:
        """Cosines [P, N] of several people who must all be there -> [N]; the filter asks for each of them."""
        joined: np.ndarray = faces.min(axis=0) if self.rule == FILTER else faces.mean(axis=0)
        return joined

    def fuse(self, context: Scores, face: Scores, seen: Scores) -> Scores:
        """One score an image; seen: [images] bool of the same kind, whether a face was found.

        Reciprocal ranks are for numpy alone.
        """
        if self.rule == NONE:
            return context
        filled = face * seen + (_NOBODY if self.rule == FILTER else self.unseen) * ~seen
        if self.rule == FILTER:
            return filter_then_rank(context, filled, self.threshold)
        if self.rule == RECIPROCAL_RANK:
            return reciprocal_rank(context, filled, self.weight)
        return weighted_sum(context, self.standardise(filled), self.weight)


def weighted_sum(context: Scores, face: Scores, weight: float) -> Scores:
    """context + weight * face."""
    return context + weight * face


def filter_then_rank(context: Scores, face: Scores, threshold: float) -> Scores:
    """The context alone; images whose face is below the threshold come after all others, in order of context."""
    return context - (face < threshold) * _BELOW_ALL


def reciprocal_rank(
    context: np.ndarray, face: np.ndarray, weight: float = 1.0, offset: float = RANK_OFFSET
) -> np.ndarray:
    """1 / (offset + rank by context) + weight / (offset + rank by face), float64; numpy only.

    Cosines that differ in less than `DIGITS` digits tie: that much depends on how sums were rounded.
    """
    return 1 / (offset + ranks(np.round(context, DIGITS))) + weight / (offset + ranks(np.round(face, DIGITS)))


def ranks(scores: np.ndarray) -> np.ndarray:
    """Places from 1 along the last axis, best first, int64; of equal scores the lower index comes first."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(1, scores.shape[-1] + 1, dtype=order.dtype), axis=-1)
    return places


def match_faces(similarities: np.ndarray) -> np.ndarray:
    """Which face of one image is which person: different faces for different people, the best sum of similarities.

    Args:
        similarities: [P, F] cosines of P people and the image's F faces.

    Returns:
        [P] int64 numbers of faces, -1 for people who are left without one where F < P.
    """
    people, faces = similarities.shape
    chosen = np.full(people, -1, np.int64)
    if faces and people == 1:
        chosen[0] = int(similarities[0].argmax())
    elif faces:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(similarities, maximize=True)
        chosen[rows] = columns
    return chosen
