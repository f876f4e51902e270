"""`idclip doctor`: a line for everything, remedies, the exit code, and that nothing is changed by looking."""

import contextlib
import json
import shutil
import sqlite3
from collections import namedtuple

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from index_change_fixtures import FACES, INDEXED, archive, changeable  # noqa: F401
from retrieval_fixtures import PLAIN, tiny_models  # noqa: F401

from open_clip_idplugin import cli
from open_clip_idplugin.doctor import files, installation
from open_clip_idplugin.doctor.findings import NOTE, OK, WRONG, Finding, found_by
from open_clip_idplugin.gallery import SCHEMA_VERSION, Gallery
from open_clip_idplugin.hosts import autoload
from open_clip_idplugin.model_store import installation as store
from open_clip_idplugin.retrieval.index_folder.removed_rows import remove_rows

MODEL = "insightface:test"


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    made = Gallery(tmp_path / "people.sqlite")
    made.enroll("Ada", np.eye(2, 8), MODEL)
    made.enroll("Bob", np.eye(1, 8, 3), MODEL, details={"consent_until": "2001-01-01"})
    return made


def doctor(capsys, *words: str) -> tuple[int, list[str], str]:
    """-> exit code, lines, and what was said at the end on stderr."""
    capsys.readouterr()
    code = cli.run(cli.VERBS, ["doctor", *words], "idclip")
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def one(findings) -> Finding:
    (finding,) = findings
    return finding


def test_one_line_each_and_nothing_wrong(capsys, gallery, archive):  # noqa: F811
    code, lines, said = doctor(capsys, "--gallery", str(gallery.path), "--index", str(archive))
    assert code == 0 and lines[-1] == "Nothing is wrong.", said
    abouts = [line[7:].split("  ")[0] for line in lines[:-1]]
    assert all(line.split()[0] in (OK, NOTE) for line in lines[:-1])
    for about in ("plugin", "open_clip", "open_clip_train", "clip_retrieval", "autoload", "extra faces", "torch", "gallery",
                  "onnxruntime", "shipped models", "CLIP weights", "index", "free disk"):  # fmt: skip
        assert about in abouts


def test_json_and_exit_code_where_something_is_wrong(capsys, tmp_path):
    code, lines, said = doctor(capsys, "--json", "--gallery", str(tmp_path / "none"), "--index", str(tmp_path))
    told = json.loads("\n".join(lines))
    wrong = {finding["about"]: finding["text"] for finding in told["findings"] if finding["state"] == WRONG}
    assert code == 2 and told["ok"] is False and set(wrong) == {"gallery", "index"}
    assert "there is no gallery at" in wrong["gallery"] and "holds no image.index: make an index" in wrong["index"]
    assert said.splitlines()[-1].startswith("idclip doctor: 2 of ") and "lines say 'wrong' (gallery, index)" in said


def test_a_check_that_fails_is_a_finding():
    def check():
        yield Finding("disk", OK, "fine")
        raise RuntimeError("libcuda.so.1:\n cannot open")

    assert list(found_by("disk", check)) == [
        Finding("disk", OK, "fine"), Finding("disk", WRONG, "libcuda.so.1: cannot open")
    ]  # fmt: skip


def test_extras_that_lack_are_named_with_their_line(monkeypatch):
    lacking = {"heic": ["pillow_heif"], "serve": ["faiss", "flask"]}
    monkeypatch.setattr(installation, "lacking_modules", lambda extra: lacking.get(extra, []))
    found = {finding.about: finding for finding in installation.extras()}
    assert found["extra heic"].state == NOTE
    assert found["extra heic"].text.endswith("; not installed: pip install 'open-clip-idplugin[heic]'")
    assert "faiss, flask not installed: pip install 'open-clip-idplugin[serve]'" in found["extra serve"].text
    assert found["extra train"].state == OK


def test_a_requirement_out_of_its_range_is_named(monkeypatch):
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda _name: ["numpy>=99", "Pillow>=1", 'nosuchthing; extra == "x"']
    )
    found = list(installation.plugin())
    assert [finding.state for finding in found] == [OK, WRONG]
    assert "is installed, numpy>=99 needed: pip install 'numpy>=99'" in found[1].text


def test_the_hook_is_reported_and_half_of_one_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(autoload, "hook_folder", lambda: tmp_path)
    assert one(installation.start_up_hook()).text.startswith("off: ") and one(installation.start_up_hook()).state == OK
    (tmp_path / f"{autoload.NAME}.pth").touch()
    assert one(installation.start_up_hook()).state == WRONG


def test_a_gpu_that_face_models_do_not_use_is_noted(monkeypatch):
    import torch

    card = namedtuple("Card", "name total_memory")("Test card", 8e9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _number: card)
    on_torch, on_onnx = installation.devices()
    assert "cuda:0 Test card, 8 GB" in on_torch.text
    assert on_onnx.state == NOTE and "pip install onnxruntime-gpu" in on_onnx.text


def test_face_models_with_their_licences_and_one_that_is_not_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "insightface_folder", lambda name="": tmp_path / "packs" / name)
    monkeypatch.setattr(store, "opencv_folder", lambda: tmp_path / "opencv")
    assert [finding.state for finding in files.face_models()] == [OK, NOTE]
    for name, file in (("buffalo_l", "det.onnx"), ("mine", "net.onnx"), ("buffalo_s", "readme.txt")):
        (tmp_path / "packs" / name).mkdir(parents=True)
        (tmp_path / "packs" / name / file).touch()
    shipped, there, broken, own = files.face_models()
    assert shipped.state == there.state == own.state == OK and broken.state == WRONG
    assert there.text.startswith("buffalo_l, licence: non-commercial research only; ")
    assert "buffalo_s" in broken.text and "idclip models get buffalo_s --accept_licence" in broken.text
    assert own.text.startswith("mine, licence: its makers'")


def test_clip_weights_in_the_hubs_cache(monkeypatch, tmp_path, tiny_models):  # noqa: F811
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert one(files.clip_weights()).state == NOTE
    blobs = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "a").write_bytes(bytes(3_000_000))
    (blobs / "link").symlink_to("a")
    found = one(files.clip_weights())
    assert found.text.startswith(
        "3 MB from https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K (licence: see there)"
    )


def test_a_gallery_is_counted_and_not_changed(gallery):
    before = gallery.path.read_bytes(), gallery.path.stat().st_mtime_ns
    found = one(files.gallery(str(gallery.path)))
    assert found.state == NOTE and "2 people, 3 photos, face model insightface:test; whole" in found.text
    assert "the consent of 1 has expired" in found.text
    assert (gallery.path.read_bytes(), gallery.path.stat().st_mtime_ns) == before


def test_a_gallery_of_an_earlier_version_stays_one(tmp_path):
    path = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "CREATE TABLE face_model (id TEXT, size INTEGER); CREATE TABLE people (id INTEGER PRIMARY KEY, name, folded);"
            "CREATE TABLE photos (person INTEGER, label TEXT, embedding BLOB); INSERT INTO people VALUES (1, 'Ada', 'ada');"
            "PRAGMA user_version = 1"
        )
    path.chmod(0o644)
    whole, private = files.gallery(str(path))
    assert whole.state == OK and f"of schema 1, brought to {SCHEMA_VERSION} when it is next used" in whole.text
    assert private.state == WRONG and private.text.endswith(f"chmod 600 '{path}'")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_damaged_gallery_is_one_line(gallery):
    content = bytearray(gallery.path.read_bytes())
    content[4096:12288] = bytes(8192)
    gallery.path.write_bytes(content)
    found = one(found_by("gallery", lambda: files.gallery(str(gallery.path))))
    assert found.state == WRONG and str(gallery.path) in found.text


def test_an_index_is_described(archive):  # noqa: F811
    remove_rows(archive, lambda: np.array([1, 5]))
    before = sorted(archive.rglob("*"))
    found = one(files.index(str(archive)))
    assert found.state == OK, found.text
    assert f"{INDEXED} images, 2 of them removed, 24 numbers each, made with {PLAIN} (plain.pt)" in found.text
    assert f"{INDEXED} faces by {FACES}" in found.text
    assert sorted(archive.rglob("*")) == before  # no Arrow files are made by looking


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "image.index").write_bytes(b"IxF2"), "is not a readable faiss index"),
        (lambda folder: (folder / "removed.json").write_text("{}"), "'{folder}/removed.json' is damaged"),
        (lambda folder: (folder / "index_card.json").write_text("[]"), "is damaged"),
        (lambda folder: (folder / "faces" / "rows.npy").unlink(), "add the faces again with `idclip index_faces`"),
        (lambda folder: next((folder / "metadata").iterdir()).write_bytes(b"PAR1"), "Parquet"),
        (lambda folder: shutil.rmtree(folder / "metadata"), "is no image index"),
    ],
)
def test_a_spoiled_index_is_one_line(archive, spoil, sentence):  # noqa: F811
    spoil(archive)
    found = one(found_by("index", lambda: files.index(str(archive))))
    assert found.state == WRONG and sentence.format(folder=archive) in found.text, found.text


def test_an_index_with_fewer_vectors_than_rows_is_damaged(archive):  # noqa: F811
    import faiss

    fewer = faiss.IndexFlatIP(24)
    fewer.add(np.eye(3, 24, dtype=np.float32))
    faiss.write_index(fewer, str(archive / "image.index"))
    found = one(found_by("index", lambda: files.index(str(archive))))
    assert f"is damaged: 3 vectors, but {INDEXED} rows of metadata" in found.text


@pytest.mark.parametrize(("free", "state"), [(1e8, WRONG), (3e9, NOTE), (1e11, OK)])
def test_free_disk(monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: namedtuple("Usage", "free")(free))
    assert {finding.state for finding in files.free_disk()} == {state}
