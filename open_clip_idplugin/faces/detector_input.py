"""Detector input size: a picture -> the picture that a detector without a fixed input sees, and the way back.

Role: what `det_size` means for detectors that take pictures of any size, stated once for all of them.
"""

import numpy as np


def shrink_to(picture: np.ndarray, det_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale RGB uint8 [H, W, 3] down until its longer side is `det_size` pixels; smaller pictures stay as they are.

    Returns the picture and [2] float32: what x and y in it are multiplied with to be those of the original.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, det_size / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    return image, np.array([width / size[0], height / size[1]], np.float32)
