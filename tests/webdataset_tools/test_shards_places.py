"""Packing from and to URLs, through kills, and with names that no file system likes: always the same bytes."""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from uuid import uuid4

import pytest
import release_fixtures as fixtures
from PIL import Image
from places import FIXTURES
from worker_pool_fixtures import stop_spark

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import location
from webdataset_tools import shard_report, shard_writer
from webdataset_tools.evaluation_data import load_evaluation_set
from webdataset_tools.inspection import inspect
from webdataset_tools.sample_format import read_samples
from webdataset_tools.shards import ShardOptions, build_shards


@pytest.fixture
def release(tmp_path):
    return fixtures.write_release(tmp_path / "coco-pfs", photos=2)


def pack(release, output, **options):
    options = {"workers": 1, "samples_per_shard": 5, "photos": fixtures.photo_folder(location(release)), **options}
    return build_shards(ShardOptions(release, "train", output, **options), fixtures.fake_engine())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def memory(release):
    """The release in this process's memory, and a place beside it."""
    pytest.importorskip("upath")
    top = location(f"memory://{uuid4().hex}")
    for path in release.rglob("*"):
        if path.is_file():
            target = top / "coco-pfs" / path.relative_to(release).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    yield top
    top.fs.rm(top.path, recursive=True)


@pytest.mark.parametrize("options", [{}, {"samples_per_shard": None, "bytes_per_shard": "40kB"}])
def test_urls_give_the_bytes_that_paths_give(release, memory, tmp_path, options):
    pack(release, tmp_path / "paths", **options)
    pack(f"file://{release}", f"file://{tmp_path}/files", **options, photos=f"file://{fixtures.photo_folder(release)}")
    assert contents(tmp_path / "files") == contents(tmp_path / "paths")
    photos = str(memory / "coco-pfs" / fixtures.photo_folder(Path()).as_posix())
    pack(str(memory / "coco-pfs"), str(memory / "out"), photos=photos, **options)
    assert contents(memory / "out") == contents(tmp_path / "paths")


def test_a_build_in_a_store_goes_on(release, memory, tmp_path):
    pack(release, tmp_path / "paths")
    out = memory / "out"
    pack(str(memory / "coco-pfs"), str(out), photos=None, crops="none")
    before = contents(out)
    (out / "00001.tar").unlink()
    (out / ".00002.tar.abc.part").write_bytes(b"left by a killed run")
    pack(str(memory / "coco-pfs"), str(out), photos=None, crops="none")
    assert contents(out) == before


def test_memory_is_refused_for_several_processes(release, tmp_path):
    pytest.importorskip("upath")
    with pytest.raises(IdClipError, match="memory of one process"):
        pack(release, "memory://out", workers=2)


BUILD = """
import sys
sys.path[:0] = [sys.argv[3]]
import release_fixtures as fixtures
from webdataset_tools.shards import ShardOptions, build_shards
if __name__ == "__main__":
    options = ShardOptions(sys.argv[1], "train", sys.argv[2], crops="image", workers=1, samples_per_shard=2)
    build_shards(options, fixtures.fake_engine(seconds=0.05))
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    release = fixtures.write_release(tmp_path / "coco-pfs", scenes=30)
    script, out, source = tmp_path / "build.py", tmp_path / "killed", random.Random(5)
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(release), str(out), str(FIXTURES)]
    for _ in range(10):
        known = len(list(out.glob("*_stats.json")))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*_stats.json"))) <= known:
            time.sleep(0.005)
        time.sleep(source.random() * 0.25)
        process.kill()
        process.wait()
        assert not (out / "sizes.json").exists()  # killed before the end
    options = {"photos": None, "crops": "image", "samples_per_shard": 2}
    pack(release, out, **options)
    pack(release, tmp_path / "undisturbed", **options)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_an_unreadable_image_is_a_line_of_the_report(release, tmp_path, monkeypatch):
    class Denied(type(Path())):
        def read_bytes(self):
            if self.name == "000000000009.jpg_n000001.jpg":
                raise PermissionError(13, "Permission denied")
            return super().read_bytes()

    original = shard_writer._read_image
    monkeypatch.setattr(shard_writer, "_read_image", lambda path, key, check: original(Denied(path), key, check))
    result = pack(release, tmp_path / "out")
    assert [(skip.key, skip.reason) for skip in result.skipped] == [("9_n000001", shard_report.UNREADABLE_IMAGE)]
    assert "Permission denied" in result.skipped[0].detail and result.samples == 17


def test_unusual_images_and_bombs_each_end_in_their_place(release, tmp_path):
    images = fixtures.images_path(release)
    for number, (format, mode) in enumerate([("JPEG", "CMYK"), ("PNG", "I;16"), ("PNG", "RGBA")]):
        stream = io.BytesIO()
        picture = Image.open(io.BytesIO(fixtures.picture_bytes(1)))
        picture = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
        picture.save(stream, format)
        (images / f"{9 + 100 * number:012d}.jpg_n000001.jpg").write_bytes(stream.getvalue())
    frames = [Image.new("RGB", (40, 30), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(images / "000000000309.jpg_n000001.jpg", "GIF", save_all=True, append_images=frames[1:])
    bomb = bytearray(fixtures.picture_bytes(3))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = b"\xfd\xe8\xfd\xe8"  # 65,000 x 65,000
    (images / "000000000409.jpg_n000001.jpg").write_bytes(bytes(bomb))
    result = pack(release, tmp_path / "out", photos=None, crops="image")
    assert [(skip.key, skip.reason) for skip in result.skipped] == [("409_n000001", shard_report.CORRUPT_IMAGE)]
    assert "million pixels" in result.skipped[0].detail
    assert result.samples == 17


def test_names_with_quotes_slashes_and_any_script_stay_names(release, tmp_path):
    names = {"n000001": 'O\'Neil "Bob"_../../etc/passwd', "n000002": "王菲", "n000003": "Юрий_Γιώργος"}
    fixtures.write_names(release, names)
    assert pack(release, tmp_path / "out").samples == 18
    found = {sample.record.identity_id: sample.record.identity_name for sample in read_samples(tmp_path / "out")}
    assert found["n000002"] == "王菲" and found["n000003"] == "Юрий Γιώργος"
    assert "O'Neil" in found["n000001"] and "../../etc/passwd" in found["n000001"]
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            assert not [name for name in tar.getnames() if "/" in name or ".." in name]


def test_an_identity_without_photo_and_an_image_without_captions_are_listed(release, tmp_path):
    shutil.rmtree(fixtures.photo_folder(release) / "n000001")
    path = release / "coco_dataset" / "annotations" / "captions_train2017.json"
    values = json.loads(path.read_text())
    values["annotations"] = [value for value in values["annotations"] if value["image_id"] != 109]
    path.write_text(json.dumps(values))
    result = pack(release, tmp_path / "out")
    assert {skip.reason for skip in result.skipped} == {shard_report.MISSING_CAPTIONS} and len(result.skipped) == 3
    assert {skip.reason for skip in result.without_crop} == {shard_report.NO_PHOTO} and len(result.without_crop) == 5
    assert result.samples == 15


# Foreign shards


def foreign_shard(folder):
    """A tar whose members would land outside of any folder that it is unpacked in."""
    folder.mkdir(parents=True)
    links = [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../escaped.jpg"), (tarfile.FIFOTYPE, "")]
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name in (
            "../../escaped.jpg",
            "../../escaped.json",
            "/tmp/idclip-escaped.txt",
            "a/../../b.face.npy",
            "..jpg",
        ):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        for number, (kind, target) in enumerate(links):
            member = tarfile.TarInfo(f"../{number}_n1.jpg")
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return folder / "00000.tar"


@pytest.mark.host
def test_member_names_of_foreign_shards_write_nowhere(tmp_path, monkeypatch, capsys):
    shard = foreign_shard(tmp_path / "one" / "two" / "three")
    work = tmp_path / "one" / "two" / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    inspect(str(shard))
    assert "not this project's" in capsys.readouterr().out
    for read in (lambda: list(read_samples(shard)), lambda: load_evaluation_set(str(shard))):
        with pytest.raises(IdClipError):
            read()
    from open_clip_idplugin.retrieval.index.sources import find_images

    with contextlib.suppress(IdClipError):  # it holds no picture that may be read, or some: both are fine
        find_images(str(shard))
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [shard]
    assert not os.path.lexists("/tmp/idclip-escaped.txt")


@pytest.mark.slow
def test_spark_gives_the_bytes_that_processes_give(release, tmp_path):
    pytest.importorskip("pyspark")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    path = fixtures.images_path(release) / "000000000009.jpg_n000001.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    pack(release, tmp_path / "processes")
    try:
        result = pack(release, tmp_path / "spark", workers=2, distributor="pyspark")
    finally:
        stop_spark()
    assert result.samples == 17 and [skip.reason for skip in result.skipped] == [shard_report.CORRUPT_IMAGE]
    assert contents(tmp_path / "spark") == contents(tmp_path / "processes")
