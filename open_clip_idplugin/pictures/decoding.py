"""Picture decoder: a path, bytes, Pillow image or array -> RGB, or `ImageRejected`; the only one.

Every picture that meets an image tower or a face model passes through here, so that vectors, faces, thumbnails and boxes
are of the same pixels: upright, 8 bit, alpha on white, sRGB, the first frame. A picture that needs none of this comes out
bit for bit as `PIL.Image.open(...).convert("RGB")` reads it, which is what open_clip and clip-retrieval do. Face models
silently find nothing (16-bit pixels, floats), silently read damaged files or crash (very long sides) otherwise.
"""

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from open_clip_idplugin.pictures import formats
from open_clip_idplugin.pictures.bounds import (
    MAX_BYTES,
    MAX_PIXELS,
    check_header,
    check_parts,
    too_many_pixels,
)
from open_clip_idplugin.pictures.colour import array_to_rgb, to_rgb
from open_clip_idplugin.pictures.errors import (
    DecoderMissing,
    NoPicture,
    PictureDamaged,
    PictureMissing,
    PictureTooLarge,
    PictureTooSmall,
    PixelsUnusable,
)

if TYPE_CHECKING:
    from PIL import Image

PictureSource = Union[str, os.PathLike[str], bytes, "Image.Image", np.ndarray]

MIN_SIDE = 16  # of what a face detector looks at
_ORIENTATION = 0x0112
_XMP_OF_TIFF = 700
_MOST_EXIF = 4 << 20  # bytes; a JPEG's block has 64 kB, and a list of numbers may fill a larger one
_NO_MEMORY = "it takes more memory to decode than there is; scale it down"


def load_picture(source: PictureSource) -> np.ndarray:
    """Decode any accepted picture to RGB uint8 [H, W, 3], contiguous.

    EXIF orientation is applied, 16-bit values are scaled to 8 bit, transparency is composited on white, colours are
    converted from the embedded ICC profile to sRGB, the first frame of an animation is taken. Arrays may be uint8 or
    uint16 (grey [H, W] or [H, W, 1], RGB, RGBA) or floats in [0, 1].

    Raises:
        ImageRejected: one of its kinds. `PictureMissing`, `NoPicture`, `DecoderMissing` (HEIC without its extra),
            `PictureDamaged` (also truncated), `PictureTooLarge` (more than `MAX_PIXELS` pixels, `MAX_SIDE` a side, or
            a file that takes far longer than its size does), `PictureTooSmall` (a side below `MIN_SIDE`),
            `PictureTooElongated` (sides beyond 1:`MAX_ASPECT`), `PixelsUnusable` (an array of another shape, type or
            range).
    """
    name = _name_of(source)
    if isinstance(source, np.ndarray):
        pixels = array_to_rgb(source, name)
    else:
        image, content = _opened(source, name)
        _require_side(*image.size, name)
        pixels = np.asarray(_decoded(image, content, name))
    _require_side(pixels.shape[1], pixels.shape[0], name)
    return np.ascontiguousarray(pixels)


def load_image(source: PictureSource) -> "Image.Image":
    """Decode any accepted picture to a Pillow image in mode RGB, by the rules of `load_picture`.

    It is what an image tower's preprocessing gets, so that small pictures pass. An RGB image that needs nothing is
    returned itself; an XMP block stays in `info["xmp"]`.

    Raises:
        ImageRejected: as `load_picture`, but for `PictureTooSmall`.
    """
    from PIL import Image

    name = _name_of(source)
    if isinstance(source, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(array_to_rgb(source, name)))
    return _decoded(*_opened(source, name), name)


def read_picture(path: Path) -> bytes:
    """The bytes of a picture file, for whoever needs them beside the pixels.

    Raises:
        ImageRejected: `PictureMissing` or `PictureTooLarge`.
    """
    name = _name_of(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            raise PictureMissing(name, "it cannot be opened (it is no file)")
        if status.st_size > MAX_BYTES:
            raise PictureTooLarge(name, f"the file is larger than {MAX_BYTES >> 20} MB; scale the picture down")
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureMissing(name, "the file does not exist") from None
    except OSError as error:
        raise PictureMissing(name, f"it cannot be opened ({_short(error)})") from None


def open_image(source: PictureSource, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """Read the header of a picture alone: `size` (as stored), `format` and `info`; no pixel is decoded.

    Raises:
        ImageRejected: as `load_image`, as far as the header tells; `PictureTooLarge` also beyond `max_pixels`.
    """
    name = _name_of(source)
    if isinstance(source, np.ndarray):
        raise NoPicture(name, "an array has no header")
    image, content = _opened(source, name)
    width, height = image.size
    if width * height > max_pixels:
        raise PictureTooLarge(name, too_many_pixels(width, height, max_pixels))
    check_header(image, content, name)
    return image


def xmp_of(image: "Image.Image") -> bytes:
    """The XMP block of an opened picture, as it is stored; empty where there is none."""
    block = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    block = block or getattr(image, "tag_v2", {}).get(_XMP_OF_TIFF)
    return block.encode() if isinstance(block, str) else bytes(block or b"")


def orientation_of(image: "Image.Image") -> int:
    """The EXIF orientation of an opened picture, 1 to 8; 1 where it has none or its EXIF block is damaged or huge."""
    if len(image.info.get("exif") or b"") > _MOST_EXIF:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a malformed EXIF block is no reason to lose the picture; it is then read as stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: "Image.Image") -> "Image.Image":
    """An opened picture turned as its EXIF orientation says, in its own mode and colours."""
    return _upright(image, orientation_of(image))


def _name_of(source: PictureSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fspath(source))
    if isinstance(source, np.ndarray):
        return f"(an array of shape {source.shape}, {source.dtype})"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"(given as {len(source)} bytes)"
    return f"(given as {type(source).__name__})"


def _require_side(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise PictureTooSmall(name, f"{width}x{height} is too small, each side needs at least {MIN_SIDE} pixels")


def _opened(source: PictureSource, name: str) -> tuple["Image.Image", bytes | None]:
    """The opened picture (header only) and the bytes of its file; a Pillow image passes through."""
    from PIL import Image

    if isinstance(source, Image.Image):
        if not formats.is_known(source.format):
            raise NoPicture(name, f"{source.format} is none of the formats read here")
        return source, None
    if isinstance(source, (str, os.PathLike)):
        content = read_picture(Path(source))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        raise NoPicture(name, "give a path, bytes, a Pillow image or a NumPy array")
    return _open(content, name), content


def _open(content: bytes, name: str) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    check_parts(content, name)
    known = formats.known_formats()
    try:
        return Image.open(io.BytesIO(content), formats=known)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"its header claims more than {MAX_PIXELS // 10**6} million pixels; scale it down"
        raise PictureTooLarge(name, reason) from None
    except UnidentifiedImageError:
        remedy = formats.missing_decoder(content)
        if remedy is not None:
            raise DecoderMissing(name, remedy) from None
        raise NoPicture(name, f"it is no picture in a known format ({', '.join(known)})") from None
    except MemoryError:
        raise PictureTooLarge(name, _NO_MEMORY) from None
    except Exception as error:  # Pillow's parsers let anything through on malformed headers
        raise PictureDamaged(name, f"it cannot be opened ({_short(error)})") from None


def _decoded(image: "Image.Image", content: bytes | None, name: str) -> "Image.Image":
    """Decode an opened picture to RGB; memory stays below three times that of its RGB pixels in Pillow."""
    check_header(image, content, name)
    try:
        image.load()  # raises on truncated data
    except MemoryError:
        raise PictureTooLarge(name, _NO_MEMORY) from None
    except Exception as error:  # as above: damaged data raises whatever the decoder met
        raise PictureDamaged(name, f"its data is damaged or truncated ({_short(error)})") from None
    try:
        rgb = _upright(to_rgb(image, name), orientation_of(image))
    except (ValueError, OSError) as error:
        if isinstance(error, PixelsUnusable):
            raise
        raise PixelsUnusable(name, f"its colour mode {image.mode} cannot be read as RGB") from None
    marking = xmp_of(image)
    if rgb is not image:  # its orientation and profile are used up: decoding it again must not use them twice
        rgb.info = {"xmp": marking} if marking else {}
    return rgb


def _upright(image: "Image.Image", orientation: int) -> "Image.Image":
    """Turn by EXIF's number, the ways and numbers being those of `PIL.ImageOps.exif_transpose`."""
    from PIL import Image

    ways = Image.Transpose
    turns = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].strip().rstrip(".")
