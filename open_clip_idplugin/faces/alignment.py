"""Face alignment: a picture and a face's place in it -> the upright crop that recognisers were trained on.

Role: the one place where faces are aligned, whatever found them, and where similarity transforms are fitted. `align_face` is
the usual way, a similarity transform of five landmarks to reference points (ArcFace's unless an encoder has others), as
insightface does it; `cut_box` is the square around the box, for encoders that were trained without landmarks.
"""

import numpy as np

_MAX_COORDINATE = 1e6  # pixels; a landmark beyond is no landmark, and warping with it overflows
_MIN_SPREAD = 1.0  # pixels between landmarks below which an alignment means nothing
_MIN_DETERMINANT = 1e-12
_ARCFACE_SIDE = 112
# ArcFace's landmarks [5, 2] in its crop of 112 pixels: eyes, nose, corners of the mouth, from left to right in the picture.
ARCFACE_LANDMARKS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)


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
    matrix = similarity_transform(landmarks, reference) if reference is not None else _to_arcface(landmarks, side)
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


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares rotation, scale and shift [2, 3] float64 from points [N, 2] to points [N, 2] (Umeyama 1991).

    Not finite for points that coincide or are not finite; as OpenCV's `warpAffine` takes it.
    """
    with np.errstate(all="ignore"):  # judged by the result
        a, b = (points[:, 0].astype(np.float64) + 1j * points[:, 1] for points in (source, target))
        centred = a - a.mean()
        factor = np.vdot(centred, b - b.mean()) / np.vdot(centred, centred)
        shift = b.mean() - factor * a.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


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
