"""Backgrounds: the name of a place -> a picture of it, in detail drawn at random.

Each painter gets a canvas whose sides are scaled to 100 x 100 units (`Ground.at`), so that places look alike at any size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from webdataset_tools.miniature.canvas import disc, line, oval, polygon, spline
from webdataset_tools.miniature.palette import Colour, clip_colour, mix, shade


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
        self.canvas[first:last] = cv2.resize(column, (self.canvas.shape[1], len(column)), interpolation=cv2.INTER_NEAREST)

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


def _clouds(ground: Ground, count: int) -> None:
    for _ in range(count):
        x, y = ground.between(0, 100), ground.between(4, 26)
        for dx in (-5, 0, 5):
            ground.blob(x + dx, y - (2 if dx == 0 else 0), 6, 3.2, (250, 252, 255))


def _tree(ground: Ground, x: float, y: float, size: float, leaf: Colour) -> None:
    ground.box(x - size * 0.09, y - size * 0.5, x + size * 0.09, y, (104, 72, 46))
    for dx, dy, r in ((0, -0.95, 0.36), (-0.25, -0.68, 0.3), (0.25, -0.68, 0.3)):
        ground.blob(x + dx * size, y + dy * size, r * size, r * size, shade(leaf, 1 - 0.12 * dx - 0.1 * dy - 0.1))


def _beach(ground: Ground) -> None:
    ground.bands(ground.vary((120, 190, 238)), (206, 232, 246), 0, 40)
    disc(ground.canvas, np.array([ground.between(8, 92), 10]) * ground.unit, 6 * ground.unit, (255, 238, 150))
    ground.bands((36, 132, 178), (92, 190, 204), 40, 58)
    for y in (45, 50, 54):
        ground.stroke([(ground.between(0, 40), y), (ground.between(50, 100), y)], (190, 228, 236), 0.8)
    ground.bands(ground.vary((240, 216, 160)), (214, 182, 122), 58, 100)
    ground.area(spline(np.array([(0, 60), (25, 57), (50, 60), (75, 57), (100, 60), (100, 56), (0, 56)]), 3), (240, 248, 246))
    if ground.rng.random() < 0.6:
        x = ground.between(5, 95)
        ground.stroke([(x, 90), (x + 3, 52)], (120, 84, 52), 2)
        for angle in (-2.6, -2.0, -1.2, -0.5):
            ground.stroke([(x + 3, 52), (x + 3 + 13 * np.cos(angle), 52 + 9 * np.sin(angle)), (x + 3 + 18 * np.cos(angle), 56)], (48, 128, 62), 2.2)


def _park(ground: Ground) -> None:
    ground.bands(ground.vary((150, 206, 242)), (222, 240, 250), 0, 45)
    _clouds(ground, 2)
    ground.bands(ground.vary((126, 186, 88)), (84, 150, 62), 45, 100)
    for x in np.linspace(2, 98, 6):
        _tree(ground, x + ground.between(-6, 6), ground.between(46, 58), ground.between(22, 36), ground.vary((62, 138, 66), 14))
    ground.area([(40, 100), (70, 100), (58, 46), (54, 46)], (214, 198, 166))


def _street(ground: Ground) -> None:
    ground.bands((186, 206, 222), (226, 230, 232), 0, 62)
    x = 0.0
    while x < 100:
        width, top = ground.between(14, 24), ground.between(4, 30)
        wall = ground.vary(((188, 120, 96), (206, 190, 158), (150, 158, 172), (196, 156, 110))[int(ground.rng.integers(4))])
        ground.box(x, top, x + width, 64, wall)
        for wy in np.arange(top + 5, 58, 10):
            for wx in (x + width * 0.2, x + width * 0.6):
                ground.box(wx, wy, wx + width * 0.22, wy + 6, mix(wall, (60, 80, 110), 0.7))
        x += width
    ground.box(0, 64, 100, 72, (188, 186, 180))
    ground.bands((98, 100, 106), (74, 76, 82), 72, 100)
    for x in range(-5, 100, 22):
        ground.area([(x, 86), (x + 12, 86), (x + 11, 89), (x - 2, 89)], (236, 232, 210))


def _kitchen(ground: Ground) -> None:
    ground.bands(ground.vary((250, 238, 214)), (240, 222, 190), 0, 100)
    door = ground.vary(((120, 170, 160), (196, 150, 104), (226, 226, 220), (92, 120, 158))[int(ground.rng.integers(4))], 6)
    for x in range(0, 100, 25):
        if x != 50:
            ground.box(x + 1, 0, x + 24, 28, door)
            ground.box(x + 20, 22, x + 21.5, 26, (70, 66, 62))
    for x in range(0, 100, 8):
        for y in (40, 47, 54):
            ground.box(x + 0.5, y, x + 7.3, y + 6, ground.vary((236, 240, 240), 4))
    ground.box(0, 61, 100, 66, (112, 96, 86))
    ground.box(0, 66, 100, 100, shade(door, 0.9))
    ground.box(53, 3, 72, 30, (172, 212, 236))
    ground.stroke([(62.5, 3), (62.5, 30)], (250, 250, 246), 1.2)
    for x in (ground.between(4, 30), ground.between(70, 92)):
        ground.box(x, 54, x + 7, 61, ground.vary((196, 70, 60), 30))


def _office(ground: Ground) -> None:
    ground.bands(ground.vary((214, 222, 230)), (196, 204, 212), 0, 100)
    for x in (4, 37, 70):
        ground.box(x, 6, x + 27, 46, (158, 200, 230))
        for bar in range(9, 46, 5):
            ground.box(x, bar, x + 27, bar + 1.2, (238, 242, 244))
    ground.box(0, 68, 100, 74, (150, 108, 72))
    ground.box(0, 74, 100, 100, (112, 82, 58))
    x = 4 if ground.rng.random() < 0.5 else 72
    ground.box(x, 44, x + 24, 62, (40, 42, 50))
    ground.box(x + 1.5, 45.5, x + 22.5, 60.5, ground.vary((90, 150, 210), 20))
    ground.box(x + 10, 62, x + 14, 68, (60, 62, 70))


def _mountain(ground: Ground) -> None:
    ground.bands(ground.vary((132, 182, 232)), (222, 236, 246), 0, 67)
    for base, tone in ((58, (138, 152, 178)), (66, (98, 114, 138))):
        for x in np.linspace(0, 100, 4):
            peak, left, right = ground.between(14, 30) + base - 58, ground.between(22, 34), ground.between(22, 34)
            ground.area([(x - left, base + 6), (x, peak), (x + right, base + 6)], ground.vary(tone, 6))
            cap = 0.3
            ground.area([(x - left * cap, peak + (base + 6 - peak) * cap), (x, peak), (x + right * cap, peak + (base + 6 - peak) * cap), (x + 2, peak + 11)], (246, 248, 252))
    ground.bands(ground.vary((128, 160, 96)), (92, 122, 72), 66, 100)


def _snow(ground: Ground) -> None:
    ground.bands(ground.vary((170, 200, 232)), (226, 236, 246), 0, 52)
    ground.area(spline(np.array([(0, 46), (25, 38), (50, 48), (78, 40), (100, 50), (100, 100), (0, 100)]), 4), (238, 244, 252))
    ground.area(spline(np.array([(0, 66), (30, 60), (60, 70), (100, 60), (100, 100), (0, 100)]), 4), (252, 253, 255))
    for _ in range(6):
        x, y, s = ground.between(2, 98), ground.between(50, 66), ground.between(14, 24)
        for k in range(3):
            ground.area([(x - s * (0.34 - 0.07 * k), y - s * 0.3 * k), (x, y - s * (0.5 + 0.28 * k)), (x + s * (0.34 - 0.07 * k), y - s * 0.3 * k)], (48, 96, 84))
    spots = ground.rng.uniform(0, 100, (26, 2)).tolist()
    for x, y in spots:
        disc(ground.canvas, (x * ground.unit, y * ground.unit), 0.7 * ground.unit, (255, 255, 255))


def _tennis_court(ground: Ground) -> None:
    ground.bands((44, 92, 76), (58, 112, 88), 0, 46)
    for x in range(0, 101, 5):
        ground.stroke([(x, 8), (x, 46)], (86, 132, 112), 0.5)
    ground.box(0, 6, 100, 9, (34, 70, 60))
    court = ground.vary(((46, 104, 176), (198, 104, 66), (70, 146, 92))[int(ground.rng.integers(3))], 6)
    ground.bands(court, shade(court, 0.85), 46, 100)
    ground.area([(4, 100), (22, 52), (24, 52), (9, 100)], (246, 246, 246))
    ground.area([(91, 100), (76, 52), (78, 52), (96, 100)], (246, 246, 246))
    ground.box(0, 72, 100, 74, (246, 246, 246))
    ground.box(0, 46, 100, 58, (30, 34, 40))
    for x in range(0, 100, 4):
        ground.stroke([(x, 47), (x, 58)], (92, 98, 106), 0.5)
    ground.box(0, 45, 100, 47.5, (250, 250, 250))


def _living_room(ground: Ground) -> None:
    wall = ground.vary(((222, 198, 168), (178, 200, 190), (204, 188, 214), (232, 216, 176))[int(ground.rng.integers(4))], 6)
    ground.bands(wall, shade(wall, 0.93), 0, 76)
    ground.bands((152, 108, 72), (126, 86, 56), 76, 100)
    for x in (ground.between(4, 16), ground.between(70, 80)):
        ground.box(x, 10, x + 18, 30, (92, 66, 44))
        ground.box(x + 1.6, 11.6, x + 16.4, 28.4, ground.vary((150, 180, 190), 40))
    sofa = ground.vary(((170, 66, 60), (66, 96, 140), (92, 128, 84), (134, 104, 80))[int(ground.rng.integers(4))])
    ground.box(6, 52, 94, 78, sofa)
    for x in (6, 35.5, 65):
        ground.box(x + 1, 50, x + 28, 66, shade(sofa, 1.12))
    ground.box(0, 58, 9, 84, shade(sofa, 0.85))
    ground.box(91, 58, 100, 84, shade(sofa, 0.85))
    ground.stroke([(93, 76), (93, 34)], (60, 52, 46), 1)
    ground.area([(86, 36), (90, 24), (97, 24), (101, 36)], (250, 226, 150))


def _forest(ground: Ground) -> None:
    ground.bands((88, 128, 84), (132, 160, 100), 0, 73)
    for depth in (0.75, 0.9, 1.0):
        for _ in range(6):
            x, wide = ground.between(0, 100), ground.between(2.2, 5.5) * depth
            bark = mix((96, 74, 54), (110, 140, 96), 1.0 - depth)
            ground.area([(x - wide * 0.7, 0), (x + wide * 0.7, 0), (x + wide, 76), (x - wide, 76)], bark)
    for _ in range(12):
        ground.blob(ground.between(0, 100), ground.between(-4, 16), ground.between(8, 16), ground.between(5, 10), ground.vary((42, 96, 50), 12))
    ground.bands((84, 110, 58), (60, 80, 42), 72, 100)
    for _ in range(8):
        ground.blob(ground.between(0, 100), ground.between(72, 80), ground.between(5, 10), ground.between(3, 5), ground.vary((58, 110, 52), 12))


def _desert(ground: Ground) -> None:
    ground.bands(ground.vary((246, 180, 112)), (252, 224, 170), 0, 60)
    disc(ground.canvas, np.array([ground.between(12, 88), 18]) * ground.unit, 8 * ground.unit, (255, 246, 210))
    ground.area(spline(np.array([(0, 54), (28, 44), (55, 58), (80, 48), (100, 54), (100, 100), (0, 100)]), 4), (222, 162, 92))
    ground.area(spline(np.array([(0, 74), (35, 62), (70, 76), (100, 66), (100, 100), (0, 100)]), 4), (238, 184, 112))
    for x in (ground.between(4, 26), ground.between(74, 96)):
        ground.stroke([(x, 80), (x, 46)], (70, 128, 76), 4)
        ground.stroke([(x, 66), (x + 7, 66), (x + 7, 56)], (70, 128, 76), 2.8)


def _lake(ground: Ground) -> None:
    ground.bands(ground.vary((160, 200, 226)), (238, 226, 206), 0, 42)
    ground.area(spline(np.array([(0, 42), (20, 30), (42, 40), (66, 28), (100, 40), (100, 46), (0, 46)]), 4), (84, 122, 104))
    ground.bands((98, 156, 186), (44, 98, 138), 44, 84)
    for _ in range(9):
        x, y = ground.between(0, 90), ground.between(48, 82)
        ground.stroke([(x, y), (x + ground.between(5, 12), y)], (170, 208, 222), 0.7)
    x = ground.between(8, 84)
    ground.area([(x, 54), (x + 16, 54), (x + 12, 59), (x + 3, 59)], (132, 62, 44))
    ground.area([(x + 8, 30), (x + 8, 53), (x + 17, 53)], (250, 248, 240))
    ground.bands((150, 110, 74), (120, 86, 58), 84, 100)
    for x in range(0, 100, 12):
        ground.stroke([(x, 84), (x - 4, 100)], (98, 70, 48), 0.8)


def _train_station(ground: Ground) -> None:
    ground.bands((176, 184, 194), (206, 210, 214), 0, 100)
    ground.area([(0, 0), (100, 0), (100, 8), (0, 14)], (84, 92, 104))
    train = ground.vary(((196, 48, 48), (40, 90, 160), (52, 128, 84))[int(ground.rng.integers(3))], 8)
    ground.box(0, 22, 100, 66, (232, 234, 236))
    ground.box(0, 48, 100, 58, train)
    for x in range(2, 100, 17):
        ground.box(x, 28, x + 12, 43, (52, 66, 84))
    ground.box(0, 66, 100, 71, (58, 60, 66))
    ground.box(0, 76, 100, 79, (242, 206, 70))
    ground.bands((160, 158, 154), (136, 134, 130), 79, 100)
    disc(ground.canvas, np.array([ground.between(10, 90), 16]) * ground.unit, 6 * ground.unit, (250, 250, 246))


def _library(ground: Ground) -> None:
    ground.bands((112, 76, 50), (92, 62, 42), 0, 100)
    for shelf in range(5):
        y = 3 + shelf * 19.0
        x = 1.0
        ground.box(0, y, 100, y + 15.5, (64, 42, 30))
        widths, tall = ground.rng.uniform(3.4, 6.6, 26), ground.rng.uniform(10, 14.5, 26)
        colours = ground.rng.uniform((90, 40, 40), (220, 180, 170), (26, 3))
        for width, height, colour in zip(widths.tolist(), tall.tolist(), colours.tolist()):
            if x > 98:
                break
            ground.box(x, y + 15.5 - height, x + width - 0.7, y + 15.5, clip_colour(tuple(colour)))
            x += width


def _city_at_night(ground: Ground) -> None:
    ground.bands((22, 26, 56), (76, 58, 104), 0, 100)
    disc(ground.canvas, np.array([ground.between(10, 90), 12]) * ground.unit, 5 * ground.unit, (246, 240, 208))
    x = 0.0
    while x < 100:
        width, top = ground.between(10, 18), ground.between(16, 46)
        ground.box(x, top, x + width - 1, 84, ground.vary((34, 36, 62), 5))
        lights = ground.rng.random((12, 3))
        for row in range(12):
            for column in range(3):
                if lights[row, column] < 0.45 and top + 4 + row * 6 < 80:
                    wx, wy = x + width * (0.12 + 0.28 * column), top + 4 + row * 6
                    ground.box(wx, wy, wx + 1.8, wy + 2.6, (250, 214, 120))
        x += width
    ground.bands((50, 46, 66), (36, 34, 50), 84, 100)
    for x in (ground.between(4, 24), ground.between(76, 96)):
        ground.blob(x, 70, 5, 5, (248, 206, 120))


def _garden(ground: Ground) -> None:
    ground.bands(ground.vary((196, 226, 244)), (232, 244, 248), 0, 34)
    ground.bands((92, 148, 78), (62, 116, 58), 30, 66)
    for x in range(0, 100, 7):
        ground.box(x, 26, x + 4.6, 60, (244, 240, 230))
        ground.area([(x, 26), (x + 2.3, 22), (x + 4.6, 26)], (244, 240, 230))
    ground.box(0, 36, 100, 39, (228, 222, 208))
    ground.bands((112, 172, 82), (88, 144, 66), 60, 100)
    places = ground.rng.uniform((0, 56), (100, 98), (30, 2)).tolist()
    for index, (x, y) in enumerate(places):
        disc(ground.canvas, (x * ground.unit, y * ground.unit), 1.9 * ground.unit, ((232, 70, 92), (250, 206, 70), (196, 110, 210), (250, 250, 250))[index % 4])


def _stadium(ground: Ground) -> None:
    ground.bands((66, 74, 96), (92, 98, 118), 0, 56)
    crowd = ground.rng.integers(60, 230, (7, 26, 3)).tolist()
    for row in range(7):
        for column in range(26):
            colour: Colour = (crowd[row][column][0], crowd[row][column][1], crowd[row][column][2])
            disc(ground.canvas, ((column * 4 + (row % 2) * 2) * ground.unit, (8 + row * 6.5) * ground.unit), 1.7 * ground.unit, colour)
    ground.box(0, 52, 100, 59, (236, 238, 240))
    ground.box(0, 54, 100, 57, ground.vary((200, 60, 60), 30))
    for x in range(0, 100, 20):
        ground.box(x, 59, x + 10, 100, (86, 164, 74))
        ground.box(x + 10, 59, x + 20, 100, (74, 148, 64))
    ground.box(0, 80, 100, 81.2, (246, 246, 246))


PLACES: dict[str, Callable[[Ground], None]] = {
    "beach": _beach,
    "park": _park,
    "street": _street,
    "kitchen": _kitchen,
    "office": _office,
    "mountain": _mountain,
    "snow": _snow,
    "tennis court": _tennis_court,
    "living room": _living_room,
    "forest": _forest,
    "desert": _desert,
    "lake": _lake,
    "train station": _train_station,
    "library": _library,
    "city at night": _city_at_night,
    "garden": _garden,
    "stadium": _stadium,
}


def draw_place(canvas: np.ndarray, place: str, rng: np.random.Generator) -> None:
    """Paint `place` (a key of PLACES) over the whole square canvas."""
    PLACES[place](Ground(canvas, rng))
