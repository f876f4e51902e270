"""Photo quality: how well a photo shows a face -> the weight of its embedding in the person's mean.

    quality = detector score x size x frontality x sharpness, each in [0, 1], and never below 0.01

    size        shorter side of the box / side of the recogniser's crop, at most 1: a smaller face is enlarged
    frontality  1 - |nose - middle of the eyes, along the line of the eyes| / half the distance of the eyes: 1 looks into
                the camera, 0 has the nose under one eye; the head's tilt does not matter
    sharpness   v / (v + 100), v being the variance of the Laplacian of the crop's grey values (0 to 255)

Role: one `Face` -> one number. A photo that is poor in all four counts for little, but a lone photo still is the person.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face

LEAST_QUALITY = 0.01
_USUAL_SIDE = 112
_HALF_SHARP = 100.0  # variance of the Laplacian at which sharpness is 0.5
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def photo_quality(face: "Face") -> float:
    """The weight of a face, in [0.01, 1]."""
    return quality_of(face.score, face.box, face.landmarks, face.crop)


def quality_of(score: float, box: np.ndarray, landmarks: np.ndarray, crop: np.ndarray | None) -> float:
    """The same of a face's parts; without the crop sharpness counts as 1, and its side as 112 pixels."""
    size = _size(box, _USUAL_SIDE if crop is None else crop.shape[0])
    parts = score, size, frontality(landmarks), 1.0 if crop is None else sharpness(crop)
    quality = float(np.prod([np.clip(part, 0, 1) for part in parts]))
    return max(quality, LEAST_QUALITY) if np.isfinite(quality) else LEAST_QUALITY


def _size(box: np.ndarray, side: int) -> float:
    return float(min(box[2] - box[0], box[3] - box[1]) / side)


def frontality(landmarks: np.ndarray) -> float:
    """[5, 2] landmarks in pixels (eyes, nose, mouth corners) -> [0, 1], 1 for a face that looks into the camera."""
    left, right, nose = np.asarray(landmarks[:3], np.float64)
    line = right - left
    distance = float(np.linalg.norm(line))
    if not np.isfinite(distance) or distance < 1:  # pixels: both eyes in one place are a profile
        return 0.0
    offset = abs(float((nose - (left + right) / 2) @ line)) / distance
    return max(0.0, 1 - offset / (distance / 2))


def sharpness(crop: np.ndarray) -> float:
    """RGB uint8 [S, S, 3] -> [0, 1), 0 for a plain surface."""
    grey = crop.astype(np.float32) @ _LUMA
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    variance = float(laplacian.var()) if laplacian.size else 0.0
    return variance / (variance + _HALF_SHARP)
