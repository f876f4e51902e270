"""Facial features: a person's face traits in a posed frame -> strokes on the canvas, in painter's order.

Role: `Geometry` holds where things are (in frame units, the pose's expression included); each `draw_*` paints one feature.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from webdataset_tools.miniature.canvas import disc, line, polygon, ribbon, spline
from webdataset_tools.miniature.head_frame import FacePose, HeadFrame
from webdataset_tools.miniature.palette import EYES, HAIR, Colour, mix, shade, skin_colour
from webdataset_tools.miniature.people import FaceTraits, Person, skin_share

_HIDDEN = 0.10  # surfaces seen more edge-on than this are not drawn
_ARC = np.linspace(0.0, np.pi, 9)
_RING = np.linspace(0.0, 2 * np.pi, 20, endpoint=False)
_TAPER = np.array([0.35, 0.9, 1.0, 0.85, 0.3])


@dataclass(frozen=True)
class Geometry:
    """Places and sizes of the features in frame units; x offsets are half distances from the middle line x = 56."""

    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    brow_y: float
    nose_y: float
    nose_w: float
    mouth_y: float
    mouth_w: float
    corner_y: float
    mouth_gap: float
    chin_y: float

    @classmethod
    def of(cls, face: FaceTraits, pose: FacePose) -> "Geometry":
        """Return the geometry of `face` with the pose's expression."""
        eye_y = 51.6 + 1.5 * face.eye_height
        mouth_y = 92.3 + 1.7 * face.mouth_height + 0.8 * face.nose_length
        gap = 7.0 * pose.mouth_open
        return cls(
            eye_x=17.6 + 1.25 * face.eye_spacing,
            eye_y=eye_y,
            eye_w=7.8 + 0.85 * face.eye_size,
            eye_h=max(0.25, (4.0 + 0.75 * face.eye_open) * pose.eyes_open - 0.6 * max(0.0, pose.smile)),
            brow_y=eye_y - 12.0 - 1.6 * face.brow_height - 2.4 * pose.brow_raise,
            nose_y=71.7 + 2.1 * face.nose_length,
            nose_w=7.6 + 1.35 * face.nose_width,
            mouth_y=mouth_y,
            mouth_w=14.6 + 1.6 * face.mouth_width + 2.2 * pose.smile - 0.8 * pose.mouth_open,
            corner_y=mouth_y - 2.0 * pose.smile - 0.7 * face.lip_curve + 0.3 * gap,
            mouth_gap=gap,
            chin_y=117.5 + 2.6 * face.chin_length + 0.6 * gap,
        )

    def landmarks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the five landmarks [5, 2] in the frame (eyes, nose tip, mouth corners) and their lifts [5]."""
        points = [
            (56 - self.eye_x, self.eye_y),
            (56 + self.eye_x, self.eye_y),
            (56, self.nose_y),
            (56 - self.mouth_w, self.corner_y),
            (56 + self.mouth_w, self.corner_y),
        ]
        return np.array(points), np.array([0.0, 0.0, 11.0, 0.0, 0.0])


@dataclass(frozen=True)
class Brush:
    """What every feature needs: canvas, frame, traits, geometry, and the skin colour in the light of the scene."""

    canvas: np.ndarray
    frame: HeadFrame
    pose: FacePose
    face: FaceTraits
    geometry: Geometry
    skin: Colour

    def fill(self, points: np.ndarray, colour: Colour, lift: float | np.ndarray = 0.0) -> None:
        """Fill a polygon given in frame units on the face's surface."""
        polygon(self.canvas, self.frame.on_face(points, lift), colour)

    def trace(self, points: np.ndarray, width: float, colour: Colour, lift: float = 0.0) -> None:
        """Draw a tapering stroke of 5 frame points, `width` units at its thickest."""
        self.fill(ribbon(points, width * _TAPER), colour, lift)


def skin_of(face: FaceTraits) -> Colour:
    """Return the face's skin colour."""
    return skin_colour(skin_share(face.skin_tone), face.skin_warmth, face.skin_red)


def _mirror(points: np.ndarray, side: float) -> np.ndarray:
    """Turn points given as (distance from the middle line, y) into frame points of one side (-1 or 1)."""
    return np.stack([56 + side * points[:, 0], points[:, 1]], 1)


def draw_eyes(brush: Brush) -> None:
    """Paint sockets, eyeballs, irises and lids."""
    for side in (-1.0, 1.0):
        if brush.frame.facing(56 + side * brush.geometry.eye_x, brush.geometry.eye_y) > _HIDDEN:
            _draw_eye(brush, side)


def _draw_eye(brush: Brush, side: float) -> None:
    g, face = brush.geometry, brush.face
    tilt = np.radians(3.5 * face.eye_tilt)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])  # outer corner up for tilt > 0

    def place(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        local = np.stack([x, y], 1) @ turn
        return _mirror(local + [g.eye_x, g.eye_y], side)

    across = -np.cos(_ARC) * g.eye_w
    upper, lower = -np.sin(_ARC) ** 0.8 * g.eye_h, np.sin(_ARC) * 0.72 * g.eye_h
    dark = mix(brush.skin, (70, 30, 30), 0.16 + 0.05 * face.socket)
    lid = mix(dark, (90, 60, 140), 0.25) if face.makeup > 0.8 else dark
    brush.fill(place(np.cos(_RING) * (g.eye_w + 3), np.sin(_RING) * (g.eye_h + 3.5) - 0.8), dark)
    brush.fill(place(np.concatenate([across, across[::-1]]), np.concatenate([upper, lower[::-1]])), (246, 243, 240))
    iris = shade(EYES[face.eye_colour], 1 + 0.1 * face.iris_shade)
    radius = 4.3 + 0.32 * face.iris_size
    gaze = 2.2 * brush.pose.gaze * side
    if g.eye_h > 1.2:
        for size, colour in ((radius, shade(iris, 0.55)), (radius * 0.82, iris), (radius * 0.42, (18, 16, 18))):
            brush.fill(place(gaze + np.cos(_RING) * size, np.sin(_RING) * size - 0.4), colour)
        if brush.frame.scale > 0.45:
            brush.fill(place(gaze + 1.4 + np.cos(_RING) * 1.1, np.sin(_RING) * 1.1 - 2.0), (255, 255, 255))
    cover = g.eye_h + 4.2 - 0.5 * face.lid
    brush.fill(place(np.concatenate([across, across[::-1]]), np.concatenate([upper, upper[::-1] * 0.35 - cover * 0.75])), lid)
    under = np.concatenate([lower, np.sin(_ARC[::-1]) * 3.0 + lower[::-1] + 1.2])
    brush.fill(place(np.concatenate([across, across[::-1]]), under), mix(brush.skin, dark, 0.55))
    lash = np.stack([across[::2], upper[::2]], 1)
    width = 1.5 if face.makeup < 0.8 else 2.3
    brush.trace(place(lash[:, 0] * 1.06, lash[:, 1]), width, (38, 28, 28))
    crease = np.stack([across[::2] * 0.95, upper[::2] - 2.3 + 0.5 * face.lid], 1)
    brush.trace(place(crease[:, 0], crease[:, 1]), 0.8, shade(lid, 0.72))


def draw_brows(brush: Brush) -> None:
    """Paint the eyebrows."""
    g, face = brush.geometry, brush.face
    hair = mix(HAIR[face.hair_colour], (40, 28, 24), 0.35)
    colour = mix(brush.skin, hair, min(1.0, 0.78 + 0.1 * face.brow_dark))
    half = 9.6 + 0.9 * face.brow_length
    arch, tilt = 2.2 + 1.1 * face.brow_arch, 0.9 * face.brow_tilt
    x = np.array([-half, -half * 0.5, 0.0, half * 0.5, half * 1.08]) + g.eye_x + 0.6
    y = g.brow_y + np.array([tilt + 1.2, -arch * 0.5, -arch * 0.95, -arch - tilt * 0.4, -tilt + 1.4])
    for side in (-1.0, 1.0):
        if brush.frame.facing(56 + side * g.eye_x, g.brow_y) > _HIDDEN:
            brush.trace(_mirror(np.stack([x, y], 1), side), 3.4 + 0.85 * face.brow_thick, colour, 1.5)


def draw_nose(brush: Brush) -> None:
    """Paint the nose: a lit bridge, a shaded flank away from the light, tip, wings and nostrils."""
    g, face = brush.geometry, brush.face
    bridge = 3.6 + 0.55 * face.nose_bridge
    root = g.eye_y + 1.0
    tip = g.nose_y
    wings = tip + 2.6 + 0.5 * face.nose_tip
    flank, lit = shade(brush.skin, 0.84), mix(brush.skin, (255, 246, 232), 0.22)
    away = -1.0 if brush.pose.light + brush.pose.yaw / 45 > 0 else 1.0
    middle = np.array([[56, root], [56 + away * bridge * 0.4, root], [56 + away * g.nose_w, wings], [56, wings + 2.0]])
    outline = np.array([[56 - bridge * 0.7, root], [56 + bridge * 0.7, root], [56 + g.nose_w * 0.9, wings], [56, wings + 2.4], [56 - g.nose_w * 0.9, wings]])
    lifts = np.array([3.0, 3.0, 4.0, 9.0, 4.0])
    brush.fill(outline, mix(brush.skin, flank, 0.3), lifts)
    brush.fill(middle, flank, np.array([4.0, 2.0, 3.0, 9.0]))
    for side in (-1.0, 1.0):
        wing = np.stack([56 + side * (g.nose_w * 0.66) + np.cos(_RING) * g.nose_w * 0.36, wings - 0.2 + np.sin(_RING) * 2.9], 1)
        brush.fill(wing, flank if side == away else mix(brush.skin, flank, 0.45), 4.0)
    ball = 4.2 + 0.5 * face.nose_tip + 0.25 * face.nose_width
    brush.fill(np.stack([56 + np.cos(_RING) * ball, tip + np.sin(_RING) * ball * 0.85], 1), mix(brush.skin, lit, 0.5), 10.0)
    brush.fill(np.array([[56 - bridge * 0.3, root + 2], [56 + bridge * 0.3, root + 2], [57.6, tip - 1], [54.4, tip - 1]]), lit, np.array([4.0, 4.0, 10.0, 10.0]))
    for side in (-1.0, 1.0):
        x = 56 + side * g.nose_w * 0.42
        brush.fill(np.stack([x + np.cos(_RING) * 2.0, wings + 1.7 + np.sin(_RING) * 1.0], 1), shade(brush.skin, 0.42), 6.0)


def draw_mouth(brush: Brush) -> None:
    """Paint lips, and teeth in an open mouth or a broad smile."""
    g, face = brush.geometry, brush.face
    upper, lower = 3.1 + 0.75 * face.upper_lip, 4.2 + 0.9 * face.lower_lip
    red = (176, 62, 72) if face.makeup < 0.6 else (190, 28, 58)
    strength = 0.42 + 0.07 * face.lip_red + (0.3 if face.makeup >= 0.6 else 0.0)
    lips = mix(shade(brush.skin, 0.9), red, min(0.9, strength))
    gap = g.mouth_gap + 1.6 * max(0.0, brush.pose.smile - 0.45)
    y, w, c = g.mouth_y, g.mouth_w, g.corner_y
    top = np.array([[56 - w, c], [56 - w * 0.55, y - upper * 0.75 - gap * 0.2], [56 - w * 0.2, y - upper - gap * 0.3], [56, y - upper * 0.75 - gap * 0.3],
                    [56 + w * 0.2, y - upper - gap * 0.3], [56 + w * 0.55, y - upper * 0.75 - gap * 0.2], [56 + w, c]])
    bottom = np.array([[56 + w, c], [56 + w * 0.55, y + lower * 0.75 + gap * 0.65], [56, y + lower + gap * 0.8], [56 - w * 0.55, y + lower * 0.75 + gap * 0.65], [56 - w, c]])
    lip_top = spline(np.array([[56 - w, c], [56 - w * 0.5, y + 0.4 - gap * 0.15], [56, y + 0.9 - gap * 0.25], [56 + w * 0.5, y + 0.4 - gap * 0.15], [56 + w, c]]), 3)
    lip_bottom = spline(np.array([[56 - w, c], [56 - w * 0.5, y + 1.1 + gap * 0.6], [56, y + 1.6 + gap * 0.8], [56 + w * 0.5, y + 1.1 + gap * 0.6], [56 + w, c]]), 3)
    brush.fill(np.concatenate([spline(top, 3), spline(bottom, 3)]), lips, 1.0)
    brush.fill(np.concatenate([spline(top, 3), lip_top[::-1]]), shade(lips, 0.84), 1.2)
    brush.fill(np.concatenate([lip_top, lip_bottom[::-1]]), (74, 22, 26), 1.0)
    if gap > 1.0:
        teeth = lip_top + (lip_bottom - lip_top) * 0.5
        brush.fill(np.concatenate([lip_top[1:-1], teeth[1:-1][::-1]]), (246, 242, 234), 1.2)
    shadow = np.array([[56 - w * 0.5, y + lower + gap * 0.8 + 2.6], [56, y + lower + gap * 0.8 + 3.6], [56 + w * 0.5, y + lower + gap * 0.8 + 2.6], [56, y + lower + gap * 0.8 + 2.2]])
    if face.beard != "full":
        brush.fill(shadow, shade(brush.skin, 0.88))


def draw_beard(brush: Brush) -> None:
    """Paint stubble, moustache, goatee or a full beard; the mouth is painted over it."""
    g, face = brush.geometry, brush.face
    if face.beard == "none":
        return
    colour = mix(HAIR[face.hair_colour], (60, 44, 36), 0.2)
    if face.beard == "stubble":
        colour = mix(brush.skin, mix(colour, (70, 66, 70), 0.5), 0.3 + 0.05 * face.beard_dark)
    low = g.chin_y + (2.5 if face.beard == "full" else 0.0)
    moustache_y = g.nose_y + 6.5
    if face.beard in ("full", "stubble"):
        edge = np.array([[40.0, 66], [38, 88], [31, 104], [16, low - 1], [0, low + 1.5]])
        edge[:, 0] += np.array([2.2, 1.8, 1.5, 0.6, 0.0]) * face.face_width
        inner = np.array([[0, moustache_y - 1.5], [g.nose_w + 3, moustache_y], [g.mouth_w + 6, g.mouth_y - 4], [32.0, 84], [37.5, 66]])
        outline = np.concatenate([_mirror(edge, 1.0), _mirror(edge[::-1], -1.0), _mirror(inner[::-1], -1.0), _mirror(inner, 1.0)])
        brush.fill(outline, colour)
    if face.beard in ("moustache", "goatee", "full"):
        y = g.nose_y + 10.0
        points = np.array([[0, y - 3.4], [g.mouth_w * 0.7, y - 2.4], [g.mouth_w + 2.5, g.corner_y + 2], [g.mouth_w * 0.7, g.mouth_y - 2.2], [0, g.mouth_y - 2.4]])
        brush.fill(np.concatenate([_mirror(points, 1.0), _mirror(points[::-1], -1.0)]), colour, 2.0)
    if face.beard == "goatee":
        points = np.array([[0, g.mouth_y + 5], [g.mouth_w * 0.75, g.mouth_y + 5], [g.mouth_w * 0.8, low - 5], [0, low + 3]])
        brush.fill(np.concatenate([_mirror(points, 1.0), _mirror(points[::-1], -1.0)]), colour, 1.0)


def draw_marks(brush: Brush) -> None:
    """Paint what time and chance leave: wrinkles, freckles, moles, a scar."""
    g, face = brush.geometry, brush.face
    old = max(0.0, (face.age - 38) / 32)
    if old > 0:
        fold = mix(brush.skin, shade(brush.skin, 0.62), min(1.0, 0.25 + 0.75 * old))
        for side in (-1.0, 1.0):
            if brush.frame.facing(56 + side * 20, 82) > _HIDDEN:
                x = np.array([g.nose_w + 2.0, g.nose_w + 5, g.mouth_w + 3, g.mouth_w + 5, g.mouth_w + 5.2])
                y = np.array([g.nose_y + 1, g.nose_y + 6, g.mouth_y - 7, g.mouth_y - 2, g.mouth_y + 4])
                brush.trace(_mirror(np.stack([x, y], 1), side), 1.0 + 0.5 * old, fold)
        for index in range(int(1 + 2.4 * old)):
            y = g.brow_y - 7.5 - 5.5 * index + np.array([1.0, 0, -0.3, 0, 1.0])
            brush.trace(np.stack([np.linspace(36, 76, 5), y], 1), 0.9, fold)
    if face.freckles > 1.0:
        # The pattern is a constant of the person: a number made of their traits seeds it.
        rng = np.random.default_rng(zlib.crc32(repr((face.freckles, face.cheek, face.eye_size)).encode()))
        dots = rng.normal((0, 66), (17, 6), (26, 2)) + [56, 0]
        for x, y in brush.frame.on_face(dots).tolist():
            disc(brush.canvas, (x, y), 0.85 * brush.frame.scale, mix(brush.skin, (140, 74, 40), 0.45))
    for x, y, radius in face.moles:
        if brush.frame.facing(x, y) > _HIDDEN:
            place = brush.frame.on_face(np.array([[x, y]]))[0]
            disc(brush.canvas, place, radius * brush.frame.scale, mix(brush.skin, (58, 32, 26), 0.8))
    if face.scar is not None and brush.frame.facing(*face.scar[:2]) > _HIDDEN:
        angle = np.radians(face.scar[2])
        along = np.linspace(-8, 8, 5)[:, None] * np.array([np.cos(angle), np.sin(angle)]) + face.scar[:2]
        brush.trace(along, 2.0, mix(brush.skin, (214, 130, 124), 0.75))


def draw_glasses(brush: Brush) -> None:
    """Paint the glasses: frames, bridge and temples; sunglasses hide the eyes."""
    g, face = brush.geometry, brush.face
    if face.glasses == "none":
        return
    size = 12.0 + 0.8 * face.glasses_size
    thick = {"round": 1.7, "square": 2.0, "thick": 3.6, "rimless": 0.9, "sun": 2.4}[face.glasses]
    colour = {"round": (96, 72, 40), "square": (34, 34, 42), "thick": (24, 22, 24), "rimless": (150, 150, 158), "sun": (20, 20, 22)}[face.glasses]
    power = 0.95 if face.glasses in ("round", "rimless") else 0.5
    ring = np.stack([np.sign(np.cos(_RING)) * np.abs(np.cos(_RING)) ** power, np.sign(np.sin(_RING)) * np.abs(np.sin(_RING)) ** power], 1)
    ring *= [size, size * (0.92 if power > 0.9 else 0.78)]
    width = thick * brush.frame.scale
    for side in (-1.0, 1.0):
        facing = brush.frame.facing(56 + side * g.eye_x, g.eye_y)
        if facing < -0.25:
            continue
        rim = brush.frame.on_face(ring + [56 + side * (g.eye_x + 0.8), g.eye_y + 1.0], 6.0)
        if face.glasses == "sun":
            polygon(brush.canvas, rim, (30, 30, 36))
        line(brush.canvas, rim, colour, width, closed=True)
        temple = np.array([[56 + side * (g.eye_x + size), g.eye_y - 1, 34.0], [56 + side * 42, g.eye_y + 1, 0.0]])
        if side * brush.pose.yaw <= 5:
            line(brush.canvas, brush.frame.project(temple), colour, width)
    bridge = np.array([[56 - g.eye_x + size - 1.5, g.eye_y - 1.0], [56, g.eye_y - 3.0], [56 + g.eye_x - size + 1.5, g.eye_y - 1.0]])
    line(brush.canvas, brush.frame.on_face(bridge, 6.0), colour, width)


def brush_for(canvas: np.ndarray, person: Person, pose: FacePose, frame: HeadFrame) -> Brush:
    """Return the brush for `person`'s face on `canvas`."""
    return Brush(canvas, frame, pose, person.face, Geometry.of(person.face, pose), skin_of(person.face))
