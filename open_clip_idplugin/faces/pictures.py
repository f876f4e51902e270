"""The one picture decoder: a path, bytes, Pillow image or array -> RGB uint8 [H, W, 3], or `ImageRejected`.

Face models silently find nothing (16-bit pixels, floats), silently read damaged files or crash (very long sides) when
they are handed what a decoder happened to return, so every picture that meets a face model passes through here.
"""

import io
import os
from typing import TYPE_CHECKING, Union

import numpy as np

from open_clip_idplugin.faces.errors import (
    NoPicture,
    PictureDamaged,
    PictureMissing,
    PictureTooElongated,
    PictureTooLarge,
    PictureTooSmall,
    PixelsUnusable,
)

if TYPE_CHECKING:
    from PIL import Image

PictureSource = Union[str, os.PathLike[str], bytes, "Image.Image", np.ndarray]

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte as RGB
MAX_SIDE = 32_767  # OpenCV's warps index with 16-bit integers
MIN_SIDE = 16
MAX_ASPECT = 64
# Formats that decode in the process itself; EPS, for one, would start an interpreter on the untrusted file.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_WHITE = 255


def load_picture(source: PictureSource) -> np.ndarray:
    """Decode any accepted picture to RGB uint8 [H, W, 3], contiguous.

    EXIF orientation is applied, 16-bit values are scaled to 8 bit, transparency is composited on white, the first
    frame of an animation is taken. Arrays may be uint8 or uint16 (grey [H, W] or [H, W, 1], RGB, RGBA) or floats
    in [0, 1].

    Raises:
        ImageRejected: one of its kinds. `PictureMissing`, `NoPicture`, `PictureDamaged` (also truncated),
            `PictureTooLarge` (more than `MAX_PIXELS` pixels, or `MAX_SIDE` a side), `PictureTooSmall` (a side below
            `MIN_SIDE`), `PictureTooElongated` (sides beyond 1:`MAX_ASPECT`), `PixelsUnusable` (an array of another
            shape, type or range).
    """
    name = _name_of(source)
    if isinstance(source, np.ndarray):
        pixels = _array_to_rgb(source, name)
    else:
        pixels = _image_to_rgb(_open(source, name), name)
    return np.ascontiguousarray(pixels)


def _name_of(source: PictureSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fspath(source))
    if isinstance(source, np.ndarray):
        return f"(an array of shape {source.shape}, {source.dtype})"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"(given as {len(source)} bytes)"
    return f"(given as {type(source).__name__})"


def _check_size(width: int, height: int, name: str) -> None:
    """Refuse sizes no face model handles; called before any pixel is decoded."""
    if width * height > MAX_PIXELS:
        raise PictureTooLarge(
            name, f"{width}x{height} is more than {MAX_PIXELS // 10**6} million pixels; scale it down"
        )
    if max(width, height) > MAX_SIDE:
        raise PictureTooLarge(name, f"{width}x{height} has a side over {MAX_SIDE} pixels; scale or cut it")
    if min(width, height) < MIN_SIDE:
        raise PictureTooSmall(name, f"{width}x{height} is too small, each side needs at least {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureTooElongated(
            name, f"{width}x{height} is too elongated, sides may differ {MAX_ASPECT}-fold at most"
        )


def _open(source: PictureSource, name: str) -> "Image.Image":
    """Open (headers only) a path or bytes; a Pillow image passes through. The size is checked here."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        try:
            content = io.BytesIO(source) if not isinstance(source, (str, os.PathLike)) else os.fspath(source)
            Image.init()  # registers what is not built into Pillow's short list; does nothing the second time
            image = Image.open(content, formats=[kind for kind in _FORMATS if kind in Image.OPEN])
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = f"its header claims more than {MAX_PIXELS // 10**6} million pixels; scale it down"
            raise PictureTooLarge(name, reason) from None
        except UnidentifiedImageError:
            raise NoPicture(name, f"it is no picture in a known format ({', '.join(_FORMATS)})") from None
        except FileNotFoundError:
            raise PictureMissing(name, "the file does not exist") from None
        except OSError as error:
            kind = PictureMissing if error.errno is not None else PictureDamaged  # the system's errors have numbers
            raise kind(name, f"it cannot be opened ({_short(error)})") from None
        except Exception as error:  # Pillow's parsers let anything through on malformed headers
            raise PictureDamaged(name, f"it cannot be opened ({_short(error)})") from None
    else:
        raise NoPicture(name, "give a path, bytes, a Pillow image or a NumPy array")
    _check_size(*image.size, name)
    return image


def _image_to_rgb(image: "Image.Image", name: str) -> np.ndarray:
    from PIL import Image

    try:
        image.load()  # raises on truncated data
    except Exception as error:  # as above: damaged data raises whatever the decoder met
        raise PictureDamaged(name, f"its data is damaged or truncated ({_short(error)})") from None
    image = _upright(image)
    if image.mode.startswith("I;16"):
        return _array_to_rgb(np.asarray(image, dtype=np.uint16), name)
    if image.mode == "I":
        return _array_to_rgb(_wide_integers(np.asarray(image), name), name)
    if image.mode == "F":
        return _array_to_rgb(np.asarray(image), name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _array_to_rgb(np.asarray(image.convert("RGBA")), name)
    if image.mode == "RGB":
        return np.asarray(image)
    try:
        return np.asarray(image.convert("RGB"))
    except (ValueError, OSError):
        raise PixelsUnusable(name, f"its colour mode {Image.getmodebase(image.mode)} cannot be read as RGB") from None


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a malformed EXIF block is no reason to lose the picture; it is then read as stored
        return image


def _wide_integers(values: np.ndarray, name: str) -> np.ndarray:
    """Values of a 32-bit integer image as the 8- or 16-bit values they nearly always hold."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise PixelsUnusable(name, f"its integer values {low} to {high} fit neither 8 nor 16 bits")
    return values.astype(np.uint8 if high <= 255 else np.uint16)


def _array_to_rgb(array: np.ndarray, name: str) -> np.ndarray:
    """uint8, uint16 or float [H, W], [H, W, 1 | 3 | 4] -> uint8 [H, W, 3]."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise PixelsUnusable(name, "an array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    _check_size(array.shape[1], array.shape[0], name)
    array = _to_eight_bit(array, name)
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return _composite(array) if array.shape[2] == 4 else array


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


def _composite(rgba: np.ndarray) -> np.ndarray:
    """RGBA uint8 over white, [H, W, 4] -> [H, W, 3]."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    colour = rgba[:, :, :3].astype(np.uint16)
    return ((colour * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].strip().rstrip(".")
