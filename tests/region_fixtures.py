"""XMP packets as photo managers write them, and pictures that carry them."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

HEAD = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
    'xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#" xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#">'
    '<mwg-rs:Regions rdf:parseType="Resource">'
)
TAIL = "</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions></rdf:Description></rdf:RDF></x:xmpmeta>"


def compact(name: str, x, y, w, h, kind="Face") -> str:
    return (
        f'<rdf:li><rdf:Description mwg-rs:Name="{name}" mwg-rs:Type="{kind}"><mwg-rs:Area stArea:x="{x}" stArea:y="{y}" '
        f'stArea:w="{w}" stArea:h="{h}" stArea:unit="normalized"/></rdf:Description></rdf:li>'
    )


def verbose(name: str, x, y, w, h, kind="Face") -> str:
    area = "".join(f"<stArea:{part}>{value}</stArea:{part}>" for part, value in zip("xywh", (x, y, w, h)))
    return (
        f'<rdf:li rdf:parseType="Resource"><mwg-rs:Area rdf:parseType="Resource">{area}</mwg-rs:Area>'
        f"<mwg-rs:Name>{name}</mwg-rs:Name><mwg-rs:Type>{kind}</mwg-rs:Type></rdf:li>"
    )


def block(*entries: str, size: tuple[int, int] | None = None) -> bytes:
    noted = f'<mwg-rs:AppliedToDimensions stDim:w="{size[0]}" stDim:h="{size[1]}"/>' if size else ""
    return f"{HEAD}{noted}<mwg-rs:RegionList><rdf:Bag>{''.join(entries)}{TAIL}".encode()


def microsoft(*people: tuple[str, str], keywords: str = "") -> bytes:
    """Microsoft's regions: (name, "x, y, w, h" of the corner and the sides)."""
    entries = "".join(
        f'<rdf:li><rdf:Description MPReg:Rectangle="{rectangle}" MPReg:PersonDisplayName="{name}"/></rdf:li>'
        for name, rectangle in people
    )
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:MP="http://ns.microsoft.com/photo/1.2/" '
        'xmlns:MPRI="http://ns.microsoft.com/photo/1.2/t/RegionInfo#" '
        'xmlns:MPReg="http://ns.microsoft.com/photo/1.2/t/Region#"><MP:RegionInfo><rdf:Description><MPRI:Regions>'
        f"<rdf:Bag>{entries}</rdf:Bag></MPRI:Regions></rdf:Description></MP:RegionInfo>{keywords}"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def keywords(*tags: str, extension: str = "") -> bytes:
    """digiKam's keywords, and the extension that Adobe's side-cars note."""
    entries = "".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)
    noted = f'photoshop:SidecarForExtension="{extension}"' if extension else ""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:digiKam="http://www.digikam.org/ns/1.0/" '
        f'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" {noted}>'
        f"<digiKam:TagsList><rdf:Seq>{entries}</rdf:Seq></digiKam:TagsList></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def save(path: Path, xmp: bytes, pixels: np.ndarray | None = None, orientation: int = 1) -> Path:
    image = Image.fromarray(np.zeros((40, 80, 3), np.uint8) if pixels is None else pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".png":  # Pillow writes no `xmp` there
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode(errors="surrogateescape"))
        image.save(path, exif=exif, pnginfo=text)
    elif path.suffix == ".tif":
        image.save(path, tiffinfo={700: xmp}, exif=exif)
    else:
        image.save(path, quality=98, subsampling=0, xmp=xmp, exif=exif)
    return path


def joined(one: bytes, other: bytes) -> bytes:
    """Both packets' descriptions in one packet."""
    text, end = other.decode(), "</rdf:RDF>"
    return one.decode().replace(end, text[text.index("<rdf:Description") : text.index(end)] + end).encode()
