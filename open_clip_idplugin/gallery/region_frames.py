"""Frames of face regions: noted dimensions and the picture's own -> the ways to lay regions on the upright picture.

Regions are noted for the picture as it is stored, before the EXIF orientation turns it (MWG), by some programs for the
upright one. Only the *ratio* of the noted dimensions can tell, and it survives a change of size: where it fits neither frame, a
program turned or cropped the picture and left regions behind that are those of other pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]

# EXIF orientation -> where a point of the stored picture lies in the upright one; shares of width and height
_UPRIGHT: dict[int, Callable[[float, float], Point]] = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
_QUARTER_TURNS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Frames:
    """Orientations by which a region may be turned into the upright picture.

    Attributes:
        claimed: those that the metadata allow, most likely first; none where the noted ratio fits neither frame.
        possible: others of an equal ratio. No metadata say them; faces that lie so tell that the picture was turned.
    """

    claimed: tuple[int, ...]
    possible: tuple[int, ...]


UPRIGHT = Frames((1,), ())


def find_frames(stored: tuple[int, int], orientation: int, noted: tuple[float, float] | None) -> Frames:
    """The frames for a picture of the size `stored` (width, height) with this EXIF orientation.

    Where no dimensions were noted, nothing speaks against either frame, and the faces decide.
    """
    upright = (stored[1], stored[0]) if orientation in _QUARTER_TURNS else stored
    frames = {orientation: stored}
    frames.setdefault(1, upright)
    claimed = tuple(turn for turn, size in frames.items() if noted is None or same_ratio(noted, size))
    size = noted or stored
    fitting = (
        turn for turn in _UPRIGHT if noted is None or same_ratio(_turned(size, turn), upright)
    )  # what such a frame becomes when it is turned so
    return Frames(claimed, tuple(turn for turn in fitting if turn not in claimed) if claimed else ())


def same_ratio(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes are one picture in two sizes, each side rounded by up to a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(sum(one), sum(other))


def lay(boxes: np.ndarray, orientation: int) -> np.ndarray:
    """[R, 4] x0, y0, x1, y1 as shares of the noted frame -> the same of the upright picture."""
    laid = []
    for x0, y0, x1, y1 in boxes:
        (ax, ay), (bx, by) = _UPRIGHT[orientation](x0, y0), _UPRIGHT[orientation](x1, y1)
        laid.append((min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)))
    return np.asarray(laid, np.float64).reshape(-1, 4)


def _turned(size: tuple[float, float], orientation: int) -> tuple[float, float]:
    return (size[1], size[0]) if orientation in _QUARTER_TURNS else size
