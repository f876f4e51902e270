"""Hair, ears and neck: a person's head traits in a posed frame -> strokes behind and in front of the face."""

from math import cos, radians, sin

import numpy as np

from webdataset_tools.miniature.canvas import disc, oval, polygon, spline
from webdataset_tools.miniature.head_frame import MIDDLE, FacePose, HeadFrame
from webdataset_tools.miniature.palette import HAIR, Colour, mix, shade, skin_colour
from webdataset_tools.miniature.people import HeadTraits, skin_share

_LONG = {"bob": 104.0, "long": 150.0, "wavy": 144.0, "fringe": 128.0}  # how far down hair falls, frame y


def body_skin(head: HeadTraits) -> Colour:
    """Return the skin colour of neck, ears and hands."""
    return skin_colour(skin_share(head.skin_tone), head.skin_warmth, head.skin_red)


def hair_colour(head: HeadTraits) -> Colour:
    """Return the hair's colour."""
    return shade(HAIR[head.hair_colour], 1.0 + 0.09 * head.hair_shade)


def hairline(head: HeadTraits) -> float:
    """Return the frame y at which the forehead meets the hair."""
    base = {"bald": 8.0, "receding": 9.0, "buzz": 13.0}.get(head.hair_style, 17.0)
    return base + 1.8 * head.hairline


def skull(head: HeadTraits, pose: FacePose, frame: HeadFrame, extra: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Return centre and half axes (pixels) of the projected skull, `extra` units larger all round (hair)."""
    centre = frame.project(np.array([[56.0, 34.0 - 1.5 * head.skull_height, -10.0]]))[0]
    yaw, pitch = radians(pose.yaw), radians(pose.pitch)
    wide, deep, high = 43.0 + extra, 51.0 + extra, 44.0 + 2.0 * head.skull_height + extra
    across = np.hypot(wide * cos(yaw), deep * sin(yaw))
    upright = np.hypot(high * cos(pitch), deep * sin(pitch))
    return centre, (float(across * frame.scale), float(upright * frame.scale))


def draw_back_hair(canvas: np.ndarray, head: HeadTraits, pose: FacePose, frame: HeadFrame) -> None:
    """Paint the hair that falls behind neck and shoulders."""
    colour = shade(hair_colour(head), 0.82)
    style, volume = head.hair_style, 2.0 * head.hair_volume
    if style in _LONG:
        length = _LONG[style] + (4 if style == "bob" else 10) * head.hair_length
        wide = 50.0 + volume + (5 if style == "wavy" else 0)
        half = np.array(
            [
                [0, -12],
                [34, 0],
                [wide, 34],
                [wide + 2, 80],
                [wide + (2 if style == "bob" else -2), length],
                [wide * 0.4, length + 6],
            ]
        )
        if style == "wavy":
            half[2:5, 0] += np.array([4.0, -3.0, 5.0])
        # Hair has depth: seen from the side it stays nearly as wide and moves to the back of the head.
        half[:, 0] *= np.hypot(cos(radians(pose.yaw)), 0.8 * sin(radians(pose.yaw)))
        middle = frame.project(np.array([[*MIDDLE, -14.0]]))[0]
        upright = HeadFrame(FacePose(roll=pose.roll * 0.5), frame.scale, (float(middle[0]), float(middle[1])))
        outline = np.concatenate([half, half[::-1] * [-1, 1]])
        points = np.column_stack([outline[:, 0] + 56, outline[:, 1], np.zeros(len(outline))])
        polygon(canvas, spline(upright.project(points), 3, closed=True), colour)
    elif style == "ponytail":
        side = 1.0 if head.parting > 0 else -1.0
        tail = np.array(
            [
                [56 + side * 34, 10, -46.0],
                [56 + side * 62, 40, -40],
                [56 + side * 60, 110, -30],
                [56 + side * 48, 124, -30],
                [56 + side * 44, 60, -40],
            ]
        )
        tail[:, 2] -= np.array([0, 16, 22, 0, 0]) * abs(sin(radians(pose.yaw)))
        polygon(canvas, spline(frame.project(tail), 3, closed=True), colour)
    elif style == "bun":
        place = frame.project(np.array([[56.0, -16 - volume, -26.0]]))[0]
        disc(canvas, place, (19 + volume) * frame.scale, colour)


def draw_skull(canvas: np.ndarray, head: HeadTraits, pose: FacePose, frame: HeadFrame) -> None:
    """Paint the mass of the hair (or the bare skull), onto which the face is painted."""
    style, colour, volume = head.hair_style, hair_colour(head), 1.6 * head.hair_volume
    if style == "bald":
        centre, radii = skull(head, pose, frame, 0.0)
        oval(canvas, centre, radii, shade(body_skin(head), 0.97), pose.roll)
        return
    if style == "buzz":
        colour = mix(body_skin(head), colour, 0.72)
    extra = {
        "buzz": 0.0,
        "receding": 1.0,
        "short": 4.0,
        "side": 5.0,
        "quiff": 5.0,
        "pixie": 5.0,
        "curly": 9.0,
        "afro": 23.0,
    }.get(style, 6.0)
    centre, radii = skull(head, pose, frame, extra + (0 if style in ("buzz", "receding") else volume))
    if style in ("curly", "afro"):
        ring = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        bump = (9.0 if style == "curly" else 7.0) * frame.scale
        turn = radians(pose.roll)
        x, y = np.cos(ring) * (radii[0] - bump * 0.3), np.sin(ring) * (radii[1] - bump * 0.3)
        for dx, dy in zip(x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)):
            disc(canvas, centre + [dx, dy], bump, colour)
    oval(canvas, centre, radii, colour, pose.roll)


def draw_ears(canvas: np.ndarray, head: HeadTraits, pose: FacePose, frame: HeadFrame) -> None:
    """Paint the ears that the hair leaves free."""
    if head.hair_style in ("long", "wavy", "bob", "afro", "fringe"):
        return
    skin = body_skin(head)
    size = 8.5 + 0.9 * head.ear_size
    for side in (-1.0, 1.0):
        if side * pose.yaw > 25:
            continue
        place = frame.project(np.array([[56 + side * 43.5, 61.0, -2.0]]))[0]
        wide = size * (0.55 + 0.35 * abs(sin(radians(pose.yaw))))
        oval(canvas, place, (wide * frame.scale, size * 1.35 * frame.scale), shade(skin, 0.9), pose.roll + 8 * side)
        oval(
            canvas, place, (wide * 0.5 * frame.scale, size * 0.8 * frame.scale), shade(skin, 0.74), pose.roll + 8 * side
        )


def draw_neck(canvas: np.ndarray, head: HeadTraits, frame: HeadFrame, gender: str, end: tuple[float, float]) -> None:
    """Paint the neck from the head to `end` (pixels, the middle of the shoulders)."""
    half = (25.0 if gender == "m" else 20.0) + 1.6 * head.neck_width
    top = frame.project(np.array([[56.0 - half, 92.0, -8.0], [56.0 + half, 92.0, -8.0]]))
    width = half * 1.12 * frame.scale
    bottom = np.array([[end[0] + width, end[1]], [end[0] - width, end[1]]])
    polygon(canvas, np.concatenate([top, bottom]), shade(body_skin(head), 0.8))


def _on_hair(points: np.ndarray, yaw: float, line: float) -> np.ndarray:
    """Lay points (distance from the middle line, y) on the hair [n, 3]; strands of the side turned away are drawn up."""
    x, y = points[:, 0], points[:, 1].copy()
    away = np.clip((np.abs(yaw) - 15) / 30, 0, 1) * (x * yaw > 0)
    y -= away * np.maximum(0, y - line)
    depth = 47 - 47 * (np.abs(x) / 44) ** 1.6 - np.maximum(0, 17 - y) ** 2 / 30
    return np.column_stack([x + 56, y, np.maximum(depth, -12.0)])


def draw_front_hair(canvas: np.ndarray, head: HeadTraits, pose: FacePose, frame: HeadFrame) -> None:
    """Paint what falls over the forehead and the temples."""
    style = head.hair_style
    if style in ("bald", "buzz", "receding"):
        return
    colour = hair_colour(head)
    line = hairline(head)
    side = 1.0 if head.parting > 0 else -1.0
    top = line - 14.0
    if style == "fringe":
        shape = np.array(
            [
                [-40, 46],
                [-37, 33],
                [-18, 35.5],
                [0, 36],
                [18, 35.5],
                [37, 33],
                [40, 46],
                [43, 24],
                [26, top - 4],
                [0, top - 8],
                [-26, top - 4],
                [-43, 24],
            ]
        )
    elif style in ("side", "pixie", "short"):
        drop = {"side": 12.0, "pixie": 16.0, "short": 5.0}[style]
        shape = np.array(
            [
                [-40, 48],
                [-36, 26],
                [-22, line + drop],
                [6, line + drop * 0.45],
                [24, line - 1],
                [35, 24],
                [40, 46],
                [43, 22],
                [26, top - 4],
                [0, top - 8],
                [-26, top - 4],
                [-43, 22],
            ]
        )
    elif style == "quiff":
        shape = np.array(
            [
                [-39, 46],
                [-35, 24],
                [-20, line + 2],
                [0, line - 1],
                [20, line + 2],
                [35, 24],
                [39, 46],
                [42, 18],
                [30, top - 18],
                [6, top - 25],
                [-22, top - 16],
                [-42, 16],
            ]
        )
    elif style in ("curly", "afro"):
        for index, x in enumerate(np.linspace(-31, 31, 7)):
            y = line + 1.5 + 0.009 * x * x + (1.5 if index % 2 else -1.5)
            disc(canvas, frame.on_face(np.array([[56 + side * x, y]]), 2.0)[0], 8.0 * frame.scale, colour)
        return
    else:  # parted, falling to both sides
        shape = np.array(
            [
                [-45, 78],
                [-39, 52],
                [-31, 34],
                [-12, line + 5],
                [10, line - 3],
                [26, 28],
                [37, 50],
                [45, 78],
                [47, 34],
                [28, top - 4],
                [4, top - 9],
                [-28, top - 4],
                [-47, 34],
            ]
        )
        if style in ("ponytail", "bun"):
            shape[[0, 7], 1] = 54
    polygon(canvas, spline(frame.project(_on_hair(shape * [side, 1], pose.yaw, line)), 3, closed=True), colour)
    shine = np.array([[-24, line - 2], [-8, line - 8], [10, line - 8], [2, line - 5], [-10, line - 3]])
    if frame.scale > 0.3 and style in ("side", "short", "quiff", "long", "bob", "fringe", "pixie"):
        lift = -6.0 if style == "quiff" else 0.0
        polygon(
            canvas,
            spline(frame.on_face(shine * [side, 1] + [56, lift], 6.0), 3, closed=True),
            mix(colour, (255, 240, 220), 0.16),
        )
