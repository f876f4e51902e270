"""Colour management: pixels with an embedded ICC profile -> sRGB, what image models are trained on.

Role: an 8-bit Pillow image (L, RGB or CMYK) and its profile -> RGB. A profile that says sRGB in other words, is damaged or
belongs to another kind of pixels changes nothing: the result is then what Pillow's own conversion gives, bit for bit.
"""

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # of Pillow's modes, as profiles name them
_MAX_PROFILE = 1 << 23  # bytes; profiles of presses have two million
_SAME = 2  # levels of 255 by which the sRGB profiles of different vendors differ through rounding
_STEPS = 9  # of the colours by which a profile is compared with sRGB, in each channel


def to_srgb(image: "Image.Image", profile: bytes | None) -> "Image.Image":
    """L, RGB or CMYK -> RGB in sRGB; an RGB image that needs nothing is returned itself."""
    transform = _transform(profile, image.mode) if profile and len(profile) <= _MAX_PROFILE else None
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    converted: Image.Image = transform.apply(image)
    return converted


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any | None:
    """What converts pixels of `mode` (an `ImageCmsTransform`); None where there is nothing to convert."""
    try:
        from PIL import Image, ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform: Any = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
        if mode == "CMYK":
            return transform
        probe = Image.fromarray(_probe(mode))
        plain, converted = (np.asarray(image, np.int16) for image in (probe.convert("RGB"), transform.apply(probe)))
    except Exception:  # littleCMS refuses damaged profiles in many ways, and a build of Pillow may lack it
        return None
    return None if np.abs(plain - converted).max() <= _SAME else transform


def _probe(mode: str) -> np.ndarray:
    """Colours all over the space: uint8 [1, 256] or [27, 27, 3]."""
    if mode == "L":
        return np.arange(256, dtype=np.uint8)[None]
    steps = np.linspace(0, 255, _STEPS).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(_STEPS * 3, -1, 3)
