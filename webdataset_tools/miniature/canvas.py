"""Drawing on an RGB uint8 canvas [H, W, 3]: points -> sub-pixel anti-aliased primitives, in place, by OpenCV.

Points are float pixels [n, 2] (x, y); the middle of the top left pixel is (0, 0).
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from webdataset_tools.miniature.palette import Colour, clip_colour

_BITS = 4
_ONE = 1 << _BITS

# Drawings are tiny: OpenCV's thread pool costs more than it brings, and worker processes already fill the cores.
cv2.setNumThreads(1)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Return pixels [..., 2] as OpenCV's fixed-point int32."""
    return (points * _ONE + 0.5).astype(np.int32)


def polygon(canvas: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    """Fill the closed polygon."""
    fill_fixed(canvas, [fixed_point(points)], colour)


def fill_fixed(canvas: np.ndarray, contours: list[np.ndarray], colour: Colour) -> None:
    """Fill closed polygons given by `fixed_point`; where they overlap the canvas shows through."""
    cv2.fillPoly(canvas, contours, colour, cv2.LINE_AA, _BITS)


def line(canvas: np.ndarray, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
    """Draw a polyline with round joints; `width` in pixels, at least one."""
    cv2.polylines(canvas, [fixed_point(points)], closed, colour, max(1, round(width)), cv2.LINE_AA, _BITS)


def oval(
    canvas: np.ndarray,
    centre: np.ndarray | tuple[float, float],
    radii: tuple[float, float],
    colour: Colour,
    angle: float = 0.0,
) -> None:
    """Fill an ellipse; `radii` are its half axes in pixels, `angle` turns it clockwise, in degrees."""
    x, y = float(centre[0]), float(centre[1])
    middle = (int(x * _ONE + 0.5), int(y * _ONE + 0.5))
    axes = (int(radii[0] * _ONE + 0.5), int(radii[1] * _ONE + 0.5))
    cv2.ellipse(canvas, middle, axes, angle, 0, 360, colour, -1, cv2.LINE_AA, _BITS)


def disc(canvas: np.ndarray, centre: np.ndarray | tuple[float, float], radius: float, colour: Colour) -> None:
    """Fill a circle."""
    oval(canvas, centre, (radius, radius), colour)


def box(canvas: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    """Fill an upright rectangle."""
    polygon(canvas, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), colour)


def xy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the points [n, 2] of coordinates x [n] and y [n] (or a number)."""
    points = np.empty((len(x), 2))
    points[:, 0], points[:, 1] = x, y
    return points


def ribbon(points: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return the outline [2n, 2] of a stroke along `points` [n, 2] whose width at each point is `widths` [n]."""
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    factor = widths / (2 * np.hypot(along[:, 0], along[:, 1]) + 1e-6)
    outline = np.empty((2 * len(points), 2))
    outline[: len(points), 0] = points[:, 0] - along[:, 1] * factor
    outline[: len(points), 1] = points[:, 1] + along[:, 0] * factor
    outline[len(points) :] = (2 * points - outline[: len(points)])[::-1]
    return outline


@lru_cache(maxsize=64)
def _spline_matrix(count: int, steps: int, closed: bool) -> np.ndarray:
    """Return the matrix that turns `count` control points into a Catmull-Rom curve (a constant of the two numbers)."""
    rows = []
    segments = count if closed else count - 1
    for segment in range(segments):
        for t in np.arange(steps) / steps:
            weights = np.array(
                [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], np.float64
            )
            row = np.zeros(count)
            for offset, weight in zip((-1, 0, 1, 2), weights / 2):
                index = (segment + offset) % count if closed else min(max(segment + offset, 0), count - 1)
                row[index] += weight
            rows.append(row)
    if not closed:
        rows.append(np.eye(count)[-1])
    return np.stack(rows)


def spline(points: np.ndarray, steps: int = 4, closed: bool = False) -> np.ndarray:
    """Return a smooth curve through `points` [n, d] with `steps` points a segment."""
    return _spline_matrix(len(points), steps, closed) @ points


@dataclass(frozen=True)
class Ground:
    """A canvas in units of a hundredth of its sides, so that places look alike at any size, and the stream of its details."""

    canvas: np.ndarray
    rng: np.random.Generator

    @property
    def unit(self) -> float:
        """Pixels a unit."""
        return self.canvas.shape[0] / 100

    def bands(self, top: Colour, bottom: Colour, y0: float = 0, y1: float = 100) -> None:
        """Fill the rows between y0 and y1 with a gradient."""
        first, last = round(y0 * self.unit), round(y1 * self.unit)
        ramp = np.linspace(0, 1, max(1, last - first))[:, None]
        column = (np.array(top) * (1 - ramp) + np.array(bottom) * ramp).astype(np.uint8)[:, None]
        self.canvas[first:last] = cv2.resize(
            column, (self.canvas.shape[1], len(column)), interpolation=cv2.INTER_NEAREST
        )

    def area(self, points: list[tuple[float, float]] | np.ndarray, colour: Colour) -> None:
        """Fill a polygon given in units."""
        polygon(self.canvas, np.asarray(points, np.float64) * self.unit, colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill an upright rectangle given in units."""
        self.area([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def blob(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse given in units."""
        oval(self.canvas, (x * self.unit, y * self.unit), (rx * self.unit, ry * self.unit), colour)

    def stroke(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw a polyline given in units."""
        line(self.canvas, np.asarray(points, np.float64) * self.unit, colour, width * self.unit)

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return float(self.rng.uniform(low, high))

    def vary(self, colour: Colour, spread: float = 10) -> Colour:
        """Shift a colour at random."""
        return clip_colour(tuple(np.array(colour) + self.rng.normal(0, spread, 3)))


@dataclass(frozen=True)
class Held:
    """Where an object is held: the hand in pixels, pixels a unit, and the object's own colour."""

    canvas: np.ndarray
    hand: np.ndarray
    scale: float
    colour: Colour

    def area(self, points: list[tuple[float, float]] | np.ndarray, colour: Colour) -> None:
        """Fill a polygon given in units from the hand."""
        polygon(self.canvas, np.asarray(points, np.float64) * self.scale + self.hand, colour)

    def blob(self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0) -> None:
        """Fill an ellipse given in units from the hand."""
        oval(self.canvas, self.hand + np.array([x, y]) * self.scale, (rx * self.scale, ry * self.scale), colour, angle)

    def stroke(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw a polyline given in units from the hand."""
        line(self.canvas, np.asarray(points, np.float64) * self.scale + self.hand, colour, width * self.scale)
