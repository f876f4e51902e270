"""Facial features: a person's face traits -> shapes on the face brush, in painter's order."""

import zlib

import numpy as np

from webdataset_tools.miniature.brush import Brush, mirrored
from webdataset_tools.miniature.canvas import ribbon, spline, xy
from webdataset_tools.miniature.palette import EYES, HAIR, Colour, mix, shade, skin_colour
from webdataset_tools.miniature.people import FaceTraits, skin_share

_ARC = np.linspace(0.0, np.pi, 9)
_LEFT_TO_RIGHT, _BULGE = -np.cos(_ARC), np.sin(_ARC)
_ANGLES = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
_CIRCLE = xy(np.cos(_ANGLES), np.sin(_ANGLES))
_SQUIRCLE = np.sign(_CIRCLE) * np.abs(_CIRCLE) ** 0.5
_HEXAGON = _CIRCLE[::3]
_FLIP = np.array([-1.0, 1.0])


def _symmetric(half: np.ndarray) -> np.ndarray:
    """Return the closed outline whose right half is `half`, given as (distance from the middle line, y) from top to bottom."""
    return np.concatenate([half, half[::-1] * _FLIP]) + [56, 0]


def skin_of(face: FaceTraits) -> Colour:
    """Return the face's skin colour."""
    return skin_colour(skin_share(face.skin_tone), face.skin_warmth, face.skin_red)


def draw_eyes(brush: Brush) -> None:
    """Add sockets, eyeballs, irises and lids."""
    g, face = brush.geometry, brush.face
    sides = brush.visible_sides(g.eye_x, g.eye_y)
    if not sides:
        return
    tilt = 0.061 * face.eye_tilt
    turn = np.array([[1.0, -tilt], [tilt, 1.0]])  # a small angle; outer corner up for tilt > 0
    middle = np.array([g.eye_x, g.eye_y])
    across, upper, lower = _LEFT_TO_RIGHT * g.eye_w, -(_BULGE**0.8) * g.eye_h, _BULGE * (0.72 * g.eye_h)
    there_and_back = np.concatenate([across, across[::-1]])
    dark = mix(brush.skin, (70, 30, 30), 0.16 + 0.05 * face.socket)
    lid = mix(dark, (90, 60, 140), 0.25) if face.makeup > 0.8 else dark
    brush.both(_CIRCLE * [g.eye_w + 3, g.eye_h + 3.5] + [g.eye_x, g.eye_y - 0.8], dark, sides=sides)
    brush.both(xy(there_and_back, np.concatenate([upper, lower[::-1]])) @ turn + middle, (246, 243, 240), sides=sides)
    if g.eye_h > 1.2:
        _draw_irises(brush, sides)
    cover = np.concatenate([upper, upper[::-1] * 0.35 - 0.75 * (g.eye_h + 4.2 - 0.5 * face.lid)])
    brush.both(xy(there_and_back, cover) @ turn + middle, lid, sides=sides)
    under = np.concatenate([lower, _BULGE[::-1] * 3.0 + lower[::-1] + 1.2])
    brush.both(xy(there_and_back, under) @ turn + middle, mix(brush.skin, dark, 0.55), sides=sides)
    lash = xy(across[::2] * 1.06, upper[::2]) @ turn + middle
    crease = xy(across[::2] * 0.95, upper[::2] - 2.3 + 0.5 * face.lid) @ turn + middle
    for side in sides:
        brush.trace(mirrored(lash, side), 1.5 if face.makeup < 0.8 else 2.3, (38, 28, 28))
        brush.trace(mirrored(crease, side), 0.8, shade(lid, 0.72))


def _draw_irises(brush: Brush, sides: tuple[float, ...]) -> None:
    g, face = brush.geometry, brush.face
    iris = shade(EYES[face.eye_colour], 1 + 0.1 * face.iris_shade)
    radius = 4.7 + 0.32 * face.iris_size
    rings = ((radius, shade(iris, 0.55)), (radius * 0.82, iris), (radius * 0.42, (18, 16, 18)))
    for side in sides:
        middle = [56 + side * g.eye_x + 2.2 * brush.pose.gaze, g.eye_y - 0.4]
        for size, colour in rings:
            brush.fill(_CIRCLE * size + middle, colour)
        if brush.frame.scale > 0.45:
            brush.fill(_CIRCLE[::2] * 1.1 + middle + [1.4, -1.6], (255, 255, 255))


def draw_brows(brush: Brush) -> None:
    """Add the eyebrows."""
    g, face = brush.geometry, brush.face
    hair = mix(HAIR[face.hair_colour], (40, 28, 24), 0.35)
    colour = mix(brush.skin, hair, min(1.0, 0.78 + 0.1 * face.brow_dark))
    half = 9.9 + 0.9 * face.brow_length
    arch, tilt = 2.2 + 1.1 * face.brow_arch, 0.9 * face.brow_tilt
    x = np.array([-half, -half * 0.5, 0.0, half * 0.5, half * 1.08]) + g.eye_x + 0.6
    y = np.array([tilt + 1.2, -arch * 0.5, -arch * 0.95, -arch - tilt * 0.4, -tilt + 1.4]) + g.brow_y
    for side in brush.visible_sides(g.eye_x, g.brow_y):
        brush.trace(xy(56 + side * x, y), 3.4 + 0.85 * face.brow_thick, colour, 1.5)


def draw_nose(brush: Brush) -> None:
    """Add the nose: a lit bridge, a shaded flank away from the light, tip, wings and nostrils."""
    g, face = brush.geometry, brush.face
    bridge = 3.6 + 0.55 * face.nose_bridge
    root, tip = g.eye_y + 1.0, g.nose_y
    wings = tip + 2.6 + 0.5 * face.nose_tip
    flank, lit = shade(brush.skin, 0.84), mix(brush.skin, (255, 246, 232), 0.22)
    soft = mix(brush.skin, flank, 0.45)
    away = -1.0 if brush.pose.light + brush.pose.yaw / 45 > 0 else 1.0
    outline = [
        (56 - bridge * 0.7, root),
        (56 + bridge * 0.7, root),
        (56 + g.nose_w * 0.9, wings),
        (56, wings + 2.4),
        (56 - g.nose_w * 0.9, wings),
    ]
    shadow = [(56, root), (56 + away * bridge * 0.4, root), (56 + away * g.nose_w, wings), (56, wings + 2.0)]
    ridge = [(56 - bridge * 0.3, root + 2), (56 + bridge * 0.3, root + 2), (57.6, tip - 1), (54.4, tip - 1)]
    brush.fill(np.array(outline), mix(brush.skin, flank, 0.3), np.array([3.0, 3.0, 4.0, 9.0, 4.0]))
    brush.fill(np.array(shadow), flank, np.array([4.0, 2.0, 3.0, 9.0]))
    for side in (-1.0, 1.0):
        wing = _CIRCLE * [g.nose_w * 0.36, 2.9] + [56 + side * (g.nose_w * 0.66), wings - 0.2]
        brush.fill(wing, flank if side == away else soft, 4.0)
    ball = 4.2 + 0.5 * face.nose_tip + 0.25 * face.nose_width
    brush.fill(_CIRCLE * [ball, ball * 0.85] + [56, tip], mix(brush.skin, lit, 0.5), 10.0)
    brush.fill(np.array(ridge), lit, np.array([4.0, 4.0, 10.0, 10.0]))
    for side in (-1.0, 1.0):
        brush.fill(_CIRCLE[::2] * [2.0, 1.0] + [56 + side * g.nose_w * 0.42, wings + 1.7], shade(brush.skin, 0.42), 6.0)


def draw_mouth(brush: Brush) -> None:
    """Add lips, and teeth in an open mouth or a broad smile."""
    g, face = brush.geometry, brush.face
    upper, lower = 3.1 + 0.75 * face.upper_lip, 4.2 + 0.9 * face.lower_lip
    painted = face.makeup >= 0.6
    strength = 0.42 + 0.07 * face.lip_red + (0.3 if painted else 0.0)
    lips = mix(shade(brush.skin, 0.9), (190, 28, 58) if painted else (176, 62, 72), min(0.9, strength))
    gap = g.mouth_gap + 1.6 * max(0.0, brush.pose.smile - 0.45)

    def curve(*heights: float) -> np.ndarray:
        """Return a smooth line from corner to corner through `heights` below the mouth's middle."""
        x = np.linspace(56 - g.mouth_w, 56 + g.mouth_w, len(heights) + 2)
        return spline(xy(x, np.array([g.corner_y, *(g.mouth_y + h for h in heights), g.corner_y])), 3)

    side, bow = -upper * 0.75 - gap * 0.2, -upper - gap * 0.3
    top = curve(side * 0.62, side, bow, -upper * 0.75 - gap * 0.3, bow, side, side * 0.62)
    bottom = curve(lower * 0.8 + gap * 0.65, lower + gap * 0.8, lower * 0.8 + gap * 0.65)
    inner_top = curve(0.4 - gap * 0.15, 0.9 - gap * 0.25, 0.4 - gap * 0.15)
    inner_bottom = curve(1.1 + gap * 0.6, 1.6 + gap * 0.8, 1.1 + gap * 0.6)
    if face.beard != "full":
        y = g.mouth_y + lower + gap * 0.8 + 2.6
        brush.fill(
            np.array([(56 - g.mouth_w * 0.5, y), (56, y + 1), (56 + g.mouth_w * 0.5, y), (56, y - 0.4)]),
            shade(brush.skin, 0.88),
        )
    brush.fill(np.concatenate([top, bottom[::-1]]), lips, 1.0)
    brush.fill(np.concatenate([top, inner_top[::-1]]), shade(lips, 0.84), 1.2)
    brush.fill(np.concatenate([inner_top, inner_bottom[::-1]]), (74, 22, 26), 1.0)
    if gap > 1.0:
        teeth = (inner_top + inner_bottom) / 2
        brush.fill(np.concatenate([inner_top[1:-1], teeth[-2:0:-1]]), (246, 242, 234), 1.2)


def draw_beard(brush: Brush) -> None:
    """Add stubble, moustache, goatee or a full beard; the mouth is painted over it."""
    g, face = brush.geometry, brush.face
    if face.beard == "none":
        return
    colour = mix(HAIR[face.hair_colour], (60, 44, 36), 0.2)
    if face.beard == "stubble":
        colour = mix(brush.skin, mix(colour, (70, 66, 70), 0.5), 0.3 + 0.05 * face.beard_dark)
    low = g.chin_y + (2.5 if face.beard == "full" else 0.0)
    moustache_y = g.nose_y + 6.5
    if face.beard in ("full", "stubble"):
        wide = 2.0 * face.face_width
        edge = np.array(
            [[40.0 + wide, 66], [38 + 0.9 * wide, 88], [31 + 0.7 * wide, 104], [16, low - 1], [0, low + 1.5]]
        )
        inner = np.array(
            [
                [0, moustache_y - 1.5],
                [g.nose_w + 3, moustache_y],
                [g.mouth_w + 6, g.mouth_y - 4],
                [32.0 + 0.7 * wide, 84],
                [37.0 + wide, 66],
            ]
        )
        # The cheeks fall back to the jaw's edge: a beard must not stand out where the face is turned away.
        lifts = np.array([0.0, 0, -2, -6, -14, -16, -14, -8, -2, 0])
        brush.fill(_symmetric(np.concatenate([inner, edge])), colour, np.concatenate([lifts, lifts[::-1]]))
    if face.beard in ("moustache", "goatee", "full"):
        y = g.nose_y + 10.0
        half = [
            (0, y - 3.4),
            (g.mouth_w * 0.7, y - 2.4),
            (g.mouth_w + 2.5, g.corner_y + 2),
            (g.mouth_w * 0.7, g.mouth_y - 2.2),
            (0, g.mouth_y - 2.4),
        ]
        brush.fill(_symmetric(np.array(half)), colour, 2.0)
    if face.beard == "goatee":
        half = [(0, g.mouth_y + 5), (g.mouth_w * 0.75, g.mouth_y + 5), (g.mouth_w * 0.8, low - 5), (0, low + 3)]
        brush.fill(_symmetric(np.array(half)), colour, 1.0)


def draw_marks(brush: Brush) -> None:
    """Add what time and chance leave: wrinkles, freckles, moles, a scar."""
    face = brush.face
    old = max(0.0, (face.age - 38) / 32)
    if old > 0:
        _draw_wrinkles(brush, old)
    if face.freckles > 1.0:
        # The pattern is a constant of the person: a number made of their traits seeds it.
        rng = np.random.default_rng(zlib.crc32(repr((face.freckles, face.cheek, face.eye_size)).encode()))
        spots = rng.normal((0, 66), (13, 6), (26, 1, 2)).clip((-30, 50), (30, 82)) + (56, 0)
        brush.fill(spots + _HEXAGON[None] * 0.85, mix(brush.skin, (140, 74, 40), 0.45))
    for x, y, radius in face.moles:
        if brush.is_visible(x, y):
            brush.fill(_CIRCLE[::2] * radius + [x, y], mix(brush.skin, (58, 32, 26), 0.8))
    if face.scar is not None and brush.is_visible(*face.scar[:2]):
        angle = np.radians(face.scar[2])
        along = np.linspace(-8, 8, 5)[:, None] * np.array([np.cos(angle), np.sin(angle)]) + face.scar[:2]
        brush.trace(along, 2.0, mix(brush.skin, (214, 130, 124), 0.75))


def _draw_wrinkles(brush: Brush, old: float) -> None:
    g = brush.geometry
    fold = mix(brush.skin, shade(brush.skin, 0.62), min(1.0, 0.25 + 0.75 * old))
    x = np.array([g.nose_w + 2.0, g.nose_w + 5, g.mouth_w + 3, g.mouth_w + 5, g.mouth_w + 5.2])
    y = np.array([g.nose_y + 1, g.nose_y + 6, g.mouth_y - 7, g.mouth_y - 2, g.mouth_y + 4])
    for side in brush.visible_sides(20, 82):
        brush.trace(xy(56 + side * x, y), 1.0 + 0.5 * old, fold)
    for index in range(int(1 + 2.4 * old)):
        forehead = g.brow_y - 7.5 - 5.5 * index + np.array([1.0, 0, -0.3, 0, 1.0])
        brush.trace(xy(np.linspace(36, 76, 5), forehead), 0.9, fold)


# Style: thickness of the rim, its colour, whether it is round.
_GLASSES: dict[str, tuple[float, Colour, bool]] = {
    "round": (1.7, (96, 72, 40), True),
    "square": (1.9, (34, 34, 42), False),
    "thick": (3.2, (24, 22, 24), False),
    "rimless": (0.9, (150, 150, 158), True),
}


def draw_glasses(brush: Brush) -> None:
    """Add the glasses: rims as rings, bridge and the near temple."""
    g, face = brush.geometry, brush.face
    if face.glasses == "none":
        return
    thick, colour, is_round = _GLASSES[face.glasses]
    size = 12.6 + 0.8 * face.glasses_size
    rim = (_CIRCLE if is_round else _SQUIRCLE) * [size, size * (0.92 if is_round else 0.74)]
    inner = rim * (1 - thick / size)
    closed = np.concatenate([rim, rim[:1], inner[:1], inner[::-1]])
    for side in (-1.0, 1.0):
        if brush.frame.facing(56 + side * g.eye_x, g.eye_y) > -0.25:
            brush.fill(closed + [56 + side * (g.eye_x + 0.8), g.eye_y + 1.0], colour, 6.0)
        if side * brush.pose.yaw <= 5:
            y, half = g.eye_y - 1.0, thick / 2
            temple = [
                (56 + side * (g.eye_x + size), y - half),
                (56 + side * 42, y + 2 - half),
                (56 + side * 42, y + 2 + half),
                (56 + side * (g.eye_x + size), y + half),
            ]
            brush.fill(np.array(temple), colour, np.array([6.0, -10.0, -10.0, 6.0]))
    reach = max(1.0, g.eye_x + 0.8 - size + thick)
    y = g.eye_y - 2.0
    bridge = np.array(
        [(56 - reach, y), (56 - reach / 2, y - 1.4), (56, y - 1.8), (56 + reach / 2, y - 1.4), (56 + reach, y)]
    )
    brush.fill(ribbon(bridge, np.full(5, thick)), colour, 8.0)
