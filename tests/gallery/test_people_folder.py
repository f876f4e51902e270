"""Bulk enrolment from folders: names from folders or identity_meta.csv, and bad photos that stop nothing."""

import json
import os
import stat

import numpy as np
import pytest
from face_pack_fixtures import toy_picture, write_pack
from PIL import Image

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.bulk_enrolment import REPORT_FILE, report_place
from open_clip_idplugin.gallery.folder_command import enroll_folder
from open_clip_idplugin.gallery.photo_folders import find_photo_folders

CORNERS = [(32, 32), (96, 64), (64, 96)]


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> str:
    return f"insightface:{write_pack(tmp_path_factory.mktemp('packs') / 'toy')}"


def save(path, *corners: tuple[int, int], mark: int = 0) -> None:
    """A picture with a face at each corner; another `mark` is another face."""
    picture = toy_picture(*corners)
    for x, y in corners:
        picture[y + 8 : y + 12, x + 8 : x + 8 + 4 * mark] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def run(folder, tmp_path, pack, **options):
    enroll_folder(str(folder), str(tmp_path / "g.sqlite"), pack, 192, **options)
    return Gallery(tmp_path / "g.sqlite"), json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))


def test_folders_are_names_and_bad_photos_stop_nothing(tmp_path, pack, capsys):
    photos = tmp_path / "photos"
    for number, corner in enumerate(CORNERS):
        save(photos / "Ada Lovelace" / f"{number}.png", corner)
    save(photos / "Ada Lovelace" / "nobody.png")
    save(photos / "Ada Lovelace" / "two.png", *CORNERS[:2])
    (photos / "Ada Lovelace" / "cut.jpg").write_bytes(b"\xff\xd8 broken")
    (photos / "Ada Lovelace" / "letter.txt").write_text("not a photo")
    save(photos / "José" / "1.png", CORNERS[0], mark=5)
    save(photos / "Nobody" / "1.png")
    save(photos / "ada  lovelace" / "1.png", CORNERS[0])
    (photos / "empty").mkdir()
    gallery, report = run(photos, tmp_path, pack, consent="form 7", same_face=2.0)
    assert {person.name: person.details.consent for person in gallery.people()} == {
        "Ada Lovelace": "form 7",
        "José": "form 7",
    }
    assert report["enrolled"] == {"Ada Lovelace": 3, "José": 1}
    left = {entry["key"]: entry["detail"] for entry in report["photos_left_out"]}
    assert set(left) == {f"Ada Lovelace/{name}" for name in ("nobody.png", "two.png", "cut.jpg", "letter.txt")} | {
        "Nobody/1.png"
    }
    assert "2 faces" in left["Ada Lovelace/two.png"]
    assert {entry["key"] for entry in report["people_left_out"]} == {"ada  lovelace", "empty", "Nobody"}
    assert stat.S_IMODE((photos / REPORT_FILE).stat().st_mode) == 0o600
    assert gallery.cover("José") is not None
    assert "2 people with 4 photos" in capsys.readouterr().out
    again, _ = run(photos, tmp_path, pack, same_face=2.0)
    assert again.people() == gallery.people()  # nothing is counted twice


def test_identity_meta_names_the_folders(tmp_path):
    save(tmp_path / "train" / "n000001" / "0001_01.png", CORNERS[0])
    save(tmp_path / "train" / "n000002" / "0001_01.png", CORNERS[0])
    save(tmp_path / "train" / "n000003" / "0001_01.png", CORNERS[0])
    (tmp_path / "identity_meta.csv").write_text(
        'Class_ID, Name, Sample_Num, Flag, Gender\nn000001, "Ada_Lovelace", 1, 1, f\nn000002, "ada_lovelace", 1, 1, f\n'
    )
    people, skipped = find_photo_folders(tmp_path / "train")
    assert [person.name for person in people] == ["Ada Lovelace", "n000003"]
    assert [(skip.key, skip.detail) for skip in skipped] == [("n000002", "'ada lovelace' is n000001 already")]


def test_two_names_of_one_face_are_said(tmp_path, pack, capsys):
    save(tmp_path / "photos" / "Ada" / "1.png", CORNERS[0])
    save(tmp_path / "photos" / "Countess" / "1.png", CORNERS[0])
    _, report = run(tmp_path / "photos", tmp_path, pack)
    assert report["alike"] == [["Ada", "Countess", pytest.approx(1, abs=1e-3)]]
    assert 'idclip merge "Ada" "Countess"' in capsys.readouterr().out


def test_what_cannot_work_is_refused_first(tmp_path, pack):
    with pytest.raises(IdClipError, match="there is no folder"):
        find_photo_folders(tmp_path / "none")
    with pytest.raises(IdClipError, match="holds nobody's photos"):
        find_photo_folders(tmp_path)
    save(tmp_path / "photos" / "Ada" / "1.png", CORNERS[0])
    Gallery(tmp_path / "g.sqlite").enroll("Grace", np.ones((1, 512), "f4"), "insightface:other")
    with pytest.raises(IdClipError, match="made with the face model 'insightface:other'"):
        run(tmp_path / "photos", tmp_path, pack)


def test_names_that_are_no_utf8_lose_nobody(tmp_path, pack):
    """Old disks have names in other encodings: such a photo stopped the verb when the gallery was written."""
    photos = tmp_path / "photos"
    save(photos / "Ada" / os.fsdecode(b"f\xfcnf.png"), CORNERS[0])
    save(photos / os.fsdecode(b"Jos\xe9") / "1.png", CORNERS[1], mark=5)
    (photos / "Ada" / os.fsdecode(b"\xff.jpg")).write_bytes(b"no picture")
    gallery, report = run(photos, tmp_path, pack, same_face=2.0)
    assert report["enrolled"] == {"Ada": 1, "Jos\\xe9": 1}
    assert {person.name for person in gallery.people()} == {"Ada", "Jos\\xe9"}
    assert {entry["key"] for entry in report["photos_left_out"]} == {"Ada/\\xff.jpg"}


def test_the_report_lies_where_the_photos_or_groups_do(tmp_path, monkeypatch):
    groups = tmp_path / "groups" / "groups.csv"
    groups.parent.mkdir()
    groups.touch()
    assert report_place(None, str(groups)) == groups.with_name(REPORT_FILE)
    assert report_place(None, str(groups.parent)) == groups.with_name(REPORT_FILE)
    elsewhere = str(tmp_path / "new" / "r.json")
    assert report_place(elsewhere, str(groups)) == tmp_path / "new" / "r.json"
    monkeypatch.setattr(os, "access", lambda folder, mode: str(folder) != str(groups.parent))  # as for photos on a CD
    with pytest.raises(IdClipError, match="name a file with --report"):
        report_place(None, str(groups))
    assert report_place(elsewhere, str(groups))
