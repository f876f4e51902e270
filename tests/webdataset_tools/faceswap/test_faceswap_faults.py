"""What can go wrong with a swap run from outside: kills, full disks, files and names as they come from elsewhere."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import faceswap_fixtures as fixtures
import numpy as np
import pyarrow.parquet
import pytest
from places import FIXTURES

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap import reasons
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.swap_folder import WORK_FOLDER
from webdataset_tools.faceswap.swap_release import build_release
from webdataset_tools.faceswap.swap_report import SwapReport
from webdataset_tools.release import load_release

LENIENT = fixtures.LENIENT
KILLS = 10


def swap(world, output, load=None, **options) -> SwapReport:
    return build_release(
        SwapOptions(world.coco, world.people, output, **{**LENIENT, **options}), load or world.engine()
    )


def run_script(world: Path, output: Path, workers: int) -> list[str]:
    """The command of a run in a process of its own; it prints the sentence of an IdClipError."""
    script = (
        "import sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "import faceswap_fixtures as f, test_faceswap_faults as t; from pathlib import Path\n"
        "try: t.swap(f.World(Path(sys.argv[2])), Path(sys.argv[3]), workers=int(sys.argv[4]))\n"
        "except t.IdClipError as error: sys.exit(str(error))"
    )
    return [sys.executable, "-c", script, f"{FIXTURES}:{Path(__file__).parent}", str(world), str(output), str(workers)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told(entries: list[Skip]) -> dict[str, str]:
    return {skip.key: skip.reason for skip in entries}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fixtures.write_world(tmp_path_factory.mktemp("world"), train=6, val=6, people=20)


@pytest.fixture(scope="module")
def release(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("releases") / "swapped"
    swap(world, output)
    return output


# Kills


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(world, release, tmp_path):
    target, seed = tmp_path / "swapped", time.time_ns()
    print("seed of the moments:", seed)  # shown when the test fails
    rng = random.Random(seed)
    moments = sorted(rng.uniform(0, 1.1 * len(files_of(release))) for _ in range(KILLS))
    for number, files in enumerate(moments):
        process = subprocess.Popen(
            run_script(world.root, target, 1 + number % 2), stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and sum(1 for _ in target.rglob("*")) < files and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(run_script(world.root, target, 2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_of(target) == files_of(release)


# Full disks


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_file_system_ends_in_a_sentence_and_the_run_goes_on(world, release, tmp_path, workers):
    """A real one: a tmpfs of 400 kB in a mount namespace of its own, which is then made larger."""
    small, copy = tmp_path / "small", tmp_path / "copy"
    small.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=400k tmpfs {small}"
    if subprocess.run([*namespace, mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    script = f'{mount} && ! "$@" && mount -o remount,size=64m {small} && "$@" && cp -r {small}/swapped {copy}'
    command = run_script(world.root, small / "swapped", workers)
    done = subprocess.run([*namespace, script, "sh", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "No space left on device); " in done.stderr and "run the same" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(copy) == files_of(release)


def test_a_full_disk_at_any_of_the_last_files_is_one_sentence(world, release, tmp_path, monkeypatch):
    sync, target = os.fsync, tmp_path / "swapped"
    names = {path.name for path in release.rglob("*") if path.is_file() and "jpg_" not in path.name}
    for name in ["swap_build.json", *sorted(names - {"swap_build.json"})]:  # the first one is written once

        def failing(handle, name=name):
            if f".{name}." in os.readlink(f"/proc/self/fd/{handle}"):  # noqa: PTH115
                raise OSError(28, "No space left on device")
            sync(handle)

        monkeypatch.setattr("os.fsync", failing)
        with pytest.raises(IdClipError, match=r"No space left on device\); .* run the same command again") as caught:
            swap(world, target)
        assert "\n" not in str(caught.value)
        assert not (target / "report.json").exists()
    monkeypatch.setattr("os.fsync", sync)
    swap(world, target)
    assert files_of(target) == files_of(release)


# Files and names


def test_photos_of_every_kind_are_used_or_listed(tmp_path):
    world = fixtures.write_world(tmp_path / "world", train=8, val=0, people=12, photos=3)
    usable = ["cmyk", "grey16", "rgba", "animated", "turned"]
    expected = {}
    for person, kind in zip(sorted(world.people.iterdir()), [*usable, "truncated", "bomb", "empty"]):
        photo = sorted(person.iterdir())[0]
        known = world.landmarks[fixtures.digest(fixtures.load_picture(photo))]
        content = fixtures.damaged(kind, photo.read_bytes())
        photo.write_bytes(content)
        if kind in usable:
            world.landmarks[fixtures.digest(fixtures.load_picture(content))] = known
        else:
            expected[f"{person.name}/{photo.name}"] = reasons.REJECTED_PICTURE
    odd = sorted(world.people.iterdir())[8]
    names = ["Ёлка 'n' „Zöe\".jpg", "山田\n太郎.JPG", "100% [a]*?#.jpg"]
    for photo, name in zip(sorted(odd.iterdir()), names):
        photo.rename(odd / name)
    os.rename(os.fsencode(odd / names[2]), os.fsencode(odd) + b"/\xff\xfe.jpg")  # noqa: PTH104
    (world.people / "山田").mkdir()
    os.mkdir(os.fsencode(world.people) + b"/\xff")  # noqa: PTH102
    (world.root / "landmarks.json").write_text(json.dumps(world.landmarks))

    report = swap(world, tmp_path / "out", shares="1,0,0", people_per_image=12, contexts=1)
    assert told(report.photos_left_out) == expected
    assert told(report.identities_left_out) == dict.fromkeys(["山田", "?"], reasons.BAD_IDENTITY_ID)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert {row["photo"] for row in rows if row["identity_id"] == odd.name and row["kept"]} <= set(names[:2])
    assert {row["identity_id"] for row in rows} == {path.name for path in world.people.iterdir() if path.name[0] == "n"}
    assert len("\n".join(report.lines()).encode().splitlines()) < 20


def test_broken_entries_of_coco_are_listed_and_lose_nothing_else(tmp_path):
    world = fixtures.write_world(tmp_path / "world", train=6, val=0, people=12)
    clean = {sample.key for sample in load_release(made(world, tmp_path / "clean"), "train", 64).samples}
    folder = world.coco / "train2017"
    content = fixtures.read_json(world, "instances", "train2017")
    (folder / "000000000001.jpg").rename(folder / "Ёлка \"n\" '山'.jpg")
    content["images"][0]["file_name"] = "Ёлка \"n\" '山'.jpg"
    content["images"][1]["file_name"] = "\udcff.jpg"
    content["images"] += [
        None,
        {"id": 1e400, "file_name": "x"},
        {"id": 70, "file_name": "a/b.jpg"},
        {"id": [], "file_name": 1},
    ]
    content["images"].append({"id": 3, "file_name": "again.jpg"})
    content["annotations"] += [None, {"image_id": [], "category_id": 1}, {"id": {}, "image_id": "x", "category_id": {}}]
    content["categories"].append(None)
    fixtures.write_json(world, "instances", "train2017", content)
    captions = fixtures.read_json(world, "captions", "train2017")
    captions["images"].append(None)
    captions["annotations"] = [entry for entry in captions["annotations"] if entry["image_id"] != 4]
    captions["annotations"] += [None, {"image_id": None}, {"image_id": 4, "caption": " "}]
    captions["annotations"][0]["caption"] += " \ud83d\n"
    fixtures.write_json(world, "captions", "train2017", captions)

    output = made(world, tmp_path / "out")
    report = SwapReport.from_json(json.loads((output / "report.json").read_text(encoding="utf-8")))
    left_out = [(skip.reason, skip.key) for skip in report.images_left_out]
    assert sorted(left_out) == sorted(
        [
            (reasons.BAD_CHARACTERS, "train2017/?.jpg"),
            (reasons.BAD_ENTRY, "train2017/None"),
            (reasons.BAD_ENTRY, "train2017/{'id': inf, 'file_name': 'x'}"),
            (reasons.BAD_ENTRY, "train2017/{'id': [], 'file_name': 1}"),
            (reasons.BAD_FILE_NAME, "train2017/a/b.jpg"),
            (reasons.DUPLICATE_ID, "train2017/again.jpg"),
            (reasons.MISSING_CAPTIONS, "train2017/000000000004.jpg"),
        ]
    )
    samples = load_release(output, "train", 64).samples
    images = {sample.image_id for sample in samples} | {int(skip.key.split("_")[0]) for skip in report.swaps_dropped}
    assert images == {1, 3, 5, 6} and len(clean) > len(samples) > 0
    first = next((sample for sample in samples if sample.image_id == 1), None)
    assert first is None or first.captions[0].endswith("seen 0. ?")


def made(world, output) -> Path:
    swap(world, output, shares="1,0,0")
    return output


def test_a_folder_that_cannot_be_read_loses_one_person(world, tmp_path, monkeypatch):
    closed, scan = str(world.people / "n200003"), os.scandir

    def refusing(path):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scan(path)

    monkeypatch.setattr("os.scandir", refusing)
    report = swap(world, tmp_path / "out", shares="1,0,0")
    assert [(skip.key, skip.reason, skip.detail) for skip in report.identities_left_out] == [
        ("n200003", reasons.UNREADABLE_FOLDER, "Permission denied")
    ]
    monkeypatch.setattr("os.scandir", lambda path: refusing(closed))
    with pytest.raises(IdClipError, match=r"cannot read or write .*Permission denied"):
        swap(world, tmp_path / "out")


class FailingEngine(fixtures.DrawnFaceEngine):
    """Gives no finite embedding for one picture, as a damaged recogniser may."""

    def detect(self, picture: np.ndarray):
        if fixtures.digest(picture) == sorted(self.known)[0]:
            raise IdClipError("the recogniser gave numbers that are not finite")
        return super().detect(picture)


def test_a_picture_on_which_the_engine_fails_is_listed(world, tmp_path):
    from functools import partial

    load = partial(FailingEngine, str(world.root / "landmarks.json"))
    report = swap(world, tmp_path / "out", load, shares="50,25,25")
    lines = [*report.images_left_out, *report.photos_left_out]
    assert [(skip.reason, skip.detail) for skip in lines] == [
        (reasons.ENGINE_FAILED, "the recogniser gave numbers that are not finite")
    ]
    assert sum(totals.swaps for totals in report.splits.values()) > 0
    assert not (tmp_path / "out" / WORK_FOLDER).exists()
