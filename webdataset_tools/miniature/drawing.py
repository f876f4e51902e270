"""Heads: a person and a pose -> pixels, with exact landmarks and box.

Role: `paint_head` composes hair, skull, face and features on any canvas (scenes and photos use it); `draw_face` is the
plain picture of one face for training face networks. Layers follow a face swap's: the face hull with all features is `face`,
everything around it is `head`. `apply_camera` then does to any picture what light and a camera do.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from webdataset_tools.miniature import features, hair
from webdataset_tools.miniature.brush import Brush, Geometry
from webdataset_tools.miniature.canvas import polygon, spline
from webdataset_tools.miniature.head_frame import FacePose, HeadFrame
from webdataset_tools.miniature.palette import Colour, mix, shade
from webdataset_tools.miniature.people import FaceTraits, Person

__all__ = ["DrawnFace", "FacePose", "HeadFrame", "draw_face", "locate_face", "paint_head"]


class DrawnFace(NamedTuple):
    """A picture RGB uint8 [H, W, 3], its landmarks float32 [5, 2] (x, y pixels) and face box float32 [4] (x0, y0, x1, y1)."""

    picture: np.ndarray
    landmarks: np.ndarray
    box: np.ndarray


def paint_head(
    canvas: np.ndarray, person: Person, pose: FacePose, frame: HeadFrame, shoulders: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a head with its neck on `canvas`; return landmarks float32 [5, 2] and face box float32 [4] in pixels.

    Back hair is the caller's to paint first (`hair.draw_back_hair`), since the body lies between. `shoulders` is where the
    neck ends; None paints none. Landmarks are given for hidden points too.
    """
    if shoulders is not None:
        hair.draw_neck(canvas, person.head, frame, person.gender, shoulders)
    hair.draw_skull(canvas, person.head, pose, frame)
    hair.draw_ears(canvas, person.head, pose, frame)
    geometry = Geometry.of(person.face, pose)
    brush = Brush(frame, pose, person.face, geometry, features.skin_of(person.face))
    hull = _face_hull(person.face, geometry, frame, hair.hairline(person.head))
    _paint_skin(canvas, hull, brush.skin, pose, rim=0.97 if person.head.hair_style == "bald" else 0.86)
    features.draw_beard(brush)
    features.draw_marks(brush)
    features.draw_eyes(brush)
    features.draw_brows(brush)
    features.draw_mouth(brush)
    features.draw_nose(brush)
    features.draw_glasses(brush)
    brush.paint(canvas)
    hair.draw_front_hair(canvas, person.head, pose, frame)
    return locate_face(person.face, pose, frame)


def locate_face(face: FaceTraits, pose: FacePose, frame: HeadFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks float32 [5, 2] and face box float32 [4] (forehead to chin) in pixels, without painting."""
    geometry = Geometry.of(face, pose)
    points, lifts = geometry.landmarks()
    hull = _face_hull(face, geometry, frame, 16.0)
    box = np.concatenate([hull.min(0), hull.max(0)])
    return frame.on_face(points, lifts).astype(np.float32), box.astype(np.float32)


def draw_face(
    person: Person, pose: FacePose, size: int = 112, background: Colour = (150, 156, 164), zoom: float = 1.0
) -> DrawnFace:
    """Draw one face as an ArcFace crop shows it: [size, size, 3], eyes and mouth at the reference places for a frontal mean face.

    `zoom` below 1 shows more of the head: the face frame then fills that share of the picture.
    """
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = background
    scale = size * zoom / 112
    frame = HeadFrame(pose, scale, (size / 2, 8 * scale + size / 2))
    hair.draw_back_hair(canvas, person.head, pose, frame)
    landmarks, box = paint_head(canvas, person, pose, frame, shoulders=(frame.centre[0], frame.centre[1] + 90 * scale))
    picture = apply_camera(canvas, pose, np.random.default_rng(size))
    return DrawnFace(picture, landmarks, box)


def _face_hull(face: FaceTraits, geometry: Geometry, frame: HeadFrame, top: float) -> np.ndarray:
    """Return the face's outline [n, 2] in pixels: the hull of its rim and its middle line, from the hairline to the chin."""
    wide, jaw = 41.0 + 2.0 * face.face_width, 33.5 + 2.6 * face.jaw_width + 0.8 * face.face_width
    chin, chin_w = geometry.chin_y, 13.0 + 2.4 * face.chin_width
    half = np.array(
        [
            [0, top, 30.0],
            [25, top + 3, 20.0],
            [wide - 5, max(top + 12, 26), 8.0],
            [wide, 54, 5.0],
            [wide - 1.0 + 0.8 * face.cheek, 74, 6.0],
            [jaw, 99, 9.0],
            [chin_w, chin - 2.0, 17.0],
            [0, chin, 22.0],
        ]
    )
    rim = np.concatenate([spline(half, 4), spline(half, 4)[-2:0:-1] * [-1, 1, 1]]) + [56, 0, 0]
    line = np.array(
        [
            [56, top + 6, 38.0],
            [56, 44, 44],
            [56, 58, 43],
            [56, 84, 46],
            [56, geometry.mouth_y, 47],
            [56, 105, 42],
            [56, chin - 3, 36],
        ]
    )
    points = frame.project(np.concatenate([rim, line]))
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def _paint_skin(canvas: np.ndarray, hull: np.ndarray, skin: Colour, pose: FacePose, rim: float) -> None:
    """Fill the face and model it: a rim, `rim` times as bright, away from the light, and a lighter side towards it."""
    middle, extent = (hull.max(0) + hull.min(0)) / 2, hull.max(0) - hull.min(0)
    polygon(canvas, hull, shade(skin, rim))
    towards = np.clip(pose.light, -1, 1)
    lit = middle + (hull - middle) * [0.95, 0.965] + extent * [0.02 * towards, -0.012]
    polygon(canvas, lit, skin)
    bright = middle + (hull - middle) * [0.55, 0.6] + extent * [0.11 * towards, -0.1]
    polygon(canvas, bright, mix(skin, (255, 244, 230), 0.07))


@lru_cache(maxsize=32)
def _ramp(width: int) -> np.ndarray:
    return np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :, None]


@lru_cache(maxsize=8)
def _grain(height: int, width: int) -> np.ndarray:
    """Return a fixed field of normal noise, larger than a picture: drawing one a picture would take longer than the picture."""
    return np.random.default_rng(7).standard_normal((2 * height, 2 * width, 1), np.float32).repeat(3, 2)


def apply_camera(picture: np.ndarray, pose: FacePose, rng: np.random.Generator) -> np.ndarray:
    """Return the picture under the pose's light, exposure, warmth, blur and noise."""
    height, width = picture.shape[:2]
    tint = np.array([1 + 0.10 * pose.warmth, 1.0, 1 - 0.12 * pose.warmth], np.float32) * np.float32(pose.exposure)
    gain = np.broadcast_to((1 + np.float32(0.16 * pose.light) * _ramp(width)) * tint, picture.shape)
    lit = np.multiply(picture, gain, dtype=np.float32)
    if pose.blur > 0.05:
        lit = cv2.GaussianBlur(lit, (0, 0), pose.blur)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return cv2.addWeighted(
        lit, 1.0, _grain(height, width)[y : y + height, x : x + width], pose.noise, 0, dtype=cv2.CV_8U
    )
