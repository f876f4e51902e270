"""The one claim of an output folder, for every verb that goes on where it was killed, and the hidden folder of the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import location
from open_clip_idplugin.storage.output_folder import (
    CONTENT,
    PLAN_FILE,
    building_folder,
    claimed_folder,
    discard_building,
    locked,
    put_in_place,
    remove_leftovers,
)
from webdataset_tools.collection_faces.build import FACES
from webdataset_tools.faceswap.swap_folder import RELEASE
from webdataset_tools.miniature.picture_folder import MINIATURE
from webdataset_tools.shard_folder import SHARDS

PARAMETERS = {"seed": 0, "size": {"people": 3, "splits": ("train", "val")}, CONTENT: "ab12"}
ALL_KINDS = pytest.mark.parametrize("kind", [FACES, RELEASE, MINIATURE, SHARDS], ids=lambda kind: kind.holds)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_run(folder, kind) -> None:
    """What a run leaves that was killed while it wrote its second file."""
    with pytest.raises(KeyboardInterrupt), claimed_folder(folder, PARAMETERS, kind):
        (folder / "one.tar").write_bytes(b"whole")
        (folder / ".two.tar.x1.part").write_bytes(b"half")
        raise KeyboardInterrupt


@ALL_KINDS
class TestClaim:
    def test_a_killed_run_goes_on(self, kind, tmp_path):
        killed_run(tmp_path / "out", kind)
        with claimed_folder(tmp_path / "out", PARAMETERS, kind):
            assert sorted(contents(tmp_path / "out")) == sorted([kind.note, "one.tar"])

    def test_killed_before_anything_is_noted(self, kind, tmp_path):
        (tmp_path / f".{kind.note}.x1.part").write_bytes(b"{")
        with claimed_folder(tmp_path, PARAMETERS, kind):
            assert list(contents(tmp_path)) == [kind.note]

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"seed": 1}, r"\(seed was 0, is 1\)"),
            ({"size": {"people": 4, "splits": ["train", "val"]}}, r"\(size.people was 3, is 4\)"),
            ({"crops": "none"}, r"\(crops was None, is none\)"),
            ({CONTENT: "cd34"}, "has changed|have changed"),
            ({CONTENT: "cd34", "seed": 1}, r"\(seed was 0, is 1\)"),
        ],
    )
    def test_other_parameters_are_refused(self, kind, tmp_path, other, said):
        killed_run(tmp_path / "out", kind)
        before = contents(tmp_path / "out")
        with pytest.raises(IdClipError, match=said) as refusal:
            claimed_folder(tmp_path / "out", {**PARAMETERS, **other}, kind).__enter__()
        assert kind.holds in str(refusal.value) and "choose another --output" in str(refusal.value)
        assert contents(tmp_path / "out") == before

    def test_a_folder_of_something_else_is_left_alone(self, kind, tmp_path):
        (tmp_path / "mine.tar").write_bytes(b"mine")
        with pytest.raises(IdClipError, match=f"holds (tars|files) but no {kind.note}; choose an empty folder"):
            claimed_folder(tmp_path, PARAMETERS, kind).__enter__()
        assert contents(tmp_path) == {"mine.tar": b"mine"}

    def test_a_damaged_note_is_refused(self, kind, tmp_path):
        for damaged in ("", "[]"):
            (tmp_path / kind.note).write_text(damaged)
            with pytest.raises(IdClipError, match="is damaged"):
                claimed_folder(tmp_path, PARAMETERS, kind).__enter__()

    def test_two_runs_at_once(self, kind, tmp_path):
        with claimed_folder(tmp_path, PARAMETERS, kind), pytest.raises(IdClipError, match="another process is writing"):
            claimed_folder(tmp_path, PARAMETERS, kind).__enter__()
        with claimed_folder(tmp_path, PARAMETERS, kind):
            pass

    def test_a_store(self, kind, memory_store):
        for _ in range(2):
            with claimed_folder(memory_store, PARAMETERS, kind):
                pass
        with pytest.raises(IdClipError, match="seed was 0"):
            claimed_folder(memory_store, {**PARAMETERS, "seed": 1}, kind).__enter__()


@pytest.fixture
def memory_store(tmp_path):
    place = location(f"memory://claims{tmp_path}")
    yield place
    place.fs.rm(place.path, recursive=True)


def test_shards_lie_beside_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with claimed_folder(tmp_path, PARAMETERS, SHARDS):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_leftovers_alone_go(tmp_path):
    for name in (".a.jpg.x1.part", "a.part", ".hidden", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".folder.part").mkdir()
    remove_leftovers(tmp_path, tmp_path / "not there")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".folder.part", ".hidden", "a.jpg", "a.part"]


class TestHiddenFolder:
    """An index and a model folder are made beside their place, and a killed run goes on there."""

    def fail(self, output, plan="one", **options):
        with pytest.raises(RuntimeError), building_folder(output, plan, **options) as building:
            (building / "done").write_text("")
            raise RuntimeError

    def test_a_failed_run_goes_on_where_that_is_of_use(self, tmp_path):
        output = tmp_path / "index"
        self.fail(output)
        assert not list(tmp_path.iterdir())
        self.fail(output, keep=lambda error, _: isinstance(error, RuntimeError))
        with building_folder(output, "one") as building:
            assert (building / "done").exists()
            put_in_place(building, output)
        assert [path.name for path in tmp_path.rglob("*")] == ["index", "done"]

    def test_another_plan_begins_anew(self, tmp_path):
        self.fail(tmp_path / "index", keep=lambda *_: True)
        with building_folder(tmp_path / "index", "two") as building:
            assert [path.name for path in building.iterdir()] == [PLAN_FILE]
        discard_building(tmp_path / "index")
        assert not list(tmp_path.iterdir())

    def test_two_runs_at_once(self, tmp_path):
        with building_folder(tmp_path / "index"), pytest.raises(IdClipError, match="another run is building"):
            building_folder(tmp_path / "index").__enter__()

    @pytest.mark.parametrize("empty", [True, False])
    def test_what_has_come_there_meanwhile_stays(self, tmp_path, empty):
        output = tmp_path / "model"
        output.mkdir()
        with building_folder(output) as building:
            if empty:
                put_in_place(building, output)
            else:
                (output / "mine").write_text("mine")
                with pytest.raises(IdClipError, match="is there already"):
                    put_in_place(building, output)
        assert [path.name for path in output.iterdir()] == ([] if empty else ["mine"])


def test_a_folder_has_one_writer(tmp_path):
    script = (
        "import sys; from pathlib import Path; from open_clip_idplugin.storage.output_folder import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "a" / "b"
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(IdClipError, match="another process is writing"), locked(folder):
            pass
        other.kill()
    with locked(folder), locked(location("memory://locked/x")):
        assert os.listdir(folder) == []  # noqa: PTH208
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IdClipError, match=r"cannot make the folder .*file/x"), locked(tmp_path / "file" / "x"):
        pass


def test_a_folder_that_is_replaced_while_it_is_locked(tmp_path, monkeypatch):
    def replaced(handle):
        (tmp_path / "index").rename(tmp_path / "old")
        (tmp_path / "index").mkdir()
        return True

    monkeypatch.setattr("open_clip_idplugin.storage.output_folder._try_lock", replaced)
    with pytest.raises(IdClipError, match="was replaced at this moment"), locked(tmp_path / "index"):
        pass
