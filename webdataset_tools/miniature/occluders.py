"""What hides half a face: the name of an occluder -> strokes over a posed head."""

from collections.abc import Callable

import numpy as np

from webdataset_tools.miniature.canvas import line, polygon, spline
from webdataset_tools.miniature.head_frame import HeadFrame
from webdataset_tools.miniature.palette import Colour, mix, shade


def _mask(canvas: np.ndarray, frame: HeadFrame, colour: Colour) -> None:
    edge = np.array([[20, 66], [56, 60], [92, 66], [90, 92], [78, 112], [56, 122], [34, 112], [22, 92]])
    polygon(canvas, frame.on_face(edge, 7.0), (168, 204, 222))
    for y in (82, 92, 102):
        line(canvas, frame.on_face(np.array([[28, y], [56, y - 3], [84, y]]), 7.0), (132, 172, 194), 1.5 * frame.scale)


def _scarf(canvas: np.ndarray, frame: HeadFrame, colour: Colour) -> None:
    edge = np.array([[10, 80], [30, 74], [56, 72], [82, 74], [102, 80], [106, 128], [56, 142], [6, 128]])
    polygon(canvas, spline(frame.on_face(edge, 8.0), 3, closed=True), colour)
    for y in (94, 110, 124):
        line(canvas, frame.on_face(np.array([[14, y], [56, y + 6], [98, y]]), 8.0), shade(colour, 0.8), 3 * frame.scale)


def _sunglasses(canvas: np.ndarray, frame: HeadFrame, colour: Colour) -> None:
    for side in (-1, 1):
        lens = np.array([[4, 42], [38, 40], [38, 58], [24, 68], [8, 64]]) * [side, 1] + [56, 0]
        polygon(canvas, spline(frame.on_face(lens, 7.0), 3, closed=True), (24, 24, 30))
    line(canvas, frame.on_face(np.array([[50, 46], [56, 44], [62, 46]]), 7.0), (24, 24, 30), 4 * frame.scale)


def _pillar(canvas: np.ndarray, frame: HeadFrame, colour: Colour) -> None:
    side = 1.0 if int(colour[0]) % 2 else -1.0
    inner, outer = frame.centre[0] + side * 2 * frame.scale, frame.centre[0] + side * 78 * frame.scale
    height = canvas.shape[0]
    polygon(canvas, np.array([[inner, -2], [outer, -2], [outer, height + 2], [inner, height + 2]]), (120, 108, 98))
    polygon(
        canvas,
        np.array(
            [
                [inner, -2],
                [inner + side * 18 * frame.scale, -2],
                [inner + side * 18 * frame.scale, height + 2],
                [inner, height + 2],
            ]
        ),
        (146, 132, 120),
    )


def _leaves(canvas: np.ndarray, frame: HeadFrame, colour: Colour) -> None:
    side = 1.0 if int(colour[1]) % 2 else -1.0
    for index in range(9):
        base = frame.centre + np.array([side * (72 - 5 * index), -84 + 20 * index]) * frame.scale
        tip = base + np.array([-side * (66 - 3 * index), 22]) * frame.scale
        across = np.array([-(tip - base)[1], (tip - base)[0]]) * 0.2
        middle = (base + tip) / 2
        polygon(
            canvas,
            spline(np.array([base, middle + across, tip, middle - across]), 3, closed=True),
            mix((44, 112, 54), (96, 164, 74), index / 8),
        )


OCCLUDERS: dict[str, Callable[[np.ndarray, HeadFrame, Colour], None]] = {
    "mask": _mask,
    "scarf": _scarf,
    "sunglasses": _sunglasses,
    "pillar": _pillar,
    "leaves": _leaves,
}


STANDING = ("pillar", "leaves")  # before the person; the others are worn


def draw_occluder(canvas: np.ndarray, name: str, frame: HeadFrame, colour: Colour) -> None:
    """Paint occluder `name` (a key of OCCLUDERS) over the head in `frame`; a scarf takes `colour`."""
    OCCLUDERS[name](canvas, frame, colour)
