"""The face brush: shapes in frame units -> all projected at once, painted in order.

Role: `Geometry` holds where a face's features are (the pose's expression included); `Brush` collects the shapes that
`features` adds.
"""

from dataclasses import dataclass, field

import numpy as np

from webdataset_tools.miniature.canvas import fill_fixed, fixed_point, ribbon, xy
from webdataset_tools.miniature.head_frame import FacePose, HeadFrame
from webdataset_tools.miniature.palette import Colour
from webdataset_tools.miniature.people import FaceTraits

_HIDDEN = 0.10  # surfaces seen more edge-on than this are not drawn
_TAPER = np.array([0.35, 0.9, 1.0, 0.85, 0.3])


@dataclass(frozen=True)
class Geometry:
    """Places and sizes of the features in frame units; x offsets are half distances from the middle line x = 56."""

    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    brow_y: float
    nose_y: float
    nose_w: float
    mouth_y: float
    mouth_w: float
    corner_y: float
    mouth_gap: float
    chin_y: float

    @classmethod
    def of(cls, face: FaceTraits, pose: FacePose) -> "Geometry":
        """Return the geometry of `face` with the pose's expression."""
        eye_y = 51.6 + 1.5 * face.eye_height
        mouth_y = 92.3 + 1.7 * face.mouth_height + 0.8 * face.nose_length
        gap = 7.0 * pose.mouth_open
        return cls(
            eye_x=17.6 + 1.25 * face.eye_spacing,
            eye_y=eye_y,
            eye_w=8.9 + 0.9 * face.eye_size,
            eye_h=max(0.25, (4.9 + 0.8 * face.eye_open) * pose.eyes_open - 0.7 * max(0.0, pose.smile)),
            brow_y=eye_y - 12.6 - 1.6 * face.brow_height - 2.4 * pose.brow_raise,
            nose_y=71.7 + 2.1 * face.nose_length,
            nose_w=7.6 + 1.35 * face.nose_width,
            mouth_y=mouth_y,
            mouth_w=14.6 + 1.6 * face.mouth_width + 2.2 * pose.smile - 0.8 * pose.mouth_open,
            corner_y=mouth_y - 2.0 * pose.smile - 0.7 * face.lip_curve + 0.3 * gap,
            mouth_gap=gap,
            chin_y=117.5 + 2.6 * face.chin_length + 0.6 * gap,
        )

    def landmarks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the five landmarks [5, 2] in the frame (eyes, nose tip, mouth corners) and their lifts [5]."""
        points = [
            (56 - self.eye_x, self.eye_y),
            (56 + self.eye_x, self.eye_y),
            (56, self.nose_y),
            (56 - self.mouth_w, self.corner_y),
            (56 + self.mouth_w, self.corner_y),
        ]
        return np.array(points), np.array([0.0, 0.0, 11.0, 0.0, 0.0])


@dataclass
class Brush:
    """Shapes of one posed face waiting to be painted; `skin` is the colour of the face.

    A queued shape is points [n, 2] (or [k, n, 2] for k patches of one colour) in frame units, lift, colour.
    """

    frame: HeadFrame
    pose: FacePose
    face: FaceTraits
    geometry: Geometry
    skin: Colour
    _queue: list[tuple[np.ndarray, float | np.ndarray, Colour]] = field(default_factory=list)

    def fill(self, points: np.ndarray, colour: Colour, lift: float | np.ndarray = 0.0) -> None:
        """Queue a filled polygon on the face's surface, `lift` units above it."""
        self._queue.append((points, lift, colour))

    def both(
        self, points: np.ndarray, colour: Colour, lift: float = 0.0, sides: tuple[float, ...] = (-1.0, 1.0)
    ) -> None:
        """Queue a polygon given as (distance from the middle line, y) on each of `sides`."""
        for side in sides:
            self._queue.append((mirrored(points, side), lift, colour))

    def trace(self, points: np.ndarray, width: float, colour: Colour, lift: float = 0.0) -> None:
        """Queue a tapering stroke of 5 points, `width` units at its thickest."""
        self._queue.append((ribbon(points, width * _TAPER), lift, colour))

    def is_visible(self, x: float, y: float) -> bool:
        """Tell whether the surface at frame point (x, y) can be seen."""
        return self.frame.facing(x, y) > _HIDDEN

    def visible_sides(self, x: float, y: float) -> tuple[float, ...]:
        """Return the sides (-1, 1) on which the point at distance `x` from the middle line can be seen."""
        return tuple(side for side in (-1.0, 1.0) if self.is_visible(56 + side * x, y))

    def paint(self, canvas: np.ndarray) -> None:
        """Project and paint everything queued, in order."""
        sizes = [points.size // 2 for points, _, _ in self._queue]
        lifts = np.empty(sum(sizes))
        start = 0
        for size, (_, lift, _) in zip(sizes, self._queue):
            lifts[start : start + size] = lift
            start += size
        flat = np.concatenate([points.reshape(-1, 2) for points, _, _ in self._queue])
        pixels = fixed_point(self.frame.on_face(flat, lifts))
        start = 0
        for size, (points, _, colour) in zip(sizes, self._queue):
            shape = pixels[start : start + size]
            fill_fixed(canvas, [shape] if points.ndim == 2 else list(shape.reshape(points.shape)), colour)
            start += size
        self._queue.clear()


def mirrored(points: np.ndarray, side: float) -> np.ndarray:
    """Turn points given as (distance from the middle line, y) into frame points of one side (-1 or 1)."""
    return xy(56 + side * points[:, 0], points[:, 1])
