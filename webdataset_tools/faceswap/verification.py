"""Verification of a swap: the new face -> its cosines to the identity and to the original face, and whether they will do.

Role: a swapped picture -> two similarities and a verdict. What similarity two photos of one person have depends on
the face model, so that the bounds come from its calibration unless they are given. The face is cut out by the target's
landmarks, not detected again: detectors miss or misplace blurred swaps, which would judge the detector instead of the swap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from open_clip_idplugin.faces.calibration import FMR_NAMES
from open_clip_idplugin.faces.calibration_files import load_calibration
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_scan import FaceEngine
from webdataset_tools.faceswap.geometry import SwapFailed

_MARGIN = 0.5  # of the way from different people's mean to the threshold


@dataclass(frozen=True)
class Similarity:
    """Cosines in [-1, 1] of the swapped face."""

    identity: float
    original: float


@dataclass(frozen=True)
class SimilarityRules:
    """When a swap worked; cosines in [-1, 1].

    margin        by how much the face must be closer to the identity than to the original face
    min_identity  least similarity to the identity
    max_original  similarity to the original face from which it is still the same person
    """

    margin: float
    min_identity: float
    max_original: float

    def accepts(self, similarity: Similarity) -> bool:
        """Whether a swapped face is the identity and no longer the person who was there."""
        return (
            similarity.identity - similarity.original > self.margin
            and similarity.identity >= self.min_identity
            and similarity.original < self.max_original
        )


def rules_for(
    model_id: str | None, margin: float | None, min_similarity: float | None, max_original: float | None
) -> SimilarityRules:
    """Return the bounds for a face model; what is not given (None) comes from its calibration.

    The threshold of a false match rate of 1 in 1,000 is what the face must reach with the identity and must not reach with the
    original face; the margin is a part of the way to it from the mean of different people.
    """
    calibration = load_calibration(model_id)
    threshold, mean = calibration.threshold(FMR_NAMES), calibration.impostors.mean
    return SimilarityRules(
        margin=_MARGIN * (threshold - mean) if margin is None else margin,
        min_identity=threshold if min_similarity is None else min_similarity,
        max_original=threshold if max_original is None else max_original,
    )


def verify(engine: FaceEngine, picture: np.ndarray, target: FoundFace, identity: np.ndarray) -> Similarity:
    """Compare the face at the target's place in `picture` [H, W, 3] with `identity` [D] and the target's own embedding.

    The crop is the encoder's own: other nets than ArcFace's are cut in other ways. Raises SwapFailed where there is none.
    """
    crop = engine.crop_at(picture, target.box, target.landmarks)
    if crop is None:
        raise SwapFailed("the swapped face cannot be aligned")
    embedding = engine.embed_crops([crop])[0]
    return Similarity(float(embedding @ identity), float(embedding @ target.embedding))


def identity_embedding(photos: Mapping[str, FoundFace], without: str) -> np.ndarray:
    """Return the mean embedding [D] of length 1 of an identity's photos, but for the one swapped in where there are others."""
    rows = [face.embedding for photo, face in photos.items() if photo != without] or [photos[without].embedding]
    mean = np.mean(rows, axis=0)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0 else rows[0]
