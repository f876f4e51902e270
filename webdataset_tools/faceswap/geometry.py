"""Geometry of a face: landmarks and box -> transforms, the pose of the head, and the outline of what a swap replaces.

That is nearly all of the face: less leaves a mixture of two people that a recogniser takes for the one who was there before.

All landmarks are [5, 2] pixels in the order left eye, right eye, nose, left and right mouth corner as seen in the
picture; matrices are [2, 3] float64 as OpenCV's `warpAffine` takes them.
"""

import cv2
import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.alignment import ARCFACE_LANDMARKS, similarity_transform

_LARGEST_STRETCH = 1.7  # ratio of the axes beyond which an affine fit follows a turned head, not a face's proportions
_MIDDLE, _RADII = (
    np.array([56.0, 68.5]),
    np.array([43.0, 47.5]),
)  # of the part that a swap replaces, in ArcFace's 112-pixel frame
_TURN = 70.0  # frame units by which the visible face moves sideways under the landmarks, per unit of `pose_of`
_LARGEST_TURN = 0.35  # in units of `pose_of`; beyond, the far eye is at the edge of the face
_ROUNDNESS = 2.5  # exponent of the superellipse: 2 is an ellipse, more is fuller at the jaw


class SwapFailed(IdClipError):
    """One face cannot be put in the place of another; the message says why."""


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`similarity_transform`; raises SwapFailed when the points coincide or are not finite."""
    matrix = similarity_transform(source, target)
    if not np.isfinite(matrix).all() or np.hypot(*matrix[:, 0]) < 1e-3:
        raise SwapFailed("the face's landmarks lie on one point")
    return matrix


def fit_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the least-squares affine transform [2, 3], or the similarity where an affine one would distort the face."""
    similarity = fit_similarity(source, target)
    points = np.column_stack([source, np.ones(len(source))]).astype(np.float64)
    solution, _, rank, _ = np.linalg.lstsq(points, target.astype(np.float64), rcond=None)
    matrix = solution.T
    axes = np.linalg.svd(matrix[:, :2], compute_uv=False)
    if rank < 3 or np.linalg.det(matrix[:, :2]) <= 0 or axes[0] > _LARGEST_STRETCH * axes[1]:
        return similarity
    return matrix


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points [n, 2] moved by `matrix` [2, 3]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def scale_of(matrix: np.ndarray) -> float:
    """Return how much larger (> 1) or smaller things become, as a factor of lengths."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def pose_of(landmarks: np.ndarray) -> np.ndarray:
    """Return how a head is turned, [2]: where the nose stands between eyes and mouth, in distances of the eyes.

    The first number is 0 for a face seen from the front and about 0.3 for one turned by 30 degrees to the picture's right
    (negative: left); the second grows as the head nods.
    """
    left, right, nose = landmarks[:3].astype(np.float64)
    eyes, mouth = (left + right) / 2, landmarks[3:].astype(np.float64).mean(0)
    across, down = right - left, mouth - eyes
    length = np.hypot(*across)
    height = (nose - eyes) @ down / max(float(down @ down), 1e-6)
    sideways = (nose - (eyes + height * down)) @ across / max(length**2, 1e-6)
    return np.array([sideways, height * np.hypot(*down) / max(length, 1e-6)])


def outline_of(landmarks: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the edge [n, 2] of the part that is replaced, in pixels, kept inside the face's box.

    Eyes, nose and mouth stand in front of the head: as it turns, they move towards the far edge of the face.
    """
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    direction = np.column_stack([np.cos(angles), np.sin(angles)])
    rounded = np.sign(direction) * np.abs(direction) ** (2 / _ROUNDNESS)
    turn = np.clip(pose_of(landmarks)[0], -_LARGEST_TURN, _LARGEST_TURN)
    points = transform(fit_affine(ARCFACE_LANDMARKS, landmarks), _MIDDLE - (_TURN * turn, 0) + rounded * _RADII)
    slack = 0.02 * (box[2:] - box[:2])  # a detector's box may cut the cheek a little
    return np.clip(points, box[:2] - slack, box[2:] + slack)


def pixels_inside(outline: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the inside of the outline, bool [H, W]."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(outline).astype(np.int32)), 255)
    return mask > 0


def to_lab(picture: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] -> Lab float32: lightness 0 to 100, colours about -100 to 100."""
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
