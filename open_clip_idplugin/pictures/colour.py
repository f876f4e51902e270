"""Colour conversion: pixels of any mode, depth or ICC profile -> 8-bit RGB in sRGB, what image models are trained on.

16-bit values are scaled and transparency is composited on white, some rows at a time so that little lies between in memory. A
profile that says sRGB in other words, is damaged or belongs to another kind of pixels changes nothing: the result is then what
Pillow's own conversion gives, bit for bit.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from open_clip_idplugin.pictures.bounds import check_size
from open_clip_idplugin.pictures.errors import PixelsUnusable

if TYPE_CHECKING:
    from PIL import Image

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # of Pillow's modes, as profiles name them
_MAX_PROFILE = 1 << 23  # bytes; profiles of presses have two million
_SAME = 2  # levels of 255 by which the sRGB profiles of different vendors differ through rounding
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_GREY_MODES = ("L", "LA", "La", "1")
_STRIP = 1 << 20  # pixels that are converted at a time where numbers wider than 8 bit lie between
_STEPS = 9  # of the colours by which a profile is compared with sRGB, in each channel


def to_rgb(image: "Image.Image", name: str) -> "Image.Image":
    """A loaded picture of any mode -> 8-bit RGB in sRGB, on white; raises PixelsUnusable, which names it `name`."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _by_strips(image, _eight_bit_of(image, name, profile))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _by_strips(image, lambda strip: _over_white(strip, profile))
    if profile and image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode in _GREY_MODES else "RGB")
    if profile or image.mode == "RGB":
        return to_srgb(image, profile)
    return image.convert("RGB")


def _by_strips(image: "Image.Image", convert: "Callable[[Image.Image], Image.Image]") -> "Image.Image":
    """Convert to RGB some rows at a time, so that what lies between takes little memory."""
    from PIL import Image

    width, height = image.size
    result = Image.new("RGB", image.size)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        result.paste(convert(image.crop(box)), box)
    return result


def _eight_bit_of(image: "Image.Image", name: str, profile: bytes | None) -> "Callable[[Image.Image], Image.Image]":
    """What turns rows of a picture of wide integers or floats into RGB."""
    from PIL import Image

    dtype: type = np.float32 if image.mode == "F" else np.uint16
    if image.mode == "I":  # 32-bit integers, which nearly always hold 8- or 16-bit values
        low, high = (int(bound) for bound in cast("tuple[int, int]", image.getextrema()))
        if low < 0 or high > 65_535:
            raise PixelsUnusable(name, f"its integer values {low} to {high} fit neither 8 nor 16 bits")
        dtype = np.uint8 if high <= 255 else np.uint16

    def convert(strip: "Image.Image") -> "Image.Image":
        return to_srgb(Image.fromarray(_to_eight_bit(np.asarray(strip).astype(dtype), name)), profile)

    return convert


def _over_white(image: "Image.Image", profile: bytes | None) -> "Image.Image":
    """Composite a picture with alpha, of any mode, on white."""
    from PIL import Image

    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    grey = image.mode in _GREY_MODES
    colour = image.convert("LA").getchannel("L") if grey and profile else rgba.convert("RGB")
    result = Image.new("RGB", image.size, "white")
    result.paste(to_srgb(colour, profile), mask=rgba.getchannel("A"))
    return result


def array_to_rgb(array: np.ndarray, name: str) -> np.ndarray:
    """uint8, uint16 or float [H, W], [H, W, 1 | 3 | 4] -> uint8 [H, W, 3]; raises PixelsUnusable or PictureTooLarge."""
    from PIL import Image

    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise PixelsUnusable(name, "an array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    check_size(array.shape[1], array.shape[0], name)
    array = _to_eight_bit(array, name)
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return np.asarray(_by_strips(Image.fromarray(array), lambda strip: _over_white(strip, None)))
    return array


def _to_eight_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise PixelsUnusable(name, "its values must be uint8, uint16 or floats in [0, 1]")
    if not np.isfinite(array).all():
        raise PixelsUnusable(name, "it holds values that are not finite")
    if array.min() < 0 or array.max() > 1:
        raise PixelsUnusable(name, "floats must lie in [0, 1]; give 0 to 255 as uint8")
    return np.rint(array * 255).astype(np.uint8)


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
