"""Face regions in XMP: a packet -> the named faces that a photo manager noted, and the people among the keywords.

Role: reads what is written, in the terms of the noted frame; knows no pixels. Two vocabularies: the Metadata Working
Group's (`mwg-rs`: middle and size, with the dimensions they were noted for; digiKam, Lightroom, Picasa, phones) and
Microsoft's (`MP`: corner and size, without dimensions; Windows, digiKam). Where a packet has both, the former counts.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass

from open_clip_idplugin.pictures.xmp import RDF, parse_xmp, property_of

Box = tuple[float, float, float, float]

_MWG = "{http://www.metadataworkinggroup.com/schemas/regions/}"
_AREA = "{http://ns.adobe.com/xmp/sType/Area#}"
_SIZE = "{http://ns.adobe.com/xap/1.0/sType/Dimensions#}"
_MP = "{http://ns.microsoft.com/photo/1.2/}"
_MP_LIST = "{http://ns.microsoft.com/photo/1.2/t/RegionInfo#}Regions"
_MP_REGION = "{http://ns.microsoft.com/photo/1.2/t/Region#}"
_KEYWORDS = (
    "{http://www.digikam.org/ns/1.0/}TagsList",
    "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject",
    "{http://ns.microsoft.com/photo/1.0/}LastKeywordXMP",
)
_PEOPLE = "people"  # root of the branch, in any case
_EXTENSION = "{http://ns.adobe.com/photoshop/1.0/}SidecarForExtension"
_MOST_REGIONS = 1000  # of a picture


@dataclass(frozen=True)
class NotedFace:
    """A named face: `box` is x0, y0, x1, y1 as shares of the noted frame; `fault` says why it cannot be used."""

    name: str
    box: Box
    fault: str = ""


@dataclass(frozen=True)
class RegionNotes:
    """What one packet says.

    Attributes:
        faces: named faces; None where the packet has no list of regions, which is not the same as an empty list.
        size: width and height for which they were noted; None where it does not say.
        people: names among the hierarchical keywords ("People/Ada Lovelace") or tagged without a place. They never place a face.
        extension: of the picture that a side-car belongs to, lower case without dot; empty where it does not say.
    """

    faces: tuple[NotedFace, ...] | None = None
    size: tuple[float, float] | None = None
    people: frozenset[str] = frozenset()
    extension: str = ""


def read_notes(packet: bytes) -> RegionNotes:
    """Read an XMP packet or side-car; raises NoXmp where it is damaged, too large or unsafe."""
    root = parse_xmp(packet)
    people = set(_people_of(root))
    extension = next((found for node in root.iter() if (found := property_of(node, _EXTENSION))), "")
    size, faces = None, None
    for info in root.iter(f"{_MWG}Regions"):
        size, faces = _noted_size(info), list(_mwg_faces(info))
        break
    microsoft = list(_microsoft_faces(root))
    people |= {name for name, box in microsoft if box is None}
    if faces is None and next(root.iter(f"{_MP}RegionInfo"), None) is not None:
        faces = [_noted(name, box) for name, box in microsoft if box is not None]
    return RegionNotes(
        None if faces is None else tuple(faces[:_MOST_REGIONS]), size, frozenset(people), extension.lower().lstrip(".")
    )


def _noted_size(info: ElementTree.Element) -> tuple[float, float] | None:
    for node in info.iter(f"{_MWG}AppliedToDimensions"):
        width, height = (_number(property_of(node, f"{_SIZE}{side}")) for side in ("w", "h"))
        return (width, height) if 0 < width < math.inf and 0 < height < math.inf else None
    return None


def _mwg_faces(info: ElementTree.Element) -> Iterator[NotedFace]:
    for entry in info.iterfind(f".//{_MWG}RegionList/*/{RDF}li"):
        name, kind = property_of(entry, f"{_MWG}Name"), property_of(entry, f"{_MWG}Type")
        if not name or not name.strip() or (kind or "Face").strip() != "Face":
            continue
        area = next(entry.iter(f"{_MWG}Area"), None)
        values = [_number(None if area is None else property_of(area, f"{_AREA}{part}")) for part in "xywh"]
        x, y, width, height = values
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        unit = None if area is None else property_of(area, f"{_AREA}unit")
        if unit and unit.strip() != "normalized":
            yield NotedFace(_one_line(name), box, f"its unit is '{unit.strip()[:40]}', not 'normalized'")
        elif not 0 <= x <= 1 or not 0 <= y <= 1:
            yield NotedFace(_one_line(name), box, "its middle does not lie in the picture")
        else:
            yield _noted(_one_line(name), box)


def _microsoft_faces(root: ElementTree.Element) -> Iterator[tuple[str, Box | None]]:
    for entry in root.iterfind(f".//{_MP_LIST}/*/{RDF}li"):
        name, rectangle = (property_of(entry, f"{_MP_REGION}{part}") for part in ("PersonDisplayName", "Rectangle"))
        if name and name.strip():
            values = [_number(part) for part in (rectangle or "").split(",")]
            x, y, width, height = values if len(values) == 4 else [math.nan] * 4
            yield _one_line(name), (x, y, x + width, y + height) if rectangle and rectangle.strip() else None


def _noted(name: str, box: Box) -> NotedFace:
    """The face with its box cut to the picture, or with the reason why there is none."""
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) if math.isfinite(value) else math.nan for value in box)
    sides = max(box[2] - box[0], box[3] - box[1])
    if not (x0 < x1 and y0 < y1 and sides <= 1):
        return NotedFace(name, box, "it has no rectangle inside the picture")
    return NotedFace(name, (x0, y0, x1, y1))


def _people_of(root: ElementTree.Element) -> Iterator[str]:
    for keywords in _KEYWORDS:
        for holder in root.iter(keywords):
            for entry in holder.iter(f"{RDF}li"):
                branch = [part.strip() for part in re.split(r"[/|]", entry.text or "")]
                if len(branch) > 1 and branch[0].casefold() == _PEOPLE and branch[-1]:
                    yield _one_line(branch[-1])


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
