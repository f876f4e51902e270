"""The face frame and its pose: points of a face -> pixels.

The frame is ArcFace's 112 x 112 reference (insightface `norm_crop`): a mean face seen from the front has its eyes at
(38.3, 51.6) and (73.5, 51.6), the nose tip at (56, 71.7), the mouth corners at (41.5, 92.3) and (70.7, 92.3). Depth z points to
the viewer. Points are turned about the middle of the head, then projected in parallel.
"""

from dataclasses import dataclass
from math import cos, radians, sin, sqrt

import numpy as np

MIDDLE = np.array([56.0, 64.0])
_RX, _RY, _RZ = 47.0, 80.0, 46.0
_RADII = np.array([_RX, _RY, _RZ])  # the ellipsoid on which features lie
_INVERSE_SQUARES = _RADII[:2] ** -2.0


@dataclass(frozen=True)
class FacePose:
    """How a face is seen. Angles in degrees: yaw > 0 turns to the picture's right, pitch > 0 downwards, roll > 0 clockwise.

    `smile` -1 ... 1, `mouth_open` 0 ... 1, `eyes_open` 0 ... 1.3, `brow_raise` -1 ... 1, `gaze` -1 ... 1 (right).
    `light` -1 ... 1 is the side that the light comes from (1 = right) and its strength; `exposure` 1 = as drawn; `warmth`
    -1 ... 1;
    `blur` is a Gaussian's sigma in pixels of the picture, `noise` a standard deviation in grey levels.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    smile: float = 0.0
    mouth_open: float = 0.0
    eyes_open: float = 1.0
    brow_raise: float = 0.0
    gaze: float = 0.0
    light: float = 0.3
    exposure: float = 1.0
    warmth: float = 0.0
    blur: float = 0.0
    noise: float = 0.0


class HeadFrame:
    """A posed face frame at a place of the canvas: `scale` pixels a frame unit, the frame's `MIDDLE` at `centre` (pixels)."""

    def __init__(self, pose: FacePose, scale: float, centre: tuple[float, float]) -> None:
        yaw, pitch, roll = radians(pose.yaw), radians(pose.pitch), radians(pose.roll)
        about_y = np.array([[cos(yaw), 0, sin(yaw)], [0, 1, 0], [-sin(yaw), 0, cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, cos(pitch), sin(pitch)], [0, -sin(pitch), cos(pitch)]])
        about_z = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
        self.rotation = about_z @ about_x @ about_y
        self.scale = scale
        self.centre = np.asarray(centre, np.float64)
        self._flat = scale * self.rotation[:2].T
        self._towards = self.rotation[2].tolist()

    def project(self, points: np.ndarray) -> np.ndarray:
        """Turn points [n, 3] (frame x, y and depth z) into pixels [n, 2]."""
        moved = np.array(points, np.float64)
        moved[:, :2] -= MIDDLE
        return moved @ self._flat + self.centre

    def on_face(self, points: np.ndarray, lift: float | np.ndarray = 0.0) -> np.ndarray:
        """Turn points [n, 2] of the face's surface, `lift` units above it, into pixels [n, 2]."""
        place = np.empty((len(points), 3))
        offset = np.subtract(points, MIDDLE, out=place[:, :2])
        squares = 1.0 - (offset * offset) @ _INVERSE_SQUARES
        place[:, 2] = _RADII[2] * np.sqrt(np.maximum(squares, 0.0)) + lift
        return place @ self._flat + self.centre

    def facing(self, x: float, y: float) -> float:
        """Return how far the surface at frame (x, y) faces the viewer: 1 = fully, 0 = edge on, negative = hidden."""
        dx, dy = (x - 56.0) / _RX, (y - 64.0) / _RY
        depth = sqrt(max(0.0, 1.0 - dx * dx - dy * dy))
        nx, ny, nz = dx / _RX, dy / _RY, depth / _RZ
        towards = self._towards
        return (towards[0] * nx + towards[1] * ny + towards[2] * nz) / sqrt(nx * nx + ny * ny + nz * nz)
