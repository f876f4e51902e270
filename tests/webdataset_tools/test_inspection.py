"""`idclip inspect`: counts, marks and samples of a shard; foreign shards described, never unpacked."""

import io
import tarfile

import pytest
import release_fixtures as fixtures

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import location
from webdataset_tools.inspection import describe, inspect, read_contents
from webdataset_tools.marking import COMPOSITE_SYNTHETIC, mark_jpeg
from webdataset_tools.shards import ShardOptions, build_shards


@pytest.fixture
def shard(tmp_path):
    release = fixtures.write_release(tmp_path / "release", scenes=4)
    build_shards(ShardOptions(release, "train", tmp_path / "shards", crops="none", workers=1))
    return tmp_path / "shards" / "00000.tar"


def write_tar(path, entries):
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            name, content = entry if isinstance(entry, tuple) else (entry, b"")
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_shard_of_ours_is_counted(shard):
    contents = read_contents(shard)
    assert (contents.samples, len(contents.identities), len(contents.images)) == (12, 3, 4)
    assert {name: member.count for name, member in contents.members.items()} == dict.fromkeys(
        ["jpg", "txt", "json", "face.npy"], 12
    )
    assert contents.synthetic == 12 and not contents.foreign_keys
    assert len(contents.first) == 3


def test_the_printed_text_holds_what_matters_and_no_embedding(shard, capsys):
    inspect(str(shard), samples=1)
    text = capsys.readouterr().out
    for words in ("12 samples", "people: 3", "scenes: 4", "train 12", "marked as synthetic: all", "JPEG 96x64"):
        assert words in text
    assert "512 floats, length 1.000" in text and "Person Number" in text and "words 4" in text
    assert f"{fixtures.face_embedding(0)[0]:.3f}" not in text
    assert text.count("512 floats") == 1


def test_the_mark_inside_the_images_is_read(shard, tmp_path):
    with tarfile.open(shard) as tar:
        entries = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    first = next(index for index, (name, _) in enumerate(entries) if name.endswith(".jpg"))
    name, content = entries[first]
    entries[first] = (name, mark_jpeg(content, COMPOSITE_SYNTHETIC))
    lines = "\n".join(describe(read_contents(write_tar(tmp_path / "marked.tar", entries))))
    assert "mark in the images: none 11, compositeSynthetic 1" in lines


def test_shards_at_urls(shard, capsys):
    inspect(f"file://{shard}")
    location("memory://inspected/00000.tar").write_bytes(shard.read_bytes())
    inspect("memory://inspected/{00000..00000}.tar")
    assert capsys.readouterr().out.count("12 samples") == 2
    with pytest.raises(IdClipError, match=r"memory://inspected/00001\.tar is not a whole tar file"):
        inspect("memory://inspected/00001.tar")


def test_several_shards_and_a_missing_one(shard, capsys):
    inspect(str(shard.parent))
    assert str(shard) in capsys.readouterr().out
    with pytest.raises(IdClipError, match="there is no shard"):
        inspect("nowhere.tar")


def test_samples_without_the_synthetic_mark_are_told(shard, tmp_path):
    with tarfile.open(shard) as tar:
        entries = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    unmarked = [(name, content.replace(b'"synthetic": true', b'"synthetic": false')) for name, content in entries]
    text = "\n".join(describe(read_contents(write_tar(tmp_path / "unmarked.tar", unmarked))))
    assert "marked as synthetic: 0 of 12" in text and "NOT marked" in text


def test_foreign_shards_are_described_and_never_unpacked(tmp_path):
    link = tarfile.TarInfo("1_n1.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    entries = [
        ("../../out.jpg", b"x"),
        ("/abs/1_n1.txt", b"y"),
        (link, b""),
        ("nodot", b"z"),
        ("bad\x1b[31m.jpg", b"q"),
    ]
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    contents = read_contents(write_tar(folder / "foreign.tar", entries))
    assert contents.samples == 3 and len(contents.foreign_keys) == 3
    text = "\n".join(describe(contents))
    assert "not this project's" in text and "\x1b" not in text
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["foreign.tar"]


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_cut_off_shard_is_named(shard, keep):
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(IdClipError, match="not a whole tar file"):
        read_contents(shard)
