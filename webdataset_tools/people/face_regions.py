"""Named face regions in photos, as photo managers write them (Metadata Working Group, XMP `mwg-rs`).

Role: a picture file -> names and boxes in the upright picture. Reads the XMP block inside the file, no side-car files. The
block comes from strangers: an XML document with a type definition of its own is not read.

Boxes are written for the picture as it is stored, before the EXIF orientation turns it; some programs write them for the
upright one, which shows where the dimensions that they note are those of the upright picture alone.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures import ImageRejected, open_image, orientation_of, xmp_of

_REGIONS = "{http://www.metadataworkinggroup.com/schemas/regions/}"
_AREA = "{http://ns.adobe.com/xmp/sType/Area#}"
_SIZE = "{http://ns.adobe.com/xap/1.0/sType/Dimensions#}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_MOST_BYTES = 1 << 22  # of an XMP block
# EXIF orientation -> where a point of the stored picture lies in the upright one; shares of width and height
_UPRIGHT: dict[int, Callable[[float, float], tuple[float, float]]] = {
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
_QUARTER_TURNS = (5, 6, 7, 8)


@dataclass(frozen=True)
class FaceRegion:
    """A named face: `box` is x0, y0, x1, y1 as shares of the upright picture's width and height, in [0, 1]."""

    name: str
    box: tuple[float, float, float, float]


def read_regions(path: Path) -> list[FaceRegion]:
    """The named faces written in a picture file; none where there is no such block.

    Raises:
        IdClipError: the file cannot be opened, or its block is no XMP.
    """
    try:
        image = open_image(path)
    except ImageRejected as error:
        raise IdClipError(error.reason) from None
    block, size, orientation = xmp_of(image), image.size, orientation_of(image)
    if not block:
        return []
    if len(block) > _MOST_BYTES or b"<!DOCTYPE" in block or b"<!ENTITY" in block:
        raise IdClipError("its XMP block is too large or defines types of its own, and is not read")
    try:
        root = ElementTree.fromstring(block.strip(b"\0 \r\n\t"))
    except ElementTree.ParseError as error:
        raise IdClipError(f"its XMP block is damaged ({error})") from None
    return list(_regions(root, size, orientation))


def _regions(root: ElementTree.Element, size: tuple[int, int], orientation: int) -> Iterator[FaceRegion]:
    turned = orientation if orientation in _UPRIGHT else 1
    noted = tuple(_number(_value(root, f"{_SIZE}{side}")) for side in ("w", "h"))
    if turned in _QUARTER_TURNS and size[0] != size[1] and noted == (size[1], size[0]):
        turned = 1  # written for the upright picture
    for regions in root.iter(f"{_REGIONS}RegionList"):
        for entry in regions.iter(f"{_RDF}li"):
            name, kind = _value(entry, f"{_REGIONS}Name"), _value(entry, f"{_REGIONS}Type") or "Face"
            x, y, width, height = (_number(_value(entry, f"{_AREA}{part}")) for part in ("x", "y", "w", "h"))
            inside = all(0 <= number <= 1 for number in (x, y, width, height)) and width * height > 0
            if name.strip() and kind == "Face" and inside:
                yield FaceRegion(" ".join(name.split()), _box(x, y, width, height, turned))


def _box(x: float, y: float, width: float, height: float, orientation: int) -> tuple[float, float, float, float]:
    """Middle and size in the stored picture -> corners in the upright one."""
    if orientation in _UPRIGHT:
        x, y = _UPRIGHT[orientation](x, y)
    if orientation in _QUARTER_TURNS:
        width, height = height, width
    return (
        max(0.0, x - width / 2),
        max(0.0, y - height / 2),
        min(1.0, x + width / 2),
        min(1.0, y + height / 2),
    )


def _value(node: ElementTree.Element, name: str) -> str:
    """A property below a node, written as an attribute or as an element."""
    for element in node.iter():
        if name in element.attrib:
            return element.attrib[name]
        if element.tag == name:
            return element.text or ""
    return ""


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number
