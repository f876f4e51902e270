"""Bounds of a picture: what would take more memory or time than any photograph is refused before a pixel is decoded.

Role: size, bytes and opened header -> nothing, or `PictureTooLarge`, `PictureTooElongated`.
"""

from typing import TYPE_CHECKING, Any

from open_clip_idplugin.pictures.errors import PictureTooElongated, PictureTooLarge
from open_clip_idplugin.pictures.file_parts import SCAN

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte as RGB
MAX_SIDE = 32_767  # OpenCV's warps index with 16-bit integers
MAX_ASPECT = 64  # a transform that scales the short side up would fill the memory beyond
MAX_BYTES = 1 << 29  # of a file; one beyond is no photograph
# A scan of a progressive JPEG may be a few bytes long, and costs a pass over all pixels. Encoders write about ten.
_MAX_SCANS = 500
_MAX_SCANNED_PIXELS = 2_000_000_000  # some ten seconds
_ANY_TILE = 1 << 20  # pixels of a tile that costs nothing; small pictures in larger tiles are common
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a size that cannot be decoded, turned or scaled in reasonable memory."""
    if width * height > MAX_PIXELS:
        raise PictureTooLarge(name, too_many_pixels(width, height, MAX_PIXELS))
    if max(width, height) > MAX_SIDE:
        raise PictureTooLarge(name, f"{width}x{height} has a side over {MAX_SIDE} pixels; scale or cut it")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureTooElongated(
            name, f"{width}x{height} is too elongated, sides may differ {MAX_ASPECT}-fold at most"
        )


def too_many_pixels(width: int, height: int, most: int) -> str:
    """The reason against a picture of more than `most` pixels."""
    return f"{width}x{height} is more than {most / 10**6:.3g} million pixels; scale it down"


def check_header(image: "Image.Image", content: bytes | None, name: str) -> None:
    """Refuse an opened picture whose file asks for more work than its size does; `content` is that file, where known."""
    width, height = image.size
    check_size(width, height, name)
    if content is not None and content.startswith(b"\xff\xd8"):
        scans = content.count(SCAN)
        if scans > _MAX_SCANS or scans * width * height > _MAX_SCANNED_PIXELS:
            raise PictureTooLarge(name, f"its {scans} scans of {width}x{height} take too long to decode; save it anew")
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:
        sides = [_number(tags.get(tag)) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        if sides[0] * sides[1] > max(width * height, _ANY_TILE):
            reason = f"its tiles of {sides[0]}x{sides[1]} are larger than the picture of {width}x{height}; save it anew"
            raise PictureTooLarge(name, reason)


def _number(value: Any) -> int:
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else 0
