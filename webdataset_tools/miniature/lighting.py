"""What a camera and the light do to a drawing: gradient, exposure, warmth, blur and noise, on RGB uint8 [H, W, 3]."""

from functools import lru_cache

import cv2
import numpy as np

from webdataset_tools.miniature.head_frame import FacePose


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
