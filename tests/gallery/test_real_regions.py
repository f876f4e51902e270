"""Face regions in a real family photograph, with real face models: nobody is enrolled under another's name."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from face_engine_fixtures import IDENTIFICATION, embed_people, needs_dlib, write_mobile_face_net
from PIL import Image
from real_photos import REAL, needs_real_photos
from region_fixtures import block, compact, joined, keywords, microsoft

from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.region_command import enroll_regions

pytestmark = needs_real_photos
TURN = Image.Transpose
SIZE = (800, 534)
BOXES = {  # drawn by hand, in pixels
    "Family1-Son": (208, 140, 296, 240),
    "Family1-Dad": (285, 170, 412, 330),
    "Family1-Mom": (396, 208, 494, 342),
    "Family1-Daughter": (502, 210, 590, 326),
}
SHARES = {name: np.array(box) / np.tile(SIZE, 2) for name, box in BOXES.items()}

EXCHANGED = dict(zip(SHARES, [*list(SHARES.values())[1:], SHARES["Family1-Son"]]))


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return write_mobile_face_net(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def people(spec):
    return means_of(spec)


@pytest.fixture(scope="module")
def photo():
    with Image.open(REAL / "scenes" / "identification1.jpg") as image:
        image.load()
        return image


def means_of(spec: str) -> dict[str, np.ndarray]:
    """Name -> mean of the photographs of `identities/`, of the four."""
    return {name: rows.mean(0) for name, rows in embed_people(load_face_engine(spec)).items() if name in IDENTIFICATION}


def enroll_means(gallery: Path, spec: str, people: dict[str, np.ndarray]) -> None:
    model_id = load_face_engine(spec).model_id
    for name, mean in people.items():
        Gallery(gallery).enroll(name, mean, model_id)


def mwg(size=SIZE, shares=SHARES) -> bytes:
    return block(
        *(compact(name, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0) for name, (x0, y0, x1, y1) in shares.items()),
        size=size,
    )


def corners(shares=SHARES) -> bytes:
    return microsoft(*((name, f"{x0}, {y0}, {x1 - x0}, {y1 - y0}") for name, (x0, y0, x1, y1) in shares.items()))


def enrolled(folder: Path, spec: str, people, gallery: str = "g.sqlite") -> dict[str, int]:
    """Enroll everybody of the photos there; checks that each face is the one of its name and that all is accounted for."""
    report, file = folder / "report.json", folder / gallery
    enroll_regions(str(folder), str(file), spec, report=str(report))
    left = json.loads(report.read_text())
    for name in left["enrolled"]:
        for photo in Gallery(file).photos(name):
            assert max(people, key=lambda other: float(people[other] @ photo.embedding)) == name
    assert all(entry["reason"] and entry["detail"] for entry in left["photos_left_out"])
    assert {entry["key"] for entry in left["people_left_out"]} | set(left["enrolled"]) == IDENTIFICATION
    return left["enrolled"]


@pytest.mark.parametrize("packet", [mwg(), corners()], ids=["mwg", "microsoft"])
class TestOnePhotograph:
    @pytest.mark.parametrize("size", [SIZE, (400, 267), (1200, 801)])
    def test_in_any_size(self, tmp_path, spec, people, photo, packet, size):
        photo.resize(size).save(tmp_path / "a.jpg", quality=95, xmp=packet)
        assert enrolled(tmp_path, spec, people) == dict.fromkeys(IDENTIFICATION, 1)

    @pytest.mark.parametrize("turn", TURN, ids=lambda turn: turn.name)
    def test_turned(self, tmp_path, spec, people, photo, packet, turn):
        photo.transpose(turn).save(tmp_path / "a.jpg", quality=95, xmp=packet)
        assert enrolled(tmp_path, spec, people) == {}

    @pytest.mark.parametrize(
        "part",
        [(150, 50, 650, 450), (150, 20, 650, 520), (120, 80, 680, 454), (0, 0, 600, 400), (200, 134, 800, 534)],
        ids=["narrower", "square", "middle", "left", "right"],
    )
    def test_cut(self, tmp_path, spec, people, photo, packet, part):
        photo.crop(part).save(tmp_path / "a.jpg", quality=95, xmp=packet)
        assert enrolled(tmp_path, spec, people) == {}

    @pytest.mark.parametrize("turn", [TURN.ROTATE_90, TURN.ROTATE_180], ids=["6", "3"])
    def test_stored_turned_with_an_orientation(self, tmp_path, spec, people, photo, packet, turn):
        """A camera held upright: pixels turned, EXIF says so, regions noted for the upright picture."""
        exif = Image.Exif()
        exif[0x0112] = {TURN.ROTATE_90: 6, TURN.ROTATE_180: 3}[turn]
        photo.transpose(turn).save(tmp_path / "a.jpg", quality=95, xmp=packet, exif=exif)
        assert enrolled(tmp_path, spec, people) == dict.fromkeys(IDENTIFICATION, 1)


def test_small_faces_of_a_large_picture(tmp_path, spec, people, photo):
    """A detector that sees the whole picture in 640 pixels finds hardly one of them; one that sees a region does."""
    large, corner = Image.new("RGB", (6400, 4272), (90, 90, 90)), (3000, 2000)
    large.paste(photo.convert("RGB"), corner)
    boxes = {name: (np.array(box) + np.tile(corner, 2)) / np.tile(large.size, 2) for name, box in BOXES.items()}
    large.save(tmp_path / "a.jpg", quality=95, xmp=mwg(large.size, boxes))
    assert len(load_face_engine(spec).find(tmp_path / "a.jpg")) < len(IDENTIFICATION)
    assert enrolled(tmp_path, spec, people) == dict.fromkeys(IDENTIFICATION, 1)


@needs_dlib
class TestDlib:
    """Another scale: different people have cosines of 0.84 on average."""

    SPEC = "dlib:hog"

    @pytest.fixture(scope="class")
    def people(self):
        return means_of(self.SPEC)

    def test_all_four(self, tmp_path, people, photo):
        photo.save(tmp_path / "a.jpg", quality=95, xmp=mwg())
        assert enrolled(tmp_path, self.SPEC, people) == dict.fromkeys(IDENTIFICATION, 1)

    def test_names_exchanged(self, tmp_path, people, photo):
        enroll_means(tmp_path / "g.sqlite", self.SPEC, people)
        photo.save(tmp_path / "a.jpg", quality=95, xmp=mwg(shares=EXCHANGED))
        assert enrolled(tmp_path, self.SPEC, people) == {}


class TestNamesExchanged:
    """Regions that lie on faces exactly, of which the names are wrong: geometry sees nothing."""

    def test_against_the_gallery(self, tmp_path, spec, people, photo):
        enroll_means(tmp_path / "g.sqlite", spec, people)
        photo.save(tmp_path / "a.jpg", quality=95, xmp=mwg(shares=EXCHANGED))
        assert enrolled(tmp_path, spec, people) == {}

    def test_against_the_other_photos(self, tmp_path, spec, people, photo):
        photo.save(tmp_path / "wrong.jpg", quality=95, xmp=mwg(shares=EXCHANGED))
        for name in IDENTIFICATION:
            (source,) = sorted((REAL / "identities" / name).glob("*.jpg"))[:1]
            save_with_a_box(source, tmp_path / f"{name}.jpg", name, spec)
            shutil.copy(tmp_path / f"{name}.jpg", tmp_path / f"{name}-again.jpg")
            Image.open(source).convert("L").save(tmp_path / f"{name}-grey.png")  # the same face in other pixels
            with Image.open(tmp_path / f"{name}.jpg") as image:
                (tmp_path / f"{name}-grey.png.xmp").write_bytes(image.info["xmp"])
        assert enrolled(tmp_path, spec, people) == dict.fromkeys(IDENTIFICATION, 2)


def save_with_a_box(source: Path, path: Path, name: str, spec: str) -> None:
    """A copy of a portrait with the region and the keyword of the person."""
    with Image.open(source) as image:
        x0, y0, x1, y1 = load_face_engine(spec).the_face(source, "only").box / np.tile(image.size, 2)
        region = block(compact(name, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), size=image.size)
        image.save(path, quality=95, xmp=joined(region, keywords(f"People/{name}")))


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
class TestWrittenByExifTool:
    """What a real program writes, in the picture and beside it."""

    MWG = "{{Area={{X={0},Y={1},W={2},H={3},Unit=normalized}},Name={4},Type=Face}}"
    MICROSOFT = "{{PersonDisplayName={4},Rectangle={0:.5f}|, {1:.5f}|, {2:.5f}|, {3:.5f}}}"

    def arguments(self, kind: str) -> str:
        regions = []
        for name, (x0, y0, x1, y1) in SHARES.items():
            x, y = ((x0 + x1) / 2, (y0 + y1) / 2) if kind == "mwg" else (x0, y0)
            regions.append((self.MWG if kind == "mwg" else self.MICROSOFT).format(x, y, x1 - x0, y1 - y0, name))
        listed = f"[{','.join(regions)}]"
        if kind == "mwg":
            size = f"AppliedToDimensions={{W={SIZE[0]},H={SIZE[1]},Unit=pixel}}"
            return f"-XMP-mwg-rs:RegionInfo={{{size},RegionList={listed}}}"
        return f"-XMP-MP:RegionInfoMP={{Regions={listed}}}"

    @pytest.mark.parametrize("kind", ["mwg", "microsoft"])
    @pytest.mark.parametrize("side_car", [False, True])
    def test_all_four(self, tmp_path, spec, people, photo, kind, side_car):
        photo.save(tmp_path / "a.jpg", quality=95)
        target = tmp_path / ("a.jpg.xmp" if side_car else "a.jpg")
        subprocess.run(["exiftool", "-q", "-overwrite_original", self.arguments(kind), str(target)], check=True)
        assert enrolled(tmp_path, spec, people) == dict.fromkeys(IDENTIFICATION, 1)
        with Image.open(tmp_path / "a.jpg") as image:
            turned, packet = image.transpose(TURN.FLIP_LEFT_RIGHT), image.info.get("xmp", b"")
        (tmp_path / "g.sqlite").unlink()
        turned.save(tmp_path / "a.jpg", quality=95, xmp=packet)
        assert enrolled(tmp_path, spec, people) == {}
