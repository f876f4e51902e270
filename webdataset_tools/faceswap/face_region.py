"""The part of a face between forehead and chin: its edge, its pixels, its skin.

Role: landmarks and box of a face -> what a swap replaces. Nearly all of the face: less leaves a mixture of two people that a
recogniser takes for the one who was there before.
"""

import cv2
import numpy as np

from open_clip_idplugin.faces.alignment import ARCFACE_LANDMARKS
from webdataset_tools.faceswap.geometry import fit_affine, pose_of, transform

_MIDDLE, _RADII = np.array([56.0, 68.5]), np.array([43.0, 47.5])  # in ArcFace's 112-pixel frame
_TURN = 70.0  # frame units by which the visible face moves sideways under the landmarks, per unit of `pose_of`
_LARGEST_TURN = 0.35  # in units of `pose_of`; beyond, the far eye is at the edge of the face
_ROUNDNESS = 2.5  # exponent of the superellipse: 2 is an ellipse, more is fuller at the jaw


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
