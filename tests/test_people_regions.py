"""Face regions that photo managers write: both spellings of XMP, turned pictures, hostile blocks, and enrolment."""

import json
from pathlib import Path

import numpy as np
import pytest
from face_pack_fixtures import toy_picture, write_pack
from PIL import Image, ImageOps

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from webdataset_tools.people.face_regions import read_regions
from webdataset_tools.people.region_command import enroll_regions

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


def save(path: Path, xmp: bytes, pixels: np.ndarray | None = None, orientation: int = 1) -> Path:
    image = Image.fromarray(np.zeros((40, 80, 3), np.uint8) if pixels is None else pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, quality=98, subsampling=0, xmp=xmp, exif=exif)
    return path


@pytest.mark.parametrize("spell", [compact, verbose])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_both_spellings(tmp_path, spell, suffix):
    entries = [
        spell("José  Pérez", 0.25, 0.5, 0.1, 0.2),
        spell("", 0.5, 0.5, 0.1, 0.1),
        spell("A cat", 0.5, 0.5, 0.1, 0.1, "Pet"),
        spell("Outside", 1.5, 0.5, 0.1, 0.1),
        spell("Nowhere", "nan", 0.5, 0.1, 0.1),
        spell("Empty", 0.5, 0.5, 0, 0.1),
    ]
    (found,) = read_regions(save(tmp_path / f"a.{suffix}", block(*entries)))
    assert found.name == "José Pérez"
    assert found.box == pytest.approx((0.2, 0.4, 0.3, 0.6))


@pytest.mark.parametrize(
    ("orientation", "upright_size_noted"),
    [*((number, False) for number in range(1, 9)), *((number, True) for number in range(5, 9))],
)
def test_regions_follow_the_orientation(tmp_path, orientation, upright_size_noted):
    """A white rectangle in the stored picture: wherever Pillow turns it, the region must follow."""
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[4:12, 8:24] = 255
    path = save(tmp_path / "a.jpg", b"", stored, orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))[:, :, 0] > 128
    height, width = upright.shape
    rows, columns = np.flatnonzero(upright.any(axis=1)), np.flatnonzero(upright.any(axis=0))
    x0, x1, y0, y1 = columns[0] / width, (columns[-1] + 1) / width, rows[0] / height, (rows[-1] + 1) / height
    if upright_size_noted:
        area, size = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), (width, height)
    else:
        area, size = (0.2, 0.2, 0.2, 0.2), (80, 40)
    (found,) = read_regions(save(path, block(compact("Ada", *area), size=size), stored, orientation))
    assert found.box == pytest.approx((x0, y0, x1, y1), abs=1e-6)


@pytest.mark.parametrize(
    ("xmp", "reason"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + block(compact("Ada", 0.5, 0.5, 0.1, 0.1)), "types of its own"),
        (b"<x:xmpmeta", "damaged"),
    ],
)
def test_hostile_blocks_are_refused(tmp_path, xmp, reason):
    with pytest.raises(IdClipError, match=reason):
        read_regions(save(tmp_path / "a.jpg", xmp))


def test_pictures_without_regions(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "plain.png")
    assert read_regions(tmp_path / "plain.png") == []
    (tmp_path / "no.jpg").write_bytes(b"nothing")
    with pytest.raises(IdClipError, match="no picture in a known format"):
        read_regions(tmp_path / "no.jpg")


def test_named_faces_are_enrolled(tmp_path):
    photos = tmp_path / "photos"
    (photos / "holiday").mkdir(parents=True)
    two = toy_picture((32, 32), (128, 96))
    two[104:112, 128:144] = 0  # so that the faces differ
    regions = [compact("Ada", 48 / 192, 48 / 192, 0.2, 0.2), verbose("José", 144 / 192, 112 / 192, 0.2, 0.2)]
    save(photos / "holiday" / "two.jpg", block(*regions), two)
    save(photos / "none.jpg", block(compact("Ghost", 0.5, 0.2, 0.1, 0.1)), toy_picture((32, 128)))
    save(photos / "broken.jpg", b"<x:xmpmeta", two)
    pack = f"insightface:{write_pack(tmp_path / 'toy')}"
    report = photos / "people_report.json"
    enroll_regions(str(photos), str(tmp_path / "g.sqlite"), pack, 192, same_face=2.0)
    gallery = Gallery(tmp_path / "g.sqlite")
    assert [(person.name, person.photos) for person in gallery.people()] == [("Ada", 1), ("José", 1)]
    assert not np.allclose(gallery.embedding("Ada"), gallery.embedding("José"), atol=1e-3)
    left = json.loads(report.read_text(encoding="utf-8"))
    assert {entry["key"] for entry in left["people_left_out"]} == {"broken.jpg", "Ghost"}
    assert [entry["key"] for entry in left["photos_left_out"]] == ["Ghost/none.jpg"]
    with pytest.raises(IdClipError, match="has a named face region"):
        enroll_regions(str(tmp_path / "toy"), str(tmp_path / "g.sqlite"), pack, 192)
