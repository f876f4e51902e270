"""Image check: bytes of an image -> whether they are whole, between a release and a shard.

Role: bytes -> what is wrong with them, or None. `structure` (JPEGs: every marker from the first to the last, without
decoding what lies between) finds what makes Pillow fail, at a tenth of the price of decoding; `decode` also finds damage
that decoders pass over in silence, such as blocks that are lost from a picture's middle; `none` looks at nothing.
"""

import re
from functools import lru_cache

from open_clip_idplugin.pictures import ImageRejected, NoPicture, open_image

STRUCTURE, DECODE, NONE = "structure", "decode", "none"
CHECKS = (STRUCTURE, DECODE, NONE)

_START, _END, _SCAN, _RESTART_INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NOTES = frozenset({*range(0xE0, 0xF0), 0xFE})  # application data and comments: nothing that a decoder needs
# The end of entropy-coded data: any marker but those that belong into it.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_BUT_RESTART = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_HOLE = bytes(64)  # what a file system leaves where a block was never written; hardly ever found in entropy-coded data


def find_damage(content: bytes, check: str = STRUCTURE) -> str | None:
    """Return what is wrong with an image file, or None; `check` is one of CHECKS."""
    if check == NONE:
        return None
    if not content.startswith(b"\xff\xd8"):  # not a JPEG
        return _decode(content)
    if check == DECODE:
        return _decode(content) or _decode_strictly(content)
    return _check_structure(content)


def _check_structure(content: bytes) -> str | None:
    """Follow a JPEG's markers to its end, and have a decoder judge its header."""
    header, at, frame, scans, restarts = [content[:2]], 2, False, 0, False
    while True:
        at, marker = _next_marker(content, at)
        if marker is None:
            return "it ends early" if at >= len(content) else f"no JPEG marker at byte {at}"
        if marker == _END:
            break
        size = int.from_bytes(content[at : at + 2], "big")
        if marker == _START or marker in range(0xD0, 0xD8) or size < 2:
            return f"a JPEG segment is broken at byte {at}"
        if at + size > len(content):
            return "it ends early"
        if marker not in _NOTES:
            header.append(bytes((0xFF, marker)) + content[at : at + size])
        frame |= marker in _FRAMES
        if marker == _RESTART_INTERVAL:
            restarts = any(content[at + 2 : at + size])
        at += size
        if marker == _SCAN:
            scans += 1
            start, at = at, _end_of_scan(content, at, restarts)
            if at < 0:
                return "it ends early"
            if restarts and not _are_in_order(_RESTART.findall(content, start, at)):
                return "its restart markers are out of order"
            if content.find(_HOLE, start, at) >= 0 and (damage := _decode_strictly(content)):
                return damage
    if not frame or not scans:
        return "it holds no picture"
    return _decode_header(b"".join(header) + b"\xff\xd9")


def _next_marker(content: bytes, at: int) -> tuple[int, int | None]:
    """Return (where the segment behind the marker at `at` begins, the marker), or (where something else is, None)."""
    if content[at : at + 1] != b"\xff":
        return at, None
    while content[at : at + 1] == b"\xff":  # any number of them may stand before a marker
        at += 1
    return (at + 1, content[at]) if at < len(content) else (at, None)


def _end_of_scan(content: bytes, at: int, restarts: bool) -> int:
    """Return where the first marker behind entropy-coded data is, or -1."""
    found = (_MARKER_BUT_RESTART if restarts else _MARKER).search(content, at)
    return found.start() if found else -1


def _are_in_order(markers: list[bytes]) -> bool:
    return all(marker[0] == 0xD0 + number % 8 for number, marker in enumerate(markers))


@lru_cache(1024)  # the images of one encoder share a few headers
def _decode_header(header: bytes) -> str | None:
    """Have the decoder read a JPEG without its data: bad tables, unknown kinds and sizes beyond all measure are found."""
    return _decode(header)


def _decode(content: bytes) -> str | None:
    """Decode with Pillow, JPEGs to an eighth of their size: all of the data is read, most of the arithmetic is saved."""
    try:
        with open_image(content) as image:
            image.draft("L", (1, 1))
            image.load()
    except NoPicture:
        return "not an image"
    except ImageRejected as error:
        return error.reason
    except Exception as error:  # on damaged bytes Pillow's decoders raise OSError, SyntaxError, struct.error and more
        return str(error) or type(error).__name__
    return None


def _decode_strictly(content: bytes) -> str | None:
    """Decode a JPEG with libjpeg-turbo, whose warnings (Pillow passes over them) count as damage."""
    import simplejpeg

    try:
        _, _, space, _ = simplejpeg.decode_jpeg_header(content, strict=True)
        space = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(content, space, min_height=1, min_width=1, strict=True)
    except ValueError as error:
        return str(error)
    return None
