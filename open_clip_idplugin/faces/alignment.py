"""Alignment: a picture and five landmarks -> the upright crop that recognisers were trained on.

Role: the one place where faces are warped, whatever found them and whatever embeds them: a similarity transform of the
landmarks to ArcFace's reference points, as insightface does it.
"""

import numpy as np

_MAX_COORDINATE = 1e6  # pixels; a landmark beyond is no landmark, and warping with it overflows
_MIN_SPREAD = 1.0  # pixels between landmarks below which an alignment means nothing
_MIN_DETERMINANT = 1e-12
_ARCFACE_SIDE = 112


def align_face(picture: np.ndarray, landmarks: np.ndarray, side: int) -> np.ndarray | None:
    """RGB uint8 [H, W, 3] and landmarks [5, 2] in pixels -> crop [side, side, 3]; None for degenerate landmarks.

    Hosts align degenerate landmarks too, and hand a garbage embedding on.
    """
    spread = float(np.ptp(landmarks, axis=0).max()) if np.isfinite(landmarks).all() else 0.0
    if spread < _MIN_SPREAD or np.abs(landmarks).max() > _MAX_COORDINATE:
        return None
    matrix = _to_reference(landmarks, side)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < _MIN_DETERMINANT:
        return None
    import cv2

    return cv2.warpAffine(picture, matrix, (side, side), borderValue=0.0)


def _to_reference(landmarks: np.ndarray, side: int) -> np.ndarray:
    """The transform [2, 3]; sides that are multiples of 112 or 128 have insightface's own framing, others ArcFace's."""
    from insightface.utils import face_align

    if side % _ARCFACE_SIDE == 0 or side % 128 == 0:
        return face_align.estimate_norm(landmarks, side)
    return face_align.estimate_norm(landmarks, _ARCFACE_SIDE) * (side / _ARCFACE_SIDE)
