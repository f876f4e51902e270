"""`idclip swap` from COCO to a release: layout, equal bytes, going on after a kill, faults, marks, captions, manifest."""

import errno
import hashlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import faceswap_fixtures as fixtures
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from places import FIXTURES

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_write
from webdataset_tools import marking
from webdataset_tools.faceswap import reasons
from webdataset_tools.faceswap.command import swap as verb
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.swap_folder import WORK_FOLDER
from webdataset_tools.faceswap.swap_release import build_release
from webdataset_tools.release import SPLITS, load_release
from webdataset_tools.sample_format import read_samples
from webdataset_tools.shards import ShardOptions, build_shards

LENIENT = fixtures.LENIENT


def swap(world, output, load=None, **options):
    chosen = SwapOptions(world.coco, world.people, output, **{**LENIENT, **options})
    return build_release(chosen, load or world.engine())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(output: Path) -> list[dict]:
    return pyarrow.parquet.read_table(output / "manifest.parquet").to_pylist()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fixtures.write_world(tmp_path_factory.mktemp("world"), train=8, val=8, people=24)


@pytest.fixture(scope="module")
def release(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("releases") / "swapped"
    return output, swap(world, output)


# The release


def test_release_is_read_with_disjoint_people_and_images(world, release):
    output, report = release
    splits = {name: load_release(output, name, 64) for name in SPLITS}
    people, images = [], []
    for name, split in splits.items():
        assert not split.skipped and len(split.samples) == report.splits[name].swaps > 0
        people.append({sample.identity_id for sample in split.samples})
        images.append({sample.image_id for sample in split.samples})
        for sample in split.samples:
            assert len(sample.captions) == 5
            words = {"f": "woman", "m": "man"}[world.genders[sample.identity_id]]
            assert f"A {words} stands" in sample.captions[0]  # genders match
            assert sample.attributes["swapper"] == "blend" and sample.attributes["face_height"] > 20
    for sets in (people, images):
        assert sum(map(len, sets)) == len(set().union(*sets))
    assert max(images[0]) < 1000 < min(images[1] | images[2])  # train2017, val2017
    names = {sample.identity_name for split in splits.values() for sample in split.samples}
    assert names & set(fixtures.SPECIAL_NAMES)


def test_enrolled_photo_is_not_the_one_swapped_in(world, release):
    output, _ = release
    kept = [row for row in rows_of(output) if row["kept"]]
    engine = world.engine()()
    assert kept
    features = {}
    for files in SPLITS.values():
        path = output / "coco_dataset" / files.features
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        features.update(json.loads(path.read_text()))
    for row in kept:
        assert row["face_photo"] != row["photo"]
        photo = fixtures.load_picture(world.people / row["identity_id"] / row["face_photo"])
        (vector,) = features[f"{row['image_id']}_{row['identity_id']}"]
        np.testing.assert_array_equal(np.float32(vector), engine.detect(photo)[0].embedding)


def test_what_says_who_is_shown_is_readable_by_its_owner_alone(release):
    output, _ = release
    modes = {
        path.relative_to(output): stat.S_IMODE(path.stat().st_mode) for path in output.rglob("*") if path.is_file()
    }
    public = {path for path, mode in modes.items() if mode != 0o600}
    captions = {f"coco_dataset/{files.captions}" for files in SPLITS.values()}  # COCO's own
    others = {str(path) for path in public if path.suffix != ".jpg"} - captions
    assert others <= {"swap_build.json", "face_model.json"}, others
    assert {"report.json", "manifest.parquet", "contact_sheet.jpg"} <= {path.name for path in set(modes) - public}


def test_manifest_tells_every_decision(world, release):
    output, report = release
    rows = rows_of(output)
    for name in SPLITS:
        mine = [row for row in rows if row["split"] == name and row["identity_id"]]
        assert sum(row["kept"] for row in mine) == report.splits[name].swaps
        assert sum(not row["kept"] for row in mine) == report.splits[name].dropped
    row = next(row for row in rows if row["kept"])
    assert (row["swapper"], row["face_model"], row["seed"]) == ("blend", "drawn-1", 0)
    assert row["digital_source_type"] == "compositeSynthetic" and row["tries"] == 1
    assert -1 <= row["similarity_original"] <= 1 and row["similarity_identity"] > row["similarity_original"] - 0.6
    assert len(row["face_box"]) == 4 and len(row["landmarks"]) == 10 and json.loads(row["matched"])["gender"]


def test_every_picture_is_marked_and_stays_so_in_the_shards(release, tmp_path):
    output, _ = release
    pictures = [*(output / "coco_dataset").glob("*/*.jpg"), output / "contact_sheet.jpg"]
    assert pictures[-1].stat().st_mode & 0o777 == 0o600  # it shows whose photos were taken
    for path in pictures:
        assert marking.read_digital_source_type(path.read_bytes()) == marking.COMPOSITE_SYNTHETIC
    assert "exif" not in Image.open(pictures[0]).info
    build_shards(ShardOptions(output, "train", tmp_path / "shards", crops="none", workers=1))
    samples = list(read_samples(tmp_path / "shards"))
    for sample in samples:
        assert sample.face.shape == (64,) and sample.record.face_model == "drawn-1"
        assert b"compositeSynthetic" in Image.open(io.BytesIO(sample.image_bytes)).info["xmp"]
        assert sample.record.synthetic
    assert samples


def test_modified_captions_are_written_out(release):
    output, report = release
    lines = [json.loads(line) for line in (output / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 5 * sum(totals.swaps for totals in report.splits.values())
    for line in lines:
        if line["split"] == "train":
            assert line["token"]["fixed"] == f"An image with [TOK]. {line['caption']}"
            assert line["name"] == f"An image with {line['identity_name']}. {line['caption']}"
            assert all("[TOK]" in text for text in line["token"].values())
        else:
            assert len(line["token"]) == len(line["name"]) == 11
            assert all("[TOK]" in text for text in line["token"])
            assert all(line["identity_name"] in text for text in line["name"])
    captions = json.loads((output / "coco_dataset/annotations/captions_val2017.json").read_text())
    kept = {int(line["key"].split("_")[0]) for line in lines if line["split"] != "train"}
    assert {image["id"] for image in captions["images"]} == kept


# Equal bytes


def test_processes_and_interruptions_change_nothing(world, release, tmp_path):
    output, _ = release
    script = (
        "import sys; sys.path[:0] = sys.argv[1].split(':'); import faceswap_fixtures as f, test_faceswap_release as t; "
        "from pathlib import Path; "
        "t.swap(f.World(Path(sys.argv[2])), Path(sys.argv[3]), workers=int(sys.argv[4]))"
    )
    target = tmp_path / "swapped"

    def start(workers: int) -> subprocess.Popen:
        arguments = [f"{FIXTURES}:{Path(__file__).parent}", str(world.root), str(target), str(workers)]
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    process = start(1)
    deadline = time.monotonic() + 90
    while not list(target.glob("coco_dataset/coco_train_swapped/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (target / WORK_FOLDER).is_dir() and not (target / "report.json").exists()
    (target / WORK_FOLDER / "people" / "000001.json").write_text("")  # as a power cut may leave it
    assert start(2).wait() == 0
    assert files_of(target) == files_of(output)


def test_a_finished_release_is_reported_and_another_one_refused(world, release):
    output, report = release
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert swap(world, output).to_json() == report.to_json()
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    with pytest.raises(IdClipError, match="seed was 0, is 1"):
        swap(world, output, seed=1)
    (world.people / "n200000" / "9.jpg").write_bytes(b"")
    try:
        with pytest.raises(IdClipError, match=r"the identities.*have changed"):
            swap(world, output)
    finally:
        (world.people / "n200000" / "9.jpg").unlink()
    with pytest.raises(IdClipError, match="is not empty"):
        swap(world, world.root)


def test_the_verb_prints_what_it_wrote_and_the_next_step(world, release, capsys):
    output, _ = release
    verb(str(world.coco), str(world.people), str(output), **LENIENT)
    told = capsys.readouterr().out
    assert re.search(r"train: \d+ swapped images of \d+ people", told)
    assert "contact_sheet.jpg" in told and f"next: idclip shards --release {output} --split train" in told


def test_a_full_disk_is_one_sentence_and_the_run_goes_on(world, release, tmp_path, monkeypatch):
    output, _ = release
    written = []

    def failing(path, content, mode=0o644):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        atomic_write(path, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr("webdataset_tools.faceswap.swapping.atomic_write", failing)
        with pytest.raises(IdClipError, match=r"cannot write .*No space left.*run the same command again"):
            swap(world, tmp_path / "swapped")
    swap(world, tmp_path / "swapped")
    assert files_of(tmp_path / "swapped") == files_of(output)


def test_another_seed_swaps_other_people(world, release, tmp_path):
    output, _ = release
    swap(world, tmp_path / "other", seed=7, shares="100,0,0", train_images=3)
    keys = {sample.key for sample in load_release(tmp_path / "other", "train", 64).samples}
    assert keys - {sample.key for sample in load_release(output, "train", 64).samples}
    assert len({key.split("_")[0] for key in keys}) <= 3
    assert not (tmp_path / "other/coco_dataset/annotations/captions_val2017.json").exists()


# Verification


def test_swaps_that_are_not_recognised_are_dropped_and_listed(world, tmp_path):
    report = swap(world, tmp_path / "out", swapper="faceswap_fixtures:create_mute", shares="1,0,0", margin=0.0, tries=2)
    assert report.splits["train"].swaps == 0
    assert {skip.reason for skip in report.swaps_dropped} == {reasons.NOT_RECOGNISED}
    assert "cosine" in report.swaps_dropped[0].detail
    assert {row["tries"] for row in rows_of(tmp_path / "out")} == {2}
    assert not list((tmp_path / "out").glob("coco_dataset/coco_train_swapped/*.jpg"))
    assert json.loads((tmp_path / "out/coco_dataset/features_train_small_faceswap.json").read_text()) == {}


def test_another_photo_is_tried(world, tmp_path):
    report = swap(world, tmp_path / "out", swapper="faceswap_fixtures:create_picky", shares="1,0,0")
    rows = [row for row in rows_of(tmp_path / "out") if row["kept"]]
    assert report.splits["train"].swaps == len(rows) and {row["tries"] for row in rows} & {2, 3}


# Faults


def test_faults_end_in_the_report_and_lose_nothing_else(tmp_path):
    world = fixtures.write_world(tmp_path / "world", train=12, val=0, people=12)
    folder = world.coco / "train2017"
    kinds = ["truncated", "bomb", "cmyk", "grey16", "rgba", "animated", "turned", "empty"]
    for number, kind in enumerate(kinds, 1):
        path = folder / f"{number:012d}.jpg"
        known = world.landmarks[fixtures.digest(fixtures.load_picture(path))]
        content = fixtures.damaged(kind, path.read_bytes())
        path.write_bytes(content)
        if kind not in ("truncated", "bomb", "empty"):  # these must be usable
            world.landmarks[fixtures.digest(fixtures.load_picture(content))] = known
    (folder / "000000000009.jpg").unlink()
    (folder / "000000000009.jpg").mkdir()  # unreadable, also for root
    scene = world.landmarks[fixtures.digest(fixtures.load_picture(folder / "000000000010.jpg"))]
    scene *= 3  # several faces
    lonely, crowded, blank = "n200000", "n200001", "n200002"
    for photo in sorted((world.people / lonely).iterdir())[1:]:
        photo.unlink()
    for photo in sorted((world.people / crowded).iterdir())[:2]:
        world.landmarks[fixtures.digest(fixtures.load_picture(photo))] *= 3
    for number, photo in enumerate(sorted((world.people / blank).iterdir())):
        photo.write_bytes(fixtures.jpeg(np.full((64, 64, 3), 90 + number, np.uint8)))
    (world.people / crowded / '0000 „ü".jpg').write_bytes(b"no picture")
    (world.root / "landmarks.json").write_text(json.dumps(world.landmarks))

    report = swap(world, tmp_path / "out", shares="1,0,0", people_per_image=12, contexts=1)
    left_out = {skip.key: skip.reason for skip in report.images_left_out}
    assert left_out == {
        "train2017/000000000001.jpg": reasons.REJECTED_PICTURE,
        "train2017/000000000002.jpg": reasons.REJECTED_PICTURE,
        "train2017/000000000008.jpg": reasons.REJECTED_PICTURE,
        "train2017/000000000009.jpg": reasons.UNREADABLE_IMAGE,
        "train2017/000000000010.jpg": reasons.SEVERAL_FACES,
    }
    samples = load_release(tmp_path / "out", "train", 64).samples
    assert {sample.image_id for sample in samples} | {int(s.key.split("_")[0]) for s in report.swaps_dropped} == {
        3, 4, 5, 6, 7, 11, 12,
    }  # fmt: skip
    assert {skip.key: skip.reason for skip in report.identities_left_out} == {blank: reasons.NO_USABLE_PHOTO}
    photos = [skip.reason for skip in report.photos_left_out]
    assert sorted(photos) == sorted([reasons.NO_FACE] * 3 + [reasons.SEVERAL_FACES] * 2 + [reasons.REJECTED_PICTURE])
    alone = [row for row in rows_of(tmp_path / "out") if row["identity_id"] == lonely and row["kept"]]
    assert all(row["photo"] == row["face_photo"] == "0001_01.jpg" for row in alone)
    assert "\n".join(report.lines()).count("left out") >= 6
    turned = Image.open(next((tmp_path / "out/coco_dataset/coco_train_swapped").glob("000000000007.jpg_*")))
    upright = fixtures.load_picture(folder / "000000000007.jpg")
    assert turned.size == (192, 192) and np.abs(np.asarray(turned)[-60:].astype(int) - upright[-60:]).mean() < 4
    assert str(tmp_path) not in (tmp_path / "out/report.json").read_text()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shares": "1,2"}, "three numbers"),
        ({"unknown": "maybe"}, "skip or any"),
        ({"quality": 101}, "1 to 100"),
        ({"keep_skin": 1.5}, "--keep-skin must be a number from 0 to 1"),
        ({"workers": 0}, "--workers"),
        ({"min_face": 1000}, "no image can be swapped"),
        ({"match": "ethnicity"}, "no image can be swapped.*unknown attribute"),
        ({"attributes": "gone.csv"}, "no file gone.csv"),
        ({"swapper": "inswapper"}, "needs a model file"),
        ({"swapper": "paint"}, "choose one of blend, inswapper"),
    ],
)
def test_bad_options_are_one_sentence(world, tmp_path, options, message):
    with pytest.raises(IdClipError, match=message):
        swap(world, tmp_path / "out", **options)


def test_attributes_of_people_and_images_are_matched(world, tmp_path):
    images = {str(n): {"ethnicity": "a" if n % 2 else "b", "stratum": "plain", "age_group": "old"} for n in range(1, 9)}
    (tmp_path / "images.json").write_text(json.dumps(images))
    people = sorted(path.name for path in world.people.iterdir())
    ages = ["young" if number % 2 else "" for number in range(len(people))]
    table = "identity_id,ethnicity,age_group\n" + "".join(
        f"{key},{'ab'[int(key[-1]) % 2]},{age}\n" for key, age in zip(people, ages)
    )
    (tmp_path / "people.csv").write_text(table)
    options = {"attributes": tmp_path / "people.csv", "image_attributes": tmp_path / "images.json"}
    swap(world, tmp_path / "out", shares="1,0,0", match="ethnicity", **options)
    samples = load_release(tmp_path / "out", "train", 64).samples
    assert samples
    for sample in samples:
        assert sample.attributes["ethnicity"] == "ab"[int(sample.identity_id[-1]) % 2] == "ba"[sample.image_id % 2]
        assert sample.attributes["stratum"] == "plain"
        # The face in the picture is the person's, whatever was not matched.
        assert sample.attributes.get("age_group", "") == ages[people.index(sample.identity_id)]


def test_a_table_may_say_who_belongs_to_which_split(world, tmp_path):
    people = sorted(path.name for path in world.people.iterdir() if path.is_dir())
    part = {key: ("train", "val", "test")[number % 3] for number, key in enumerate(people)}
    (tmp_path / "people.csv").write_text("identity_id,split\n" + "".join(f"{k},{v}\n" for k, v in part.items()))
    usable = sorted({row["image_id"] for row in rows_of(_swapped(world, tmp_path / "free")) if row["kept"]})
    images = json.loads((world.coco / "annotations" / "instances_val2017.json").read_text())["images"]
    tests = {image["id"] for image in images[::2]}
    wanted = {image["id"]: {"split": "test" if image["id"] in tests else "val"} for image in images}
    (tmp_path / "images.json").write_text(json.dumps(wanted))
    tables = {"attributes": tmp_path / "people.csv", "image_attributes": tmp_path / "images.json"}
    rows = [row for row in rows_of(_swapped(world, tmp_path / "told", **tables)) if row["kept"]]
    assert {row["image_id"] for row in rows} <= set(usable) and {row["split"] for row in rows} == {
        "train",
        "val",
        "test",
    }
    for row in rows:
        assert part[row["identity_id"]] == row["split"]
        assert wanted.get(row["image_id"], {"split": "train"})["split"] == row["split"]


def _swapped(world, output, **options):
    swap(world, output, **options)
    return output


def test_the_shipped_pack_recognises_swaps(tmp_path):
    world = fixtures.write_world(tmp_path, train=4, val=0, people=16)
    options = {"faces": "insightface:miniature", "shares": "1,0,0", "margin": 0.0, "workers": 1, "min_face": 24}
    report = build_release(SwapOptions(world.coco, world.people, tmp_path / "out", **options))
    totals = report.splits["train"]
    assert totals.swaps >= 0.5 * (totals.swaps + totals.dropped) > 0
    assert totals.cosine_identity > totals.cosine_original
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "out/coco_dataset").glob("*/*.jpg")}
    assert len(digests) == totals.swaps
