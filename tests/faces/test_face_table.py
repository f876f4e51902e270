"""`idclip faces`: folders, globs and shards -> one table, the same bytes however it was made; and its reader."""

import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from face_pack_fixtures import toy_picture, write_detector, write_gender_age, write_pack
from PIL import Image

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import ModelMismatch, load_face_engine
from open_clip_idplugin.faces.face_table import (
    FaceTableError,
    load_face_table,
    load_face_tables,
)
from open_clip_idplugin.pictures.collection import find_collection
from open_clip_idplugin.storage.locations import location
from webdataset_tools.collection_faces.build import FacesOptions, build_face_table
from webdataset_tools.collection_faces.command import faces as faces_verb

FILES = ("faces.parquet", "embeddings.npy", "metadata.json", "report.json")


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


# Path below the root -> content; "no face" and damaged ones among them.
PICTURES = {
    "a/1.png": png(toy_picture((32, 32), (96, 64))),
    "a/2.png": png(toy_picture()),
    "b/deep/3.png": png(toy_picture((64, 96))),
    "b/日本 'x'.png": png(toy_picture((64, 64))[:160]),
    "cut.jpg": png(toy_picture((64, 64)))[:300],
    "empty.webp": b"",
    "z.png": png(toy_picture((32, 128), (128, 32), (64, 64))),
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = write_pack(tmp_path_factory.mktemp("packs") / "toy")
    write_gender_age(folder / "genderage.onnx")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("collection") / "photos"
    for name, content in PICTURES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "notes.txt").write_text("no picture")
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def options(source, output, pack, **changes) -> FacesOptions:
    values = {"faces": f"insightface:{pack}", "det_size": 192, "workers": 1, "pictures_per_part": 3, **changes}
    return FacesOptions(str(source), str(output), **values)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def made(photos, pack, tmp_path_factory):
    """The table of the folder, and its report."""
    output = tmp_path_factory.mktemp("made") / "table"
    return output, build_face_table(options(photos, output, pack))


class TestFolder:
    def test_every_face_has_a_row(self, made, photos, pack):
        output, report = made
        table = load_face_table(output)
        assert (len(table), table.embeddings.shape, table.embeddings.dtype) == (7, (7, 512), np.float32)
        assert (report.pictures, report.faces, report.embeddings) == (7, 7, 7)
        engine = load_face_engine(f"insightface:{pack}", det_size=192)
        for row in table.rows():
            found = engine.detect((photos / row.key).read_bytes())[row.face]
            np.testing.assert_array_equal(row.box, found.box)
            np.testing.assert_array_equal(row.landmarks, found.landmarks)
            np.testing.assert_allclose(table.embeddings[row.embedding_row], found.embedding, atol=1e-6)
            assert (row.shard, row.path, row.model_id) == (None, row.key, engine.model_id)
            assert (row.gender, row.age, row.score) == ("male", 42.0, pytest.approx(found.score))
            assert (row.width, row.height) == ((192, 160) if "日本" in row.key else (192, 192))

    def test_report(self, made):
        output, report = made
        values = json.loads((output / "report.json").read_text())
        assert values["without_faces"] == {"count": 1, "pictures": ["a/2.png"]}
        assert {skip["key"]: skip["reason"] for skip in values["rejected"]["pictures"]} == {
            "cut.jpg": "damaged or truncated",
            "empty.webp": "no picture in a known format",
        }
        assert str(output) not in (output / "report.json").read_text()
        assert any("left out: 1 x damaged or truncated (cut.jpg)" in line for line in report.lines())

    def test_only_the_owner_may_read_faces(self, made):
        output, _ = made
        for name in ("faces.parquet", "embeddings.npy"):
            assert stat.S_IMODE((output / name).stat().st_mode) == 0o600
        assert not (output / "parts").exists()

    def test_the_same_bytes_however_it_was_made(self, made, photos, pack, tmp_path):
        expected = content(made[0])
        build_face_table(options(photos, tmp_path / "two", pack, workers=2))
        assert content(tmp_path / "two") == expected
        url = f"file://{tmp_path}/url"
        build_face_table(options(f"file://{photos}", url, pack))
        assert content(tmp_path / "url") == expected

    @pytest.mark.slow
    def test_on_spark(self, made, photos, pack, tmp_path):
        pytest.importorskip("pyspark")
        if not shutil.which("java"):
            pytest.skip("Spark needs Java")
        from pyspark.sql import SparkSession

        try:
            build_face_table(options(photos, tmp_path / "spark", pack, workers=2, distributor="pyspark"))
        finally:
            session = SparkSession.getActiveSession()
            if session is not None:
                session.stop()
        assert content(tmp_path / "spark") == content(made[0])

    def test_from_and_to_a_url(self, made, photos, pack, tmp_path):
        pytest.importorskip("upath")
        source, output = location("memory://faces-test/photos"), location("memory://faces-test/table")
        for name, picture in PICTURES.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(picture)
        (source / "notes.txt").write_text("no picture")
        build_face_table(options(source, output, pack))
        for name in FILES:
            assert (output / name).read_bytes() == (made[0] / name).read_bytes()
        with pytest.raises(FaceTableError, match="copy it to a local folder"):
            load_face_table(str(output))
        with pytest.raises(IdClipError, match="memory of one process"):
            options(source, output, pack, workers=2)

    def test_parts_that_are_there_are_kept(self, made, photos, pack, tmp_path, monkeypatch):
        from webdataset_tools.collection_faces import build, scanning

        output = tmp_path / "table"
        monkeypatch.setattr(build, "write_table", lambda *_: pytest.fail("disk full"))
        with pytest.raises(pytest.fail.Exception):
            build_face_table(options(photos, output, pack))
        (output / "parts" / "000001.json").unlink()
        (output / "parts" / ".000001.npy.x.part").write_bytes(b"left behind")
        monkeypatch.undo()
        looked = []
        look_at = scanning.FaceScanner._look_at
        monkeypatch.setattr(scanning.FaceScanner, "_look_at", lambda *a: looked.append(a[1].label) or look_at(*a))
        build_face_table(options(photos, output, pack))
        assert looked == ["b/日本 'x'.png", "cut.jpg", "empty.webp"]
        assert content(output) == content(made[0])
        build_face_table(options(photos, output, pack))  # finished: nothing is looked at again
        assert len(looked) == 3 and content(output) == content(made[0])

    def test_other_parameters_are_refused(self, made, photos, pack, tmp_path):
        output, _ = made
        with pytest.raises(IdClipError, match="min_face was 0, is 40"):
            build_face_table(options(photos, output, pack, min_face=40))
        with pytest.raises(IdClipError, match="the pictures have changed"):
            changed = tmp_path / "photos"
            shutil.copytree(photos, changed)
            (changed / "a/1.png").unlink()
            build_face_table(options(changed, output, pack))
        (tmp_path / "full").mkdir()
        (tmp_path / "full/thesis.txt").write_text("mine")
        with pytest.raises(IdClipError, match="choose an empty folder"):
            build_face_table(options(photos, tmp_path / "full", pack))

    def test_small_and_uncertain_faces_can_be_left_out(self, photos, pack, tmp_path):
        report = build_face_table(options(photos, tmp_path / "large", pack, min_face=40))
        assert report.faces == 0 and len(report.without_faces) == 5
        table = load_face_table(tmp_path / "large")
        assert table.embeddings.shape == (0, 512) and table.column("box").shape == (0, 4)

    def test_faces_that_cannot_be_aligned_have_no_embedding(self, photos, tmp_path):
        folder = write_pack(tmp_path / "point")
        write_detector(folder / "det.onnx", landmarks=np.full((5, 2), 0.5))
        report = build_face_table(options(photos / "a", tmp_path / "table", folder))
        assert (report.faces, report.embeddings, report.not_embedded) == (2, 0, ["1.png", "1.png"])
        table = load_face_table(tmp_path / "table")
        assert table.column("embedding_row").tolist() == [-1, -1] and table.row(0).embedding_row is None

    def test_a_model_that_fails_on_one_picture(self, photos, pack, tmp_path, monkeypatch):
        from open_clip_idplugin.faces import FaceEngine

        find = FaceEngine.find

        def fail(engine, picture):
            if picture.shape[0] == 160:
                raise RuntimeError("assertion in a kernel")
            return find(engine, picture)

        monkeypatch.setattr(FaceEngine, "find", fail)
        report = build_face_table(options(photos, tmp_path / "table", pack))
        assert [skip.reason for skip in report.rejected if "日本" in skip.key] == ["face model failed"]
        assert report.faces == 6


class TestShards:
    def test_pictures_are_found_as_webdataset_groups_them(self, pack, tmp_path):
        face, none = PICTURES["b/deep/3.png"], PICTURES["a/2.png"]
        first = {
            "0001.jpg": face,
            "0001.txt": b"caption",
            "0001.face.jpg": PICTURES["a/1.png"],  # another member of the sample, not its picture
            "folder/0002.png": none,
            "folder/0003.json": b"{}",
            "../../outside.jpg": face,
        }
        write_tar(tmp_path / "shards/00000.tar", first)
        write_tar(tmp_path / "shards/00001.tar", {"0001.webp": b"damaged", "0009.PNG": PICTURES["a/1.png"]})
        report = build_face_table(options(tmp_path / "shards", tmp_path / "table", pack))
        table = load_face_table(tmp_path / "table")
        assert [(row.shard, row.key, row.path) for row in table.rows()] == [
            ("00000.tar", "0001", "0001.jpg"),
            ("00000.tar", "../../outside", "../../outside.jpg"),
            ("00001.tar", "0009", "0009.PNG"),
            ("00001.tar", "0009", "0009.PNG"),
        ]
        assert report.without_faces == ["00000.tar/folder/0002"]
        assert {skip.key: skip.reason for skip in report.rejected} == {
            "00000.tar/folder/0003": "sample without a picture",
            "00001.tar/0001": "no picture in a known format",
        }
        assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "table"]

    def test_a_shard_that_breaks_off_gives_what_comes_before(self, pack, tmp_path):
        whole = write_tar(tmp_path / "whole.tar", {f"{n}.png": PICTURES["b/deep/3.png"] for n in range(3)})
        member = len(whole.read_bytes()[: whole.read_bytes().rindex(b"2.png")])
        cut, torn = tmp_path / "in/cut.tar", tmp_path / "in/torn.tar"
        cut.parent.mkdir()
        cut.write_bytes(whole.read_bytes()[: member + 700])  # inside the third picture
        torn.write_bytes(whole.read_bytes()[:member] + b"garbage!" * 100)
        (tmp_path / "in/none.tar").write_bytes(b"no tar at all" * 100)
        report = build_face_table(options(tmp_path / "in", tmp_path / "table", pack))
        assert report.faces == 4
        assert [(skip.key, skip.reason) for skip in report.rejected] == [
            ("cut.tar", "damaged shard"),
            ("none.tar", "damaged shard"),
            ("torn.tar", "damaged shard"),
        ]


class TestCollection:
    def test_globs(self, photos):
        def keys(pattern: str) -> list[str]:
            return [key for task in find_collection(f"{photos}/{pattern}", 100).tasks for key in task.keys]

        assert keys("a/*.png") == ["1.png", "2.png"]
        assert keys("*/1.*") == ["a/1.png"]
        assert keys("**/[13].png") == ["a/1.png", "b/deep/3.png"]
        with pytest.raises(IdClipError, match="neither tar files nor pictures"):
            keys("*.txt")

    def test_shards_by_pattern(self, tmp_path):
        for number in range(3):
            write_tar(tmp_path / f"s/{number:05d}.tar", {"1.png": b""})
        for text in ("s", "s/*.tar", "s/{00000..00002}.tar"):
            collection = find_collection(f"{tmp_path}/{text}", 100)
            assert [task.shard for task in collection.tasks] == ["00000.tar", "00001.tar", "00002.tar"]
        with pytest.raises(IdClipError, match=r"no file .*00003\.tar' \(1 missing\)"):
            find_collection(f"{tmp_path}/s/{{00002..00003}}.tar", 100)

    def test_what_is_not_there(self, tmp_path):
        for text, reason in (("", "names nothing"), (f"{tmp_path}/absent", "no folder"), (str(tmp_path), "neither")):
            with pytest.raises(IdClipError, match=reason):
                find_collection(text, 100)

    def test_names_that_are_no_text(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"")
        with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):  # noqa: PTH123
            pass
        collection = find_collection(str(tmp_path), 100)
        assert collection.tasks[0].keys == ("\\xff.png", "a.png")

    @pytest.mark.parametrize(
        "bad",
        [{"workers": 0}, {"min_face": -1}, {"min_score": 2}, {"distributor": "slurm"}, {"pictures_per_part": True}],
    )
    def test_options(self, bad):
        with pytest.raises(IdClipError, match=f"--{next(iter(bad))} must be"):
            FacesOptions("in", "out", **bad)


class TestReader:
    def test_columns(self, made):
        table = load_face_table(made[0])
        assert table.column("box").shape == (7, 4) and table.column("landmarks").shape == (7, 5, 2)
        assert table.column("key").tolist() == [row.key for row in table.rows()]
        np.testing.assert_array_equal(table.face_of_embedding, np.arange(7))
        np.testing.assert_array_equal(table.column("box")[3], table.row(3).box)
        with pytest.raises(FaceTableError, match="no column 'name'; choose one of shard, key"):
            table.column("name")
        with pytest.raises(IndexError):
            table.row(7)

    def test_embeddings_are_mapped(self, made):
        table = load_face_table(made[0])
        assert isinstance(table.embeddings, np.memmap) and not table.embeddings.flags.writeable
        np.testing.assert_allclose(np.linalg.norm(table.embeddings, axis=1), 1, atol=1e-5)

    def test_models_never_mix(self, made, photos, tmp_path):
        other = write_pack(tmp_path / "other", seed=1)
        build_face_table(options(photos / "a", tmp_path / "table", other))
        with pytest.raises(ModelMismatch, match="come from different models"):
            load_face_tables([made[0], tmp_path / "table"])
        with pytest.raises(ModelMismatch, match="and the query come from different models"):
            load_face_table(made[0], "insightface:elsewhere/x-0")
        with pytest.raises(ModelMismatch, match="the gallery"):
            load_face_table(made[0]).require_model("insightface:elsewhere/x-0", "the gallery")
        assert len(load_face_tables([made[0], made[0]], load_face_table(made[0]).model_id)) == 2
        metadata = tmp_path / "table/metadata.json"
        values = json.loads(metadata.read_text())
        metadata.write_text(json.dumps({**values, "model_id": "insightface:elsewhere/x-0"}))
        with pytest.raises(ModelMismatch, match="but holds faces of insightface:other"):
            load_face_table(tmp_path / "table")

    def test_what_is_no_table(self, made, tmp_path):
        with pytest.raises(FaceTableError, match="no face table"):
            load_face_table(tmp_path)
        broken = shutil.copytree(made[0], tmp_path / "broken")
        load_face_table(broken).verify()
        array = np.load(broken / "embeddings.npy")
        np.save(broken / "embeddings.npy", array[::-1])
        with pytest.raises(FaceTableError, match="has changed since"):
            load_face_table(broken).verify()
        np.save(broken / "embeddings.npy", array[:3])
        with pytest.raises(FaceTableError, match="do not belong together"):
            load_face_table(broken)
        (broken / "faces.parquet").write_bytes(b"no table")
        with pytest.raises(FaceTableError, match="cannot be read"):
            load_face_table(broken)
        (broken / "metadata.json").write_text('{"format": "faces-v9"}')
        with pytest.raises(FaceTableError, match="of the format 'faces-v9'"):
            load_face_table(broken)
        (broken / "metadata.json").write_text("[]")
        with pytest.raises(FaceTableError, match="not readable"):
            load_face_table(broken)


def test_the_verb_says_what_it_wrote(photos, pack, tmp_path, capsys):
    faces_verb(str(photos), str(tmp_path / "t"), f"insightface:{pack}", det_size=192, workers=1, sheet=True)
    said = capsys.readouterr().out
    assert "pictures 7; faces 7; embeddings 7; pictures without faces 1" in said
    assert "faces.parquet, embeddings.npy" in said and "next:" in said and "sheet.jpg" in said
    sheet = Image.open(tmp_path / "t/sheet.jpg")
    assert sheet.size == (7 * 116 + 4, 120)
    red, green, blue = sheet.getpixel((4 + 56, 4 + 20))
    assert red > 200 and green < 80 and blue > 200  # a face, not an empty cell
    assert stat.S_IMODE((tmp_path / "t/sheet.jpg").stat().st_mode) == 0o600


def test_sheet_of_shards(pack, tmp_path, capsys):
    for number in range(6):
        write_tar(tmp_path / f"in/{number}.tar", {"1.png": PICTURES["a/1.png"]})
    faces_verb(str(tmp_path / "in"), str(tmp_path / "t"), f"insightface:{pack}", det_size=192, workers=1, sheet=True)
    assert Image.open(tmp_path / "t/sheet.jpg").size == (8 * 116 + 4, 120)  # four of the shards, two faces each


def test_a_full_disk_at_any_file_is_one_sentence_and_the_run_goes_on(made, photos, pack, tmp_path, monkeypatch):
    sync, target = os.fsync, tmp_path / "t"
    for name in ("build.json", "000000.npy", "000001.parquet", "000002.json", "report.json", *FILES[:3]):

        def failing(handle, name=name):
            if f".{name}." in os.readlink(f"/proc/self/fd/{handle}"):  # noqa: PTH115
                raise OSError(28, "No space left on device")
            sync(handle)

        monkeypatch.setattr("os.fsync", failing)
        with pytest.raises(IdClipError, match=r"cannot .*write .*No space left on device.* run the same command"):
            build_face_table(options(photos, target, pack))
        assert not (target / "metadata.json").exists()
    monkeypatch.setattr("os.fsync", sync)
    build_face_table(options(photos, target, pack))
    assert content(target) == content(made[0])


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(photos, pack, tmp_path):
    """kill -9 of the whole run, worker processes included, then the same command."""
    for number in range(8):
        shutil.copytree(photos, tmp_path / f"photos/{number}")
    changes = {"pictures_per_part": 1, "workers": 2}
    program = "import sys; from open_clip_idplugin.cli import VERBS, run; sys.exit(run(VERBS, sys.argv[1:], 'idclip'))"
    flags = {"input": tmp_path / "photos", "output": tmp_path / "t", "faces": f"insightface:{pack}", "det_size": 192}
    words = [f"--{name}={value}" for name, value in {**flags, **changes}.items()]
    parts, seed = tmp_path / "t/parts", time.time_ns()
    print("seed of the moments:", seed)  # shown when the test fails
    rng = random.Random(seed)
    for finished in sorted(rng.randint(0, 50) for _ in range(10)):
        process = subprocess.Popen(
            [sys.executable, "-c", program, "faces", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(parts.glob("*.json"))) < finished:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
    build_face_table(options(tmp_path / "photos", tmp_path / "t", pack, **{**changes, "workers": 1}))
    build_face_table(options(tmp_path / "photos", tmp_path / "undisturbed", pack, **{**changes, "workers": 1}))
    assert content(tmp_path / "t") == content(tmp_path / "undisturbed")


def test_killed_and_run_again(photos, pack, tmp_path):
    """kill -9 of the whole run, worker processes included, then the same command."""
    for number in range(8):
        shutil.copytree(photos, tmp_path / f"photos/{number}")
    changes = {"pictures_per_part": 1, "workers": 2}
    program = "import sys; from open_clip_idplugin.cli import VERBS, run; sys.exit(run(VERBS, sys.argv[1:], 'idclip'))"
    flags = {"input": tmp_path / "photos", "output": tmp_path / "t", "faces": f"insightface:{pack}", "det_size": 192}
    words = [f"--{name}={value}" for name, value in {**flags, **changes}.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "faces", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    parts = tmp_path / "t/parts"
    while process.poll() is None and len(list(parts.glob("*.json"))) < 3:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    time.sleep(1)  # until the workers notice
    assert 3 <= len(list(parts.glob("*.json"))) < 56 and not (tmp_path / "t/metadata.json").exists()
    resumed = options(tmp_path / "photos", tmp_path / "t", pack, **{**changes, "workers": 1})
    build_face_table(resumed)
    build_face_table(options(tmp_path / "photos", tmp_path / "undisturbed", pack, **{**changes, "workers": 1}))
    assert content(tmp_path / "t") == content(tmp_path / "undisturbed")
