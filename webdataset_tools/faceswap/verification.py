"""Did the swap work: the new face's embedding against the identity's and the original face's.

Role: a swapped picture -> two similarities and a verdict. The face is aligned by the target's landmarks, not detected
again: detectors miss or misplace blurred swaps, which would judge the detector instead of the swap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_scan import FaceEngine
from webdataset_tools.faceswap.geometry import align_crop


@dataclass(frozen=True)
class Similarity:
    """Cosines in [-1, 1] of the swapped face."""

    identity: float
    original: float

    def passes(self, margin: float) -> bool:
        """Whether the face is closer to the identity than to the original by more than `margin`."""
        return self.identity - self.original > margin


def verify(engine: FaceEngine, picture: np.ndarray, target: FoundFace, identity: np.ndarray) -> Similarity:
    """Compare the face at the target's place in `picture` [H, W, 3] with `identity` [D] and the target's own embedding."""
    crop = align_crop(picture, target.landmarks, target.crop_size)
    embedding = engine.embed_crops([crop])[0]
    return Similarity(float(embedding @ identity), float(embedding @ target.embedding))


def identity_embedding(photos: Mapping[str, FoundFace], without: str) -> np.ndarray:
    """Return the mean embedding [D] of length 1 of an identity's photos, but for the one swapped in where there are others."""
    rows = [face.embedding for photo, face in photos.items() if photo != without] or [photos[without].embedding]
    mean = np.mean(rows, axis=0)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0 else rows[0]
