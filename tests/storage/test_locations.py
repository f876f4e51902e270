"""Places by path and URL, and writing to them whole or not at all."""

import pickle
import stat
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.locations import Entry, location

ODD = "ü 'n' #1? 100%.txt"


@pytest.fixture(params=["path", "file", "memory"])
def root(request, tmp_path):
    """The same folder by path, by file:// and one in memory."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
        return location(f"memory://bucket{tmp_path}")
    return location(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")


def test_places_of_this_machine_are_plain_paths(tmp_path):
    for text in (
        "a/b",
        "C:/x",
        "name: with::colons",
        str(tmp_path),
        f"file://{tmp_path}",
        f"file://localhost{tmp_path}",
    ):
        assert type(location(text)) is type(Path())
    assert location(f"file://{tmp_path}/{ODD}") == location(f"file://localhost{tmp_path}/{ODD}") == tmp_path / ODD
    assert location(tmp_path) is tmp_path and locations.is_local(tmp_path)
    place = location("memory://x/y")
    assert location(place) is place and str(place) == "memory://x/y" and not locations.is_local(place)
    assert locations.is_private_to_process(place) and not locations.is_private_to_process(tmp_path)
    assert pickle.loads(pickle.dumps(place)) == place


@pytest.mark.parametrize(
    "text, message", [("nope://x", "nope://x cannot be used.*knows"), ("idcliptest://x", "Install idcliptestfs")]
)
def test_unknown_protocols_and_missing_packages_are_one_sentence(text, message, monkeypatch):
    entry = {"class": "no_such_package.FileSystem", "err": "Install idcliptestfs to use this"}
    monkeypatch.setitem(known_implementations, "idcliptest", entry)
    with pytest.raises(IdClipError, match=message) as caught:
        location(text)
    assert "\n" not in str(caught.value)


def test_a_store_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def unreachable(self, path, **kwargs):
        raise RuntimeError("no credentials\nmore")

    place = location("memory://bucket/x")
    for method in ("isdir", "isfile", "ls"):
        monkeypatch.setattr(type(place.fs), method, unreachable)
    for ask in (locations.is_folder, locations.is_file, locations.list_folder):
        with pytest.raises(IdClipError, match=r"cannot reach memory://bucket/x \(no credentials\)"):
            ask(place)


def test_folders_are_listed_and_removed(root):
    assert locations.list_folder(root / "none") == []
    locations.remove_folder(root / "none")
    for name in ("b", ODD):
        atomic_write(root / "folder" / name, name)
    atomic_write(root / "folder" / "deep" / "x", b"1")
    assert locations.list_folder(root / "folder") == [Entry("b", False), Entry("deep", True), Entry(ODD, False)]
    assert locations.is_folder(root / "folder") and not locations.is_folder(root / "folder" / "b")
    assert locations.is_file(root / "folder" / ODD) and not locations.is_file(root / "folder")
    assert locations.list_folder(root / "folder" / "b") == []
    locations.remove_folder(root / "folder")
    assert not (root / "folder").exists() and not locations.is_folder(root / "folder")


def test_files_are_written_whole_or_not_at_all(root):
    target = root / "new" / "folder" / ODD
    atomic_write(target, "ä")
    assert target.read_bytes() == "ä".encode()
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        _ = 1 / 0
    assert target.read_bytes() == "ä".encode()
    with atomic_path(str(target), PRIVATE) as temporary:
        assert isinstance(temporary, Path) and stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_bytes(b"new")
        assert target.read_bytes() == "ä".encode()
    assert target.read_bytes() == b"new" and not temporary.exists()
    if isinstance(target, Path):
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [entry.name for entry in locations.list_folder(target.parent)] == [ODD]


@pytest.mark.parametrize("call", ["put_file", "cp_file"])
def test_an_upload_that_fails_leaves_nothing(call, monkeypatch):
    target = location("memory://uploads/x")
    atomic_write(target, b"before")

    def failing(self, *args, **kwargs):
        self.pipe_file(args[1], b"ha")
        raise RuntimeError("lost connection")

    monkeypatch.setattr(type(target.fs), call, failing)
    with pytest.raises(OSError, match="cannot upload to memory://uploads/x: lost connection"):
        atomic_write(target, b"after")
    left = [entry.name for entry in locations.list_folder(target.parent)]
    assert left == ["x"] and (call == "cp_file" or target.read_bytes() == b"before")
