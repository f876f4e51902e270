"""The canvas of a place: units of a hundredth of its sides, and a random stream for details.

Role: places look alike at any size of the picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from webdataset_tools.miniature.canvas import line, oval, polygon
from webdataset_tools.miniature.palette import Colour, clip_colour


@dataclass(frozen=True)
class Ground:
    """A canvas in units of a hundredth of its sides, and the random stream of its details."""

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
