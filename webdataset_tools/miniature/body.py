"""Bodies: a person's torso, arms and legs in given clothes and posture -> strokes around the head.

Lengths are in frame units (a head is about 130 high); `Figure` turns them into pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from webdataset_tools.miniature.canvas import disc, line, polygon, spline
from webdataset_tools.miniature.hair import body_skin
from webdataset_tools.miniature.palette import Colour, mix, shade
from webdataset_tools.miniature.people import Person


@dataclass(frozen=True)
class Clothes:
    """What a person wears; `top` and `bottom` are colours."""

    garment: str  # shirt, jacket, sweater, dress, striped shirt, coat
    top: Colour
    bottom: Colour


@dataclass(frozen=True)
class Figure:
    """Where a body stands: the middle of the shoulders in pixels and pixels a frame unit."""

    shoulders: tuple[float, float]
    scale: float

    def at(self, points: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Turn offsets from the middle of the shoulders, in frame units, into pixels."""
        return np.asarray(points, np.float64) * self.scale + self.shoulders


def half_shoulder(person: Person) -> float:
    """Return half the shoulder width in frame units."""
    return (86.0 if person.gender == "m" else 70.0) + 3.5 * person.head.shoulders


def draw_body(canvas: np.ndarray, person: Person, clothes: Clothes, figure: Figure, seated: bool = False) -> None:
    """Paint legs and torso; arms come later (`draw_arm`), so that hands lie over held things."""
    wide = half_shoulder(person)
    waist = wide * (0.80 if person.gender == "m" else 0.72)
    _draw_legs(canvas, clothes, figure, waist, seated)
    long = 430.0 if clothes.garment in ("dress", "coat") else 288.0
    flare = waist * (1.5 if clothes.garment == "dress" else 1.08)
    half = np.array(
        [[16, -14], [wide * 0.6, 2], [wide * 0.97, 24], [wide * 1.0, 70], [waist, 190], [flare, long], [0, long + 6]]
    )
    outline = np.concatenate([half, half[-2::-1] * [-1, 1]])
    polygon(canvas, figure.at(outline), clothes.top)
    side = np.array(
        [[wide * 0.55, 60], [wide * 1.02, 70], [waist, 190], [flare, long], [flare * 0.66, long], [waist * 0.66, 190]]
    )
    polygon(canvas, figure.at(side), shade(clothes.top, 0.9))
    _draw_details(canvas, person, clothes, figure, wide, waist, long)


def _draw_legs(canvas: np.ndarray, clothes: Clothes, figure: Figure, waist: float, seated: bool) -> None:
    width = 62 * figure.scale
    for side in (-1.0, 1.0):
        if seated:
            path = [[side * waist * 0.5, 280], [side * waist * 0.9, 330], [side * waist * 0.85, 520]]
        else:
            path = [[side * waist * 0.5, 270], [side * waist * 0.52, 420], [side * waist * 0.56, 590]]
        line(canvas, figure.at(path), clothes.bottom, width)
        foot = figure.at((path[-1][0] + side * 10, path[-1][1] + 28))
        polygon(
            canvas,
            foot + np.array([[-36, 14], [-34, -12], [20, -14], [40, 4], [40, 14]]) * [side, 1] * figure.scale,
            (46, 40, 40),
        )


def _draw_details(
    canvas: np.ndarray, person: Person, clothes: Clothes, figure: Figure, wide: float, waist: float, long: float
) -> None:
    dark = shade(clothes.top, 0.72)
    light = mix(clothes.top, (255, 255, 255), 0.75) if sum(clothes.top) < 600 else shade(clothes.top, 0.62)
    skin = shade(body_skin(person.head), 0.86)
    if clothes.garment == "striped shirt":
        for y in np.arange(40, long - 10, 44):
            half = wide * 0.98 if y < 110 else waist * 0.99
            polygon(canvas, figure.at([[-half, y], [half, y], [half, y + 17], [-half, y + 17]]), light)
    neck = {"dress": 44.0, "shirt": 26.0, "striped shirt": 20.0}.get(clothes.garment, 16.0)
    polygon(
        canvas,
        spline(figure.at([[-27, -10], [27, -10], [17, neck * 0.7], [0, neck], [-17, neck * 0.7]]), 3, closed=True),
        skin,
    )
    if clothes.garment in ("jacket", "coat"):
        inner = (236, 234, 228) if sum(clothes.top) < 560 else (70, 74, 84)
        polygon(canvas, figure.at([[-28, -8], [28, -8], [10, 150], [0, 190], [-10, 150]]), inner)
        for side in (-1.0, 1.0):
            polygon(
                canvas,
                figure.at(np.array([[20, -12], [44, -2], [40, 60], [6, 150], [14, 60]]) * [side, 1]),
                shade(clothes.top, 0.82),
            )
        line(canvas, figure.at([[0, 190], [0, long]]), dark, 3 * figure.scale)
    elif clothes.garment == "shirt":
        line(canvas, figure.at([[0, neck + 4], [0, long]]), shade(clothes.top, 0.85), 2.5 * figure.scale)
        for side in (-1.0, 1.0):
            polygon(
                canvas,
                figure.at(np.array([[26, -14], [34, 4], [10, 34], [2, 24]]) * [side, 1]),
                mix(clothes.top, (255, 255, 255), 0.25),
            )
    elif clothes.garment == "sweater":
        line(canvas, spline(figure.at([[-30, -6], [-16, 14], [0, 20], [16, 14], [30, -6]]), 3), dark, 10 * figure.scale)
        line(canvas, figure.at([[-waist, long - 8], [waist, long - 8]]), shade(clothes.top, 0.82), 12 * figure.scale)
    elif clothes.garment == "dress":
        line(canvas, figure.at([[-waist * 0.98, 196], [waist * 0.98, 196]]), dark, 9 * figure.scale)


def draw_arm(
    canvas: np.ndarray, person: Person, clothes: Clothes, figure: Figure, side: float, hand: tuple[float, float]
) -> None:
    """Paint one arm (side -1 left, 1 right of the picture) whose hand lies at `hand`, an offset from the shoulders."""
    wide = half_shoulder(person)
    joint = np.array([side * (wide - 16), 34.0])
    end = np.asarray(hand, np.float64)
    if end[1] > 60:  # a hanging upper arm, the forearm towards the hand
        elbow = joint + [side * (14.0 if side * end[0] < wide else 26.0), 96.0]
    elif side * end[0] > 190:  # stretched out
        elbow = (joint + end) / 2 + [0, 10]
    else:  # raised
        elbow = joint + [side * 62.0, 66.0]
    width = (46 if person.gender == "m" else 36) * figure.scale
    bare = clothes.garment == "dress"
    skin = body_skin(person.head)
    sleeve = shade(clothes.top, 0.94)
    wrist = elbow + (end - elbow) * 0.86
    line(canvas, figure.at([elbow, end]), shade(skin, 0.92), width * 0.66)
    if bare:
        line(canvas, figure.at([joint, elbow]), shade(skin, 0.94), width * 0.74)
        line(canvas, figure.at([joint, joint + (elbow - joint) * 0.3]), sleeve, width)
    else:
        line(canvas, figure.at([joint, elbow, wrist]), shade(clothes.top, 0.78), width * 1.06)
        line(canvas, figure.at([joint, elbow, wrist]), sleeve, width * 0.94)
    disc(canvas, figure.at(hand), 21 * figure.scale, skin)
