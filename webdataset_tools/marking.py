"""Mark of a synthetic picture: JPEG <-> an XMP packet in it with IPTC's digital source type.

Role: JPEG bytes <-> IPTC's `DigitalSourceType`, the property by which platforms and the EU's rules expect machine-made
content to say so. The packet is an APP1 segment (XMP specification part 3), so packing and copying keep it. Which code:
* a swapper that runs a trained model: `compositeWithTrainedAlgorithmicMedia`;
* a picture that a program drew without any trained model: `algorithmicMedia`;
* a swapper that calculates without such a model: `compositeSynthetic`, "composite including synthetic elements". IPTC's milder
  `composite` and `compositeCapture` would let a face that was never there pass for an ordinary collage.
"""

import re
from xml.sax.saxutils import escape

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.xmp import NoXmp, parse_xmp

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
COMPOSITE_TRAINED = f"{VOCABULARY}compositeWithTrainedAlgorithmicMedia"
COMPOSITE_SYNTHETIC = f"{VOCABULARY}compositeSynthetic"
ALGORITHMIC = f"{VOCABULARY}algorithmicMedia"
NOTE = "The face in this picture was replaced by a machine; the person shown was not there."

_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_LONGEST = 65_533  # bytes of a segment's content
_PROPERTY = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
_RESOURCE = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource"
_START, _APP0, _APP1, _START_OF_SCAN, _END = 0xD8, 0xE0, 0xE1, 0xDA, 0xD9
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/">
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>{tool}</xmp:CreatorTool>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{note}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def mark_jpeg(jpeg: bytes, digital_source_type: str, note: str = NOTE, tool: str = "open-clip-idplugin") -> bytes:
    """Return `jpeg` with an XMP packet that says what it is; the compressed picture stays byte for byte.

    Raises IdClipError when the bytes are no JPEG or the code is none of IPTC's vocabulary.
    """
    if not digital_source_type.startswith(VOCABULARY):
        raise IdClipError(f"{digital_source_type!r} is no IPTC digital source type; they start with {VOCABULARY}")
    if jpeg[:2] != bytes((0xFF, _START)):
        raise IdClipError("the picture to be marked is no JPEG")
    packet = _PACKET.format(source_type=escape(digital_source_type), tool=escape(tool), note=escape(note)).encode()
    content = _HEADER + packet
    if len(content) > _LONGEST:
        raise IdClipError(f"the mark of a picture may have {_LONGEST} bytes, it has {len(content)}; shorten the tool")
    at = 2  # behind JFIF's segment, which must be the first
    if jpeg[2:4] == bytes((0xFF, _APP0)):
        at += 2 + int.from_bytes(jpeg[4:6], "big")
    segment = bytes((0xFF, _APP1)) + (len(content) + 2).to_bytes(2, "big") + content
    return jpeg[:at] + segment + jpeg[at:]


def read_digital_source_type(jpeg: bytes) -> str | None:
    """Return the URI of a JPEG's IPTC digital source type; None when it has none, is damaged or is no JPEG.

    Safe on foreign bytes: nothing is decoded, packets with a document type (entities) are not parsed.
    """
    for content in _segments(jpeg):
        if content.startswith(_HEADER):
            found = _parse(content[len(_HEADER) :])
            if found:
                return found
    return None


def short_name(digital_source_type: str) -> str:
    """Return the code without the vocabulary's address."""
    return digital_source_type.removeprefix(VOCABULARY)


def _segments(jpeg: bytes) -> list[bytes]:
    """Return the contents of the APP1 segments in front of the picture data."""
    found: list[bytes] = []
    if jpeg[:2] != bytes((0xFF, _START)):
        return found
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] not in (_START_OF_SCAN, _END):
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if length < 2:
            break
        if jpeg[at + 1] == _APP1:
            found.append(jpeg[at + 4 : at + 2 + length])
        at += 2 + length
    return found


def _parse(packet: bytes) -> str | None:
    """Find the property as an element, an attribute or a reference; all three are valid RDF."""
    end = re.search(rb".*</(?:\w+:)?(?:xmpmeta|RDF)\s*>", packet, re.DOTALL)  # what follows is padding
    try:
        root = parse_xmp(end[0] if end else b"")
    except NoXmp:
        return None
    for element in root.iter():
        value = element.get(_PROPERTY)
        if element.tag == _PROPERTY:
            value = element.get(_RESOURCE) or "".join(element.itertext())
        if value and value.strip():
            return value.strip()
    return None
