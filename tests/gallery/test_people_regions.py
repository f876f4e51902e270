"""Face regions that photo managers write: vocabularies, frames, side-cars, hostile blocks, and enrolment."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from face_pack_fixtures import toy_picture, write_pack
from PIL import Image, ImageOps
from region_fixtures import block, compact, joined, keywords, microsoft, save, verbose

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.faces.calibration import Calibration, assumed_genuines
from open_clip_idplugin.faces.calibration_files import user_file, write_calibration
from open_clip_idplugin.faces.score_distributions import Impostors
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.face_regions import read_regions
from open_clip_idplugin.gallery.region_command import enroll_regions
from open_clip_idplugin.gallery.region_faces import (
    KEYWORD_ALONE,
    NOT_PLACED,
    OTHER_PIXELS,
    OVERRULED,
    UNUSABLE,
    read_named_faces,
)
from open_clip_idplugin.gallery.region_frames import lay
from open_clip_idplugin.gallery.region_placing import NO_FACE, SHARED

ADA, BOB = compact("Ada", 0.25, 0.5, 0.1, 0.2), compact("Bob", 0.75, 0.5, 0.1, 0.2)


def names(path: Path) -> list[str]:
    return [face.name for face in read_regions(path).faces]


@pytest.mark.parametrize("spell", [compact, verbose])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "tif"])
def test_both_spellings(tmp_path, spell, suffix):
    entries = [
        spell("José  Pérez", 0.25, 0.5, 0.1, 0.2),
        spell("", 0.5, 0.5, 0.1, 0.1),
        spell("A cat", 0.5, 0.5, 0.1, 0.1, "Pet"),
        spell("Outside", 1.5, 0.5, 0.1, 0.1),
        spell("Nowhere", "nan", 0.5, 0.1, 0.1),
        spell("Empty", 0.5, 0.5, 0, 0.1),
        spell("Endless", 0.5, 0.5, "1e400", 0.1),
    ]
    found = read_regions(save(tmp_path / f"a.{suffix}", block(*entries))).faces
    assert [(face.name, bool(face.fault)) for face in found] == [
        ("José Pérez", False),
        *((name, True) for name in ("Outside", "Nowhere", "Empty", "Endless")),
    ]
    assert found[0].box == pytest.approx((0.2, 0.4, 0.3, 0.6))


class TestMicrosoft:
    def test_corner_and_sides(self, tmp_path):
        people = ("Ada", "0.2, 0.4, 0.1, 0.2"), ("Bob", "0.9,0.9,0.3,0.3"), ("Eve", "0.1, 0.1"), ("Nobody's", "")
        regions = read_regions(save(tmp_path / "a.jpg", microsoft(*people)))
        assert [(face.name, bool(face.fault)) for face in regions.faces] == [
            ("Ada", False),
            ("Bob", False),
            ("Eve", True),
        ]
        assert regions.faces[0].box == pytest.approx((0.2, 0.4, 0.3, 0.6))
        assert regions.faces[1].box == pytest.approx((0.9, 0.9, 1, 1))
        assert regions.people == {"Nobody's"}  # in the picture, nobody says where

    def test_the_working_group_s_count_before(self, tmp_path):
        theirs = microsoft(("Old", "0.2, 0.4, 0.1, 0.2"))
        assert names(save(tmp_path / "a.jpg", joined(block(ADA), theirs))) == ["Ada"]
        assert names(save(tmp_path / "a.jpg", theirs)) == ["Old"]


@pytest.mark.parametrize(
    ("orientation", "upright_size_noted"),
    [*((number, False) for number in range(1, 9)), *((number, True) for number in range(5, 9))],
)
@pytest.mark.parametrize("scale", [1, 4])
def test_regions_follow_the_orientation(tmp_path, orientation, upright_size_noted, scale):
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
    noted = (size[0] * scale, size[1] * scale)
    regions = read_regions(save(path, block(compact("Ada", *area), size=noted), stored, orientation))
    assert lay(np.array([regions.faces[0].box]), regions.frames.claimed[0])[0] == pytest.approx(
        (x0, y0, x1, y1), abs=1e-6
    )


@pytest.mark.parametrize(
    ("noted", "stored", "orientation", "claimed"),
    [
        ((800, 534), (800, 534), 1, (1,)),
        ((800, 534), (133, 89), 1, (1,)),  # smaller, its sides rounded
        ((133, 89), (800, 534), 1, (1,)),
        ((800, 534), (534, 800), 1, ()),  # turned
        ((800, 534), (800, 500), 1, ()),  # cut
        ((800, 534), (534, 800), 6, (1,)),  # of the upright picture
        ((800, 534), (800, 534), 6, (6,)),
        ((800, 534), (600, 600), 6, ()),
        ((800, 534), (800, 534), 3, (3, 1)),  # either: the faces decide
        ((500, 500), (800, 800), 8, (8, 1)),
        (None, (800, 534), 1, (1,)),
        (None, (800, 534), 6, (6, 1)),
        ((0, 534), (800, 534), 1, (1,)),  # no dimensions
    ],
)
def test_frames_by_ratio(tmp_path, noted, stored, orientation, claimed):
    picture = np.zeros((stored[1], stored[0], 3), np.uint8)
    regions = read_regions(save(tmp_path / "a.png", block(ADA, size=noted), picture, orientation))
    assert regions.frames.claimed == claimed
    assert bool(regions.mismatch) == (not claimed)
    assert not set(regions.frames.possible) & set(claimed)
    if claimed and (noted is None or len(set(stored)) == 1 or not noted[0]):
        assert len(regions.frames.possible) == 8 - len(claimed)  # nothing tells quarter turns apart
    elif claimed:
        assert len(regions.frames.possible) == 4 - len(claimed)


class TestSideCars:
    """Programs write them in order to leave pictures as they are."""

    @pytest.fixture
    def photo(self, tmp_path):
        return save(tmp_path / "a.jpg", block(ADA))

    @pytest.mark.parametrize("name", ["a.jpg.xmp", "a.xmp", "a.XMP"])
    def test_counts_before_the_picture(self, photo, name):
        (photo.parent / name).write_bytes(block(BOB))
        regions = read_regions(photo)
        assert [face.name for face in regions.faces] == ["Bob"]
        (overruled,) = regions.overruled
        assert overruled.name == "Ada" and name in overruled.fault

    def test_the_full_name_counts_first(self, photo):
        (photo.parent / "a.jpg.xmp").write_bytes(block(BOB))
        (photo.parent / "a.xmp").write_bytes(block(compact("Eve", 0.5, 0.5, 0.1, 0.1)))
        regions = read_regions(photo)
        assert [face.name for face in regions.faces] == ["Bob"]
        assert {face.name for face in regions.overruled} == {"Ada", "Eve"}

    def test_agreement_is_no_news(self, photo):
        (photo.parent / "a.jpg.xmp").write_bytes(block(ADA, BOB))
        assert names(photo) == ["Ada", "Bob"] and not read_regions(photo).overruled

    def test_without_a_list_of_regions_it_overrules_nothing(self, photo):
        (photo.parent / "a.jpg.xmp").write_bytes(keywords("People/Ada"))
        assert names(photo) == ["Ada"] and read_regions(photo).people == {"Ada"}

    def test_an_empty_list_is_a_word(self, photo):
        (photo.parent / "a.jpg.xmp").write_bytes(block())
        assert names(photo) == [] and [face.name for face in read_regions(photo).overruled] == ["Ada"]

    def test_damaged(self, photo):
        (photo.parent / "a.jpg.xmp").write_bytes(b"<x:xmpmeta")
        with pytest.raises(IdClipError, match=r"'a\.jpg\.xmp'.*damaged"):
            read_regions(photo)

    def test_of_a_raw_file(self, photo):
        """Adobe's side-cars note whose they are."""
        (photo.parent / "a.xmp").write_bytes(joined(block(BOB), keywords(extension="NEF")))
        (photo.parent / "a.nef").write_bytes(b"raw")
        assert names(photo) == ["Ada"]

    def test_of_one_of_several_files(self, photo):
        (photo.parent / "a.nef").write_bytes(b"raw")
        (photo.parent / "a.xmp").write_bytes(block(BOB))
        with pytest.raises(IdClipError, match=r"'a\.xmp' may belong to this photo or to 'a\.nef'.*a\.jpg\.xmp"):
            read_regions(photo)


class TestKeywords:
    @pytest.mark.parametrize("separator", ["/", "|"])
    def test_people_are_a_branch(self, tmp_path, separator):
        tags = [
            separator.join(parts) for parts in (("People", "Family", "Ada Lovelace"), ("Places", "Rome"), ("People",))
        ]
        regions = read_regions(save(tmp_path / "a.jpg", keywords(*tags)))
        assert regions.people == {"Ada Lovelace"} and not regions.faces

    def test_they_never_place_a_face(self, tmp_path):
        path = save(tmp_path / "a.jpg", keywords("People/Ada"))
        found, left = read_named_faces(path, "a.jpg", read_regions(path), engine=None)
        assert not found and [(skip.key, skip.reason) for skip in left] == [("Ada/a.jpg", KEYWORD_ALONE)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_types_of_their_own_are_refused_in_any_encoding(tmp_path, encoding):
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]>' + block(compact("Ada", 0.5, 0.5, 0.1, 0.1)).decode()
    with pytest.raises(IdClipError, match="damaged" if encoding == "utf-32" else "types of its own"):
        read_regions(save(tmp_path / "a.jpg", bomb.encode(encoding)))


@pytest.mark.parametrize(
    ("side_car", "reason"),
    [
        (b"<x:xmpmeta", "damaged"),
        (b"", "damaged"),
        (b"<?xml version='1.0' encoding='no-such'?><a/>", "damaged"),
        (b"<a>" * 5000, "too many elements"),
        (b"<a>" + b"<b/>" * 200_000 + b"</a>", "too many elements"),
        (b"<a>" + b" " * (1 << 22) + b"</a>", "larger than 4 MiB"),
    ],
)
def test_hostile_side_cars_are_refused(tmp_path, side_car, reason):
    path = save(tmp_path / "a.jpg", b"")
    (tmp_path / "a.jpg.xmp").write_bytes(side_car)
    with pytest.raises(IdClipError, match=reason):
        read_regions(path)


def test_pictures_without_regions(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "plain.png")
    assert read_regions(tmp_path / "plain.png").faces == ()
    (tmp_path / "no.jpg").write_bytes(b"nothing")
    with pytest.raises(IdClipError, match="no picture in a known format"):
        read_regions(tmp_path / "no.jpg")


def everybody_alike(model_id: str) -> None:
    """The scale of the toy faces: different people have cosines just below 1."""
    impostors = Impostors(0.99, 0.004, 0.14, 0.04, 1000, ((0.5, 0.99), (1e-4, 0.999999)))
    write_calibration(user_file(model_id), Calibration(model_id, impostors, assumed_genuines(impostors), source="toy"))


def test_named_faces_are_enrolled(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    photos = tmp_path / "photos"
    (photos / "holiday").mkdir(parents=True)
    two = toy_picture((32, 32), (128, 96))
    two[104:112, 128:144] = 0  # so that the faces differ
    regions = [compact("Ada", 48 / 192, 48 / 192, 0.2, 0.2), verbose("José", 144 / 192, 112 / 192, 0.2, 0.2)]
    save(photos / "holiday" / "two.jpg", block(*regions), two)
    save(photos / "none.jpg", block(compact("Ghost", 0.5, 0.2, 0.1, 0.1)), toy_picture((32, 128)))
    save(photos / "broken.jpg", b"<x:xmpmeta", two[::-1])
    both = [compact(name, 48 / 192, 144 / 192, 0.2, 0.2) for name in ("Eve", "Zoe")]
    save(photos / "both.jpg", block(*both, compact("Out", 2, 0.5, 0.1, 0.1)), toy_picture((32, 128)))
    save(photos / "cut.jpg", block(compact("Cut", 0.25, 0.25, 0.2, 0.2), size=(300, 200)), toy_picture((32, 32)))
    old = os.fsdecode(b"c\xe4r.png")  # no UTF-8
    save(photos / old, b"", toy_picture((96, 96)))
    (photos / f"{old}.xmp").write_bytes(microsoft(("Carl", "0.5, 0.5, 0.2, 0.2")))
    pack = f"insightface:{write_pack(tmp_path / 'toy')}"
    everybody_alike(load_face_engine(pack, det_size=192).model_id)
    report = photos / "people_report.json"
    enroll_regions(str(photos), str(tmp_path / "g.sqlite"), pack, 192, same_face=2.0)
    gallery = Gallery(tmp_path / "g.sqlite")
    assert [(person.name, person.photos) for person in gallery.people()] == [("Ada", 1), ("Carl", 1), ("José", 1)]
    assert [photo.label for photo in gallery.photos("Carl")] == [r"c\xe4r.png"]
    assert not np.allclose(gallery.embedding("Ada"), gallery.embedding("José"), atol=1e-3)
    left = json.loads(report.read_text(encoding="utf-8"))
    assert {entry["key"] for entry in left["people_left_out"]} == {"Ghost", "Eve", "Zoe", "Out", "Cut"}
    reasons = {entry["key"]: (entry["reason"], entry["detail"]) for entry in left["photos_left_out"]}
    assert reasons["Ghost/none.jpg"] == (NOT_PLACED, NO_FACE)
    assert reasons["Eve/both.jpg"] == reasons["Zoe/both.jpg"] == (NOT_PLACED, SHARED)
    assert reasons["Out/both.jpg"][0] == UNUSABLE and reasons["Cut/cut.jpg"][0] == OTHER_PIXELS
    assert "damaged" in reasons["broken.jpg"][1] and len(reasons) == 6
    with pytest.raises(IdClipError, match="has a named face region"):
        enroll_regions(str(tmp_path / "toy"), str(tmp_path / "g.sqlite"), pack, 192)


def test_nobody_is_named_where_nothing_can_be_read(tmp_path):
    save(tmp_path / "a.jpg", b"<x:xmpmeta")
    with pytest.raises(IdClipError, match=r"has a named face region.*1 x unreadable face regions \(a\.jpg\)"):
        enroll_regions(str(tmp_path), str(tmp_path / "g.sqlite"))


def test_overruled_names_are_reported(tmp_path):
    path = save(tmp_path / "a.jpg", block(ADA))
    (tmp_path / "a.jpg.xmp").write_bytes(block())
    _, left = read_named_faces(path, "a.jpg", read_regions(path), engine=None)
    assert [(skip.key, skip.reason) for skip in left] == [("Ada/a.jpg", OVERRULED)]
