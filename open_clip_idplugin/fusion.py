"""How the similarity of a whole image and the similarity of its faces become one score.

Role: pure arithmetic, shared by the search service and by the evaluation of what one builds without an identity token,
so that what is measured is what is served. `context` is the cosine of query and image; `face` the cosine of the person
and the best matching face of the image. Both are arrays whose last axis is the images, of numpy or torch unless stated.

Where no face was found, `face` says nothing: `Fusion.unseen` takes its place, the cosine at which a face speaks neither
for nor against the person. A low one, such as what unrelated faces have, would count a face that was missed as somebody
else's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

WEIGHTED, RECIPROCAL_RANK, FILTER, NONE = "weighted", "reciprocal_rank", "filter", "none"
RULES = (WEIGHTED, RECIPROCAL_RANK, FILTER, NONE)
NO_FACE = 0.0  # what unrelated faces have on average: a person for whom an image has no face left is not in it
UNSEEN_FACE = 0.2  # where no face was found, unless it was tuned: between another person and the same one
FACE_WEIGHT = 0.5  # of the weighted sum, unless it was tuned
FACE_THRESHOLD = 0.35  # cosine from which two faces count as the same person, unless it was tuned
RANK_OFFSET = 60  # of reciprocal ranks: how little the very first places count more than the next
_BELOW_ALL = 4.0  # scores lie in [-2, 2]
_NOBODY = -2.0  # below every threshold

Scores = Any  # np.ndarray or torch.Tensor


@dataclass(frozen=True)
class Fusion:
    """A rule with its numbers.

    weight: of the face; threshold: of the filter; unseen: the face cosine of an image in which no face was found. The
    filter puts such images after all others, with those of other people.
    """

    rule: str = WEIGHTED
    weight: float = FACE_WEIGHT
    threshold: float = FACE_THRESHOLD
    unseen: float = UNSEEN_FACE

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
        return weighted_sum(context, filled, self.weight)


def weighted_sum(context: Scores, face: Scores, weight: float = FACE_WEIGHT) -> Scores:
    """context + weight * face."""
    return context + weight * face


def filter_then_rank(context: Scores, face: Scores, threshold: float = FACE_THRESHOLD) -> Scores:
    """The context alone; images whose face is below the threshold come after all others, in order of context."""
    return context - (face < threshold) * _BELOW_ALL


def reciprocal_rank(
    context: np.ndarray, face: np.ndarray, weight: float = 1.0, offset: float = RANK_OFFSET
) -> np.ndarray:
    """1 / (offset + rank by context) + weight / (offset + rank by face), float64; numpy only."""
    return 1 / (offset + ranks(context)) + weight / (offset + ranks(face))


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
