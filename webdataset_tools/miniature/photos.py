"""Identity photos: a person -> portraits that are no scene pictures, varied in pose, expression, light and sharpness."""

import cv2
import numpy as np

from webdataset_tools.miniature import hair
from webdataset_tools.miniature.body import Clothes, Figure, draw_body
from webdataset_tools.miniature.canvas import oval
from webdataset_tools.miniature.drawing import DrawnFace, FacePose, HeadFrame, paint_head
from webdataset_tools.miniature.lighting import apply_camera
from webdataset_tools.miniature.palette import CLOTHES, clip_colour, mix, shade
from webdataset_tools.miniature.people import Person

_COLOURS = tuple(CLOTHES.values())


def identity_photo(person: Person, rng: np.random.Generator, size: int = 192) -> DrawnFace:
    """Draw a portrait [size, size, 3] of `person`; the face is 35-60 % of its height."""
    pose = sample_pose(rng)
    canvas = _backdrop(size, rng)
    scale = size * float(rng.uniform(0.35, 0.58)) / 105
    centre = (size * float(rng.uniform(0.44, 0.56)), size * float(rng.uniform(0.42, 0.50)))
    frame = HeadFrame(pose, scale, centre)
    clothes = Clothes(
        str(rng.choice(["shirt", "sweater", "jacket"])), _COLOURS[int(rng.integers(len(_COLOURS)))], (60, 60, 70)
    )
    figure = Figure((centre[0] - 14 * scale * np.sin(np.radians(pose.roll)), centre[1] + 82 * scale), scale)
    hair.draw_back_hair(canvas, person.head, pose, frame)
    draw_body(canvas, person, clothes, figure)
    landmarks, box = paint_head(canvas, person, pose, frame, figure.shoulders)
    return DrawnFace(apply_camera(canvas, pose, rng), landmarks, box)


def sample_pose(rng: np.random.Generator, turn: float = 22.0) -> FacePose:
    """Return the pose of an ordinary photo; `turn` is the standard deviation of the yaw in degrees."""
    return FacePose(
        yaw=float(np.clip(rng.normal(0, turn), -55, 55)),
        pitch=float(np.clip(rng.normal(0, 7), -20, 20)),
        roll=float(np.clip(rng.normal(0, 6), -18, 18)),
        smile=float(rng.uniform(-0.4, 1.0)),
        mouth_open=float(max(0.0, rng.normal(-0.1, 0.35))),
        eyes_open=float(np.clip(rng.normal(1.0, 0.16), 0.15, 1.25)),
        brow_raise=float(rng.normal(0, 0.4)),
        gaze=float(rng.normal(0, 0.35)),
        light=float(rng.uniform(-1, 1)),
        exposure=float(np.clip(rng.normal(0.94, 0.10), 0.6, 1.15)),
        warmth=float(rng.normal(0, 0.5)),
        blur=float(max(0.0, rng.normal(0.3, 0.5))),
        noise=float(abs(rng.normal(0, 3.0))),
    )


def _backdrop(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return an out-of-focus background: a vertical gradient with a few soft blobs."""
    first, second = (clip_colour(tuple(rng.uniform(60, 225, 3))) for _ in range(2))
    small = np.empty((24, 24, 3), np.uint8)
    for row in range(24):
        small[row] = mix(first, second, row / 23)
    for _ in range(int(rng.integers(0, 5))):
        oval(
            small, tuple(rng.uniform(0, 24, 2)), tuple(rng.uniform(2, 7, 2)), shade(first, float(rng.uniform(0.6, 1.3)))
        )
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
