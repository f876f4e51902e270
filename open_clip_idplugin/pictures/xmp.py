"""XMP packets: bytes that strangers wrote -> an XML tree, and single properties of it.

Role: the one parser of XML from outside. Nothing is resolved or fetched: a document type, in which entities would be defined,
is refused by the parser itself, whatever the packet's encoding; bytes, depth and the number of elements are bounded.
"""

import xml.etree.ElementTree as ElementTree

from open_clip_idplugin.errors import IdClipError

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
MOST_BYTES = 1 << 22
_MOST_ELEMENTS = 100_000
_MOST_LEVELS = 64
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16 and UTF-32: zero bytes are part of their letters


class NoXmp(IdClipError):
    """Bytes that are not read as XMP, with the reason."""


def parse_xmp(packet: bytes) -> ElementTree.Element:
    """The root of a packet or of a side-car file.

    Raises:
        NoXmp: too large, too deep, damaged, or with a document type of its own.
    """
    if len(packet) > MOST_BYTES:
        raise NoXmp(f"its XMP block is larger than {MOST_BYTES >> 20} MiB and is not read")
    text = packet if packet.startswith(_WIDE) else packet.strip(b"\0 \r\n\t")
    try:
        parser = ElementTree.XMLParser(target=_Bounded())
        parser.feed(text)
        return parser.close()
    except NoXmp:
        raise
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise NoXmp(f"its XMP block is damaged ({error})") from None


def property_of(node: ElementTree.Element, name: str) -> str | None:
    """A property of a node, written as an attribute or an element; also where an `rdf:Description` lies between.

    Properties of structures inside the node are not its own. None where there is no such property.
    """
    for holder in (node, *node.iterfind(f"{RDF}Description")):
        if name in holder.attrib:
            return holder.attrib[name]
        found = holder.find(name)
        if found is not None:
            return found.get(f"{RDF}resource") or "".join(found.itertext())
    return None


class _Bounded(ElementTree.TreeBuilder):
    def __init__(self) -> None:
        super().__init__()
        self._level = self._elements = 0

    def doctype(self, *_: str | None) -> None:
        raise NoXmp("its XMP block defines types of its own, and is not read")

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        self._level, self._elements = self._level + 1, self._elements + 1
        if self._level > _MOST_LEVELS or self._elements > _MOST_ELEMENTS:
            raise NoXmp("its XMP block has too many elements, or too many inside one another, and is not read")
        return super().start(tag, attributes)

    def end(self, tag: str) -> ElementTree.Element:
        self._level -= 1
        return super().end(tag)
