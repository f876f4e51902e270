"""Alignment: a picture and a face's place in it -> the upright crop that recognisers were trained on.

Role: the one place where faces are warped, whatever found them. `align_face` is the usual way, a similarity transform of five
landmarks to reference points (ArcFace's unless an encoder has others), as insightface does it; `cut_box` is the square
around the box, for encoders that were trained without landmarks.
"""

import numpy as np

_MAX_COORDINATE = 1e6  # pixels; a landmark beyond is no landmark, and warping with it overflows
_MIN_SPREAD = 1.0  # pixels between landmarks below which an alignment means nothing
_MIN_DETERMINANT = 1e-12
_ARCFACE_SIDE = 112


def align_face(
    picture: np.ndarray, landmarks: np.ndarray, side: int, reference: np.ndarray | None = None
) -> np.ndarray | None:
    """RGB uint8 [H, W, 3] and landmarks [5, 2] in pixels -> crop [side, side, 3]; None for degenerate landmarks.

    reference: [5, 2], where the landmarks lie in the crop, in its pixels; None for ArcFace's. Hosts align degenerate
    landmarks too, and hand a garbage embedding on.
    """
    spread = float(np.ptp(landmarks, axis=0).max()) if np.isfinite(landmarks).all() else 0.0
    if spread < _MIN_SPREAD or np.abs(landmarks).max() > _MAX_COORDINATE:
        return None
    matrix = similarity(landmarks, reference) if reference is not None else _to_arcface(landmarks, side)
    return _warp(picture, matrix, side)


def cut_box(picture: np.ndarray, box: np.ndarray, side: int, margin: float) -> np.ndarray | None:
    """The square around a box [4] in pixels, `margin` of its longer side wider on every side -> crop [side, side, 3].

    Black where the picture ends; None for a box that is none.
    """
    if not np.isfinite(box).all() or np.abs(box).max() > _MAX_COORDINATE:
        return None
    longer = float(max(box[2] - box[0], box[3] - box[1]))
    if longer < _MIN_SPREAD:
        return None
    scale = side / (longer * (1 + 2 * margin))
    middle = (np.asarray(box[:2], np.float64) + box[2:]) / 2
    return _warp(picture, np.column_stack([np.eye(2) * scale, side / 2 - scale * middle]), side)


def similarity(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The similarity transform [2, 3] that brings points [N, 2] nearest to `reference` [N, 2] (Umeyama's, least squares)."""
    from skimage.transform import SimilarityTransform

    transform = SimilarityTransform()
    transform.estimate(np.asarray(points, np.float64), np.asarray(reference, np.float64))
    return transform.params[:2]


def _warp(picture: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray | None:
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < _MIN_DETERMINANT:
        return None
    import cv2

    return cv2.warpAffine(picture, matrix, (side, side), borderValue=0.0)


def _to_arcface(landmarks: np.ndarray, side: int) -> np.ndarray:
    """The transform [2, 3]; sides that are multiples of 112 or 128 have insightface's own framing, others ArcFace's."""
    from insightface.utils import face_align

    if side % _ARCFACE_SIDE == 0 or side % 128 == 0:
        return face_align.estimate_norm(landmarks, side)
    return face_align.estimate_norm(landmarks, _ARCFACE_SIDE) * (side / _ARCFACE_SIDE)
