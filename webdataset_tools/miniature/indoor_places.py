"""Painters of indoor and built places: a `Ground` -> its background."""

import numpy as np

from webdataset_tools.miniature.canvas import Ground, disc
from webdataset_tools.miniature.palette import Colour, clip_colour, shade


def kitchen(ground: Ground) -> None:
    """Paint a kitchen."""
    ground.bands(ground.vary((250, 238, 214)), (240, 222, 190), 0, 100)
    door = ground.vary(
        ((120, 170, 160), (196, 150, 104), (226, 226, 220), (92, 120, 158))[int(ground.rng.integers(4))], 6
    )
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
    for pot in (ground.between(4, 30), ground.between(70, 92)):
        ground.box(pot, 54, pot + 7, 61, ground.vary((196, 70, 60), 30))


def office(ground: Ground) -> None:
    """Paint an office."""
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


def living_room(ground: Ground) -> None:
    """Paint a living room."""
    wall = ground.vary(
        ((222, 198, 168), (178, 200, 190), (204, 188, 214), (232, 216, 176))[int(ground.rng.integers(4))], 6
    )
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


def train_station(ground: Ground) -> None:
    """Paint a train station."""
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


def library(ground: Ground) -> None:
    """Paint a library."""
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


def stadium(ground: Ground) -> None:
    """Paint a stadium."""
    ground.bands((66, 74, 96), (92, 98, 118), 0, 56)
    crowd = ground.rng.integers(60, 230, (7, 26, 3)).tolist()
    for row in range(7):
        for column in range(26):
            colour: Colour = (crowd[row][column][0], crowd[row][column][1], crowd[row][column][2])
            disc(
                ground.canvas,
                ((column * 4 + (row % 2) * 2) * ground.unit, (8 + row * 6.5) * ground.unit),
                1.7 * ground.unit,
                colour,
            )
    ground.box(0, 52, 100, 59, (236, 238, 240))
    ground.box(0, 54, 100, 57, ground.vary((200, 60, 60), 30))
    for x in range(0, 100, 20):
        ground.box(x, 59, x + 10, 100, (86, 164, 74))
        ground.box(x + 10, 59, x + 20, 100, (74, 148, 64))
    ground.box(0, 80, 100, 81.2, (246, 246, 246))
