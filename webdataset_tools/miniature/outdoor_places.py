"""Painters of outdoor places: a `Ground` -> its background."""

import numpy as np

from webdataset_tools.miniature.canvas import Ground, disc, spline
from webdataset_tools.miniature.palette import Colour, mix, shade


def _clouds(ground: Ground, count: int) -> None:
    for _ in range(count):
        x, y = ground.between(0, 100), ground.between(4, 26)
        for dx in (-5, 0, 5):
            ground.blob(x + dx, y - (2 if dx == 0 else 0), 6, 3.2, (250, 252, 255))


def _tree(ground: Ground, x: float, y: float, size: float, leaf: Colour) -> None:
    ground.box(x - size * 0.09, y - size * 0.5, x + size * 0.09, y, (104, 72, 46))
    for dx, dy, r in ((0, -0.95, 0.36), (-0.25, -0.68, 0.3), (0.25, -0.68, 0.3)):
        ground.blob(x + dx * size, y + dy * size, r * size, r * size, shade(leaf, 1 - 0.12 * dx - 0.1 * dy - 0.1))


def beach(ground: Ground) -> None:
    """Paint a beach."""
    ground.bands(ground.vary((120, 190, 238)), (206, 232, 246), 0, 40)
    disc(ground.canvas, np.array([ground.between(8, 92), 10]) * ground.unit, 6 * ground.unit, (255, 238, 150))
    ground.bands((36, 132, 178), (92, 190, 204), 40, 58)
    for y in (45, 50, 54):
        ground.stroke([(ground.between(0, 40), y), (ground.between(50, 100), y)], (190, 228, 236), 0.8)
    ground.bands(ground.vary((240, 216, 160)), (214, 182, 122), 58, 100)
    ground.area(
        spline(np.array([(0, 60), (25, 57), (50, 60), (75, 57), (100, 60), (100, 56), (0, 56)]), 3), (240, 248, 246)
    )
    if ground.rng.random() < 0.6:
        x = ground.between(5, 95)
        ground.stroke([(x, 90), (x + 3, 52)], (120, 84, 52), 2)
        for angle in (-2.6, -2.0, -1.2, -0.5):
            ground.stroke(
                [(x + 3, 52), (x + 3 + 13 * np.cos(angle), 52 + 9 * np.sin(angle)), (x + 3 + 18 * np.cos(angle), 56)],
                (48, 128, 62),
                2.2,
            )


def park(ground: Ground) -> None:
    """Paint a park."""
    ground.bands(ground.vary((150, 206, 242)), (222, 240, 250), 0, 45)
    _clouds(ground, 2)
    ground.bands(ground.vary((126, 186, 88)), (84, 150, 62), 45, 100)
    for x in np.linspace(2, 98, 6):
        _tree(
            ground,
            x + ground.between(-6, 6),
            ground.between(46, 58),
            ground.between(22, 36),
            ground.vary((62, 138, 66), 14),
        )
    ground.area([(40, 100), (70, 100), (58, 46), (54, 46)], (214, 198, 166))


def street(ground: Ground) -> None:
    """Paint a street."""
    ground.bands((186, 206, 222), (226, 230, 232), 0, 62)
    x = 0.0
    while x < 100:
        width, top = ground.between(14, 24), ground.between(4, 30)
        wall = ground.vary(
            ((188, 120, 96), (206, 190, 158), (150, 158, 172), (196, 156, 110))[int(ground.rng.integers(4))]
        )
        ground.box(x, top, x + width, 64, wall)
        for wy in np.arange(top + 5, 58, 10):
            for wx in (x + width * 0.2, x + width * 0.6):
                ground.box(wx, wy, wx + width * 0.22, wy + 6, mix(wall, (60, 80, 110), 0.7))
        x += width
    ground.box(0, 64, 100, 72, (188, 186, 180))
    ground.bands((98, 100, 106), (74, 76, 82), 72, 100)
    for x in range(-5, 100, 22):
        ground.area([(x, 86), (x + 12, 86), (x + 11, 89), (x - 2, 89)], (236, 232, 210))


def mountain(ground: Ground) -> None:
    """Paint a mountain."""
    ground.bands(ground.vary((132, 182, 232)), (222, 236, 246), 0, 67)
    for base, tone in ((58, (138, 152, 178)), (66, (98, 114, 138))):
        for x in np.linspace(0, 100, 4):
            peak, left, right = ground.between(14, 30) + base - 58, ground.between(22, 34), ground.between(22, 34)
            ground.area([(x - left, base + 6), (x, peak), (x + right, base + 6)], ground.vary(tone, 6))
            cap = 0.3
            ground.area(
                [
                    (x - left * cap, peak + (base + 6 - peak) * cap),
                    (x, peak),
                    (x + right * cap, peak + (base + 6 - peak) * cap),
                    (x + 2, peak + 11),
                ],
                (246, 248, 252),
            )
    ground.bands(ground.vary((128, 160, 96)), (92, 122, 72), 66, 100)


def snow(ground: Ground) -> None:
    """Paint a snow."""
    ground.bands(ground.vary((170, 200, 232)), (226, 236, 246), 0, 52)
    ground.area(
        spline(np.array([(0, 46), (25, 38), (50, 48), (78, 40), (100, 50), (100, 100), (0, 100)]), 4), (238, 244, 252)
    )
    ground.area(spline(np.array([(0, 66), (30, 60), (60, 70), (100, 60), (100, 100), (0, 100)]), 4), (252, 253, 255))
    for _ in range(6):
        x, y, s = ground.between(2, 98), ground.between(50, 66), ground.between(14, 24)
        for k in range(3):
            ground.area(
                [
                    (x - s * (0.34 - 0.07 * k), y - s * 0.3 * k),
                    (x, y - s * (0.5 + 0.28 * k)),
                    (x + s * (0.34 - 0.07 * k), y - s * 0.3 * k),
                ],
                (48, 96, 84),
            )
    spots = ground.rng.uniform(0, 100, (26, 2)).tolist()
    for x, y in spots:
        disc(ground.canvas, (x * ground.unit, y * ground.unit), 0.7 * ground.unit, (255, 255, 255))


def tennis_court(ground: Ground) -> None:
    """Paint a tennis court."""
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


def forest(ground: Ground) -> None:
    """Paint a forest."""
    ground.bands((88, 128, 84), (132, 160, 100), 0, 73)
    for depth in (0.75, 0.9, 1.0):
        for _ in range(6):
            x, wide = ground.between(0, 100), ground.between(2.2, 5.5) * depth
            bark = mix((96, 74, 54), (110, 140, 96), 1.0 - depth)
            ground.area([(x - wide * 0.7, 0), (x + wide * 0.7, 0), (x + wide, 76), (x - wide, 76)], bark)
    for _ in range(12):
        ground.blob(
            ground.between(0, 100),
            ground.between(-4, 16),
            ground.between(8, 16),
            ground.between(5, 10),
            ground.vary((42, 96, 50), 12),
        )
    ground.bands((84, 110, 58), (60, 80, 42), 72, 100)
    for _ in range(8):
        ground.blob(
            ground.between(0, 100),
            ground.between(72, 80),
            ground.between(5, 10),
            ground.between(3, 5),
            ground.vary((58, 110, 52), 12),
        )


def desert(ground: Ground) -> None:
    """Paint a desert."""
    ground.bands(ground.vary((246, 180, 112)), (252, 224, 170), 0, 60)
    disc(ground.canvas, np.array([ground.between(12, 88), 18]) * ground.unit, 8 * ground.unit, (255, 246, 210))
    ground.area(
        spline(np.array([(0, 54), (28, 44), (55, 58), (80, 48), (100, 54), (100, 100), (0, 100)]), 4), (222, 162, 92)
    )
    ground.area(spline(np.array([(0, 74), (35, 62), (70, 76), (100, 66), (100, 100), (0, 100)]), 4), (238, 184, 112))
    for x in (ground.between(4, 26), ground.between(74, 96)):
        ground.stroke([(x, 80), (x, 46)], (70, 128, 76), 4)
        ground.stroke([(x, 66), (x + 7, 66), (x + 7, 56)], (70, 128, 76), 2.8)


def lake(ground: Ground) -> None:
    """Paint a lake."""
    ground.bands(ground.vary((160, 200, 226)), (238, 226, 206), 0, 42)
    ground.area(
        spline(np.array([(0, 42), (20, 30), (42, 40), (66, 28), (100, 40), (100, 46), (0, 46)]), 4), (84, 122, 104)
    )
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


def city_at_night(ground: Ground) -> None:
    """Paint a city at night."""
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


def garden(ground: Ground) -> None:
    """Paint a garden."""
    ground.bands(ground.vary((196, 226, 244)), (232, 244, 248), 0, 34)
    ground.bands((92, 148, 78), (62, 116, 58), 30, 66)
    for x in range(0, 100, 7):
        ground.box(x, 26, x + 4.6, 60, (244, 240, 230))
        ground.area([(x, 26), (x + 2.3, 22), (x + 4.6, 26)], (244, 240, 230))
    ground.box(0, 36, 100, 39, (228, 222, 208))
    ground.bands((112, 172, 82), (88, 144, 66), 60, 100)
    places = ground.rng.uniform((0, 56), (100, 98), (30, 2)).tolist()
    for index, (x, y) in enumerate(places):
        disc(
            ground.canvas,
            (x * ground.unit, y * ground.unit),
            1.9 * ground.unit,
            ((232, 70, 92), (250, 206, 70), (196, 110, 210), (250, 250, 250))[index % 4],
        )
