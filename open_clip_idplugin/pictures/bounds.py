"""Bounds of a picture: size, bytes and opened header -> nothing, or `PictureTooLarge`, `PictureTooElongated`.

What would take more memory or time than any photograph is refused before a pixel is decoded. Segments, chunks and blocks of a
file are counted before a parser walks them: each costs a parser in Python microseconds, and a file of small parts takes minutes
to open, whatever size it claims.
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from open_clip_idplugin.pictures.errors import PictureTooElongated, PictureTooLarge

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


_MOST_PARTS = 200_000  # a large PNG holds some ten thousand; a second
_MOST_READ_IN_PYTHON = 64 << 20  # bytes of a format that Pillow reads byte by byte: half a minute at worst
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
SCAN = b"\xff\xda"
_SCAN_MARKER = 0xDA
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xFF))  # nothing follows them
_PLAIN_NUMBERS = (b"P1", b"P2", b"P3")
_BMP_RUNS = (1, 2)
_TIFF_ORDERS = {b"II": "<", b"MM": ">"}
# What makes a TIFF or BigTIFF -> where the place of the first directory is, its form, that of the number of entries, of an entry.
_TIFF_FORMS = {42: (4, "L", "H", "HHL4s"), 43: (8, "Q", "Q", "HHQ8s")}
_TEXT_TYPES = (1, 2, 7)  # whose values stay bytes; any other becomes a list of numbers


def check_parts(content: bytes, name: str) -> None:
    """Refuse a file that takes long merely to be opened."""
    parts = _parts(content)
    endless = parts is not None and any(number >= _MOST_PARTS for number, _ in enumerate(parts))
    if endless or _longest_list(content) > _MOST_PARTS:
        raise PictureTooLarge(name, f"its file is cut into more than {_MOST_PARTS} parts; save it anew")
    if len(content) > _MOST_READ_IN_PYTHON and _read_in_python(content):
        reason = f"more than {_MOST_READ_IN_PYTHON >> 20} MB take too long in this format; save it as JPEG or PNG"
        raise PictureTooLarge(name, reason)


def scanned_pixels(content: bytes) -> int | None:
    """How many pixels all scans of a JPEG together go over, at most; None where it is no JPEG, or its header does not say."""
    if not content.startswith(_JPEG):
        return None
    most = 0
    for number, (marker, place) in enumerate(_jpeg_segments(content)):
        if number >= _MOST_PARTS:
            return None
        if marker in _FRAME_MARKERS:
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            most = max(most, width * height)
    return most * content.count(SCAN) or None


def _parts(content: bytes) -> Iterator[tuple[int, int]] | None:
    if content.startswith(_JPEG):
        return _jpeg_segments(content)
    return _png_chunks(content) if content.startswith(_PNG) else None


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """(marker, place) up to the first scan; what belongs to no segment is looked through byte by byte, and counts so."""
    place = 2
    while place + 1 < len(content):
        marker = content[place + 1] if content[place] == 0xFF else 0
        yield marker, place
        if marker == _SCAN_MARKER:
            return
        place += 1 if marker in _ALONE else 2 + max(2, int.from_bytes(content[place + 2 : place + 4], "big"))


def _png_chunks(content: bytes) -> Iterator[tuple[int, int]]:
    """(0, place) of each chunk."""
    place = len(_PNG)
    while place < len(content):
        yield 0, place
        place += 12 + int.from_bytes(content[place : place + 4], "big")


def _longest_list(content: bytes) -> int:
    """Entries of a TIFF's first directory, or numbers of its longest tag (places of strips or tiles), whichever are more."""
    order = _TIFF_ORDERS.get(content[:2])
    form = next((_TIFF_FORMS[byte] for byte in content[2:4] if byte in _TIFF_FORMS), None)
    if order is None or form is None:
        return 0
    place, pointer, count, entry = form
    try:
        (start,) = struct.unpack_from(order + pointer, content, place)
        (entries,) = struct.unpack_from(order + count, content, start)
        if entries > _MOST_PARTS:
            return int(entries)
        first, size = start + struct.calcsize(order + count), struct.calcsize(order + entry)
        tags = [struct.unpack_from(order + entry, content, first + size * number) for number in range(entries)]
    except (struct.error, OverflowError):  # it breaks off, as its decoder will find
        return 0
    return max((numbers for _, kind, numbers, _ in tags if kind not in _TEXT_TYPES), default=0)


def _read_in_python(content: bytes) -> bool:
    """GIF's blocks, numbers written as text, and runs in a BMP."""
    runs = content.startswith(b"BM") and int.from_bytes(content[30:34], "little") in _BMP_RUNS
    return runs or content.startswith((b"GIF8", *_PLAIN_NUMBERS))
