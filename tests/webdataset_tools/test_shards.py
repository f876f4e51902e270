"""Packing: what lands in the shards, that nothing else decides about their bytes, and that stock readers take them."""

import importlib.util
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import face_pack_fixtures as face_packs
import numpy as np
import pytest
import release_fixtures as fixtures
from host_abilities import needs_host_reader
from PIL import Image
from places import FIXTURES

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.output_folder import locked
from webdataset_tools import shard_folder, shard_report
from webdataset_tools.image_check import find_damage
from webdataset_tools.release import load_release
from webdataset_tools.sample_format import read_samples
from webdataset_tools.shard_plan import plan_shards
from webdataset_tools.shards import ShardOptions, build_shards, shard_pattern, shards


@pytest.fixture
def release(tmp_path):
    return fixtures.write_release(tmp_path / "coco-pfs", photos=2)


def pack(release, output, load_engine=None, **options):
    options = {"crops": "none", "workers": 1, "samples_per_shard": 5, **options}
    return build_shards(ShardOptions(release, options.pop("split", "train"), output, **options), load_engine)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What is in the shards


@pytest.mark.host
def test_every_sample_arrives_with_its_bytes_face_and_record(release, tmp_path):
    report = pack(release, tmp_path / "out", face_model="arcface-test")
    assert (report.samples, report.shards, report.images, report.identities) == (18, 4, 6, 3)
    expected = {sample.key: sample for sample in load_release(release, "train").samples}
    samples = list(read_samples(tmp_path / "out"))
    assert {sample.key for sample in samples} == set(expected)
    for sample in samples:
        wanted, record = expected[sample.key], sample.record
        assert sample.image_bytes == (fixtures.images_path(release) / wanted.file_name).read_bytes()
        np.testing.assert_array_equal(sample.face, wanted.face)
        assert sample.caption == record.captions[0] == wanted.captions[0]
        assert (record.captions, record.identity_name) == (wanted.captions, wanted.identity_name)
        assert (record.split, record.source, record.synthetic) == ("train", "coco-pfs", True)
        assert (record.face_model, record.face_crop_source) == ("arcface-test", None)
        assert sample.face_crop_bytes is None


def test_sizes_and_index_count_the_tars(release, tmp_path):
    out = tmp_path / "out"
    pack(release, out)
    sizes = json.loads((out / "sizes.json").read_text())
    assert sizes == {"00000.tar": 4, "00001.tar": 5, "00002.tar": 4, "00003.tar": 5}  # as even as can be
    for name, count in sizes.items():
        with tarfile.open(out / name) as tar:
            assert sum(entry.name.endswith(".json") for entry in tar) == count
    index = json.loads((out / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"], index["name"]) == ("wids-shard-index-v1", 1, "coco-pfs-train")
    assert index["shardlist"] == [
        {"url": name, "nsamples": count, "filesize": (out / name).stat().st_size} for name, count in sizes.items()
    ]


def test_tars_are_private_and_lists_are_not(release, tmp_path):
    pack(release, tmp_path / "out")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert {mode for name, mode in modes.items() if name.endswith(".tar")} == {0o600}
    assert {modes[name] for name in ("sizes.json", "index.json", "report.json", "build.json")} == {0o644}


def test_the_plan_depends_on_the_seed_and_deals_evenly(release):
    samples = load_release(release, "train").samples
    plans = [[sample.key for task in plan_shards(samples, 5, seed) for sample in task.samples] for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert sorted(plans[0]) == sorted(plans[2]) == sorted(sample.key for sample in samples)
    assert [len(task.samples) for task in plan_shards(samples, 1000, 0)] == [18]
    assert {len(task.samples) for task in plan_shards(samples, 4, 0)} == {3, 4}


# Face crops


@pytest.mark.parametrize("workers", [1, 2])
def test_crops_come_from_the_identity_photo(release, tmp_path, workers):
    (fixtures.photo_folder(release) / "n000001" / "0001_01.jpg").write_bytes(b"broken")
    faceless = fixtures.picture_bytes(5, (fixtures.FACELESS_WIDTH, 60))
    (fixtures.photo_folder(release) / "n000002" / "0001_01.jpg").write_bytes(faceless)
    photos, loads = fixtures.photo_folder(release), tmp_path / "loads"
    loads.mkdir()
    engine = fixtures.fake_engine(log_folder=str(loads))
    result = pack(release, tmp_path / "out", engine, crops=None, photos=photos, workers=workers)
    assert result.crops == {"identity_photo": 18} and not result.without_crop
    second, first = "0002_01.jpg", "0001_01.jpg"
    used = {"n000001": second, "n000002": second, "n000003": first}  # the first in which a face is found
    for sample in read_samples(tmp_path / "out"):
        identity = sample.record.identity_id
        assert sample.record.face_crop_source == "identity_photo"
        assert sample.record.face_photo == f"{identity}/{used[identity]}"
        assert sample.face_crop_bytes == fixtures.corner_crop((photos / identity / used[identity]).read_bytes())
        assert Image.open(io.BytesIO(sample.face_crop_bytes)).size == (112, 112)
    owners = [path.name.split("-")[0] for path in loads.iterdir()]
    assert len(owners) == len(set(owners)) <= workers  # loaded once in each process


def test_crops_come_from_the_swapped_image_without_photos(release, tmp_path):
    path = fixtures.images_path(release) / "000000000009.jpg_n000001.jpg"
    path.write_bytes(fixtures.picture_bytes(5, (fixtures.FACELESS_WIDTH, 60)))
    result = pack(release, tmp_path / "out", fixtures.fake_engine(), crops=None)
    assert result.crops == {"swapped_image": 17}
    assert [(skip.key, skip.reason) for skip in result.without_crop] == [("9_n000001", shard_report.NO_FACE_IN_IMAGE)]
    for sample in read_samples(tmp_path / "out"):
        if sample.key == "9_n000001":  # kept without crop
            assert sample.face_crop_bytes is None and sample.record.face_crop_source is None
        else:
            assert sample.face_crop_bytes == fixtures.corner_crop(sample.image_bytes)
            assert sample.record.face_crop_source == "swapped_image" and sample.record.face_photo is None


def test_people_without_a_usable_photo_keep_their_samples(release, tmp_path):
    photos = fixtures.photo_folder(release)
    for path in (photos / "n000001").iterdir():
        path.unlink()
    for path in (photos / "n000002").iterdir():
        path.write_bytes(b"broken")
    result = pack(release, tmp_path / "out", fixtures.fake_engine(), crops=None, photos=photos)
    assert result.samples == 18 and result.crops == {"identity_photo": 6}
    counts = json.loads((tmp_path / "out" / "report.json").read_text())["without_crop"]["counts"]
    assert counts == {shard_report.NO_FACE_IN_PHOTOS: 6, shard_report.NO_PHOTO: 6}
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()


def test_insightface_crops_for_real(release, tmp_path):
    face_packs.write_pack(tmp_path / "packs" / "toy")
    for path in fixtures.photo_folder(release).rglob("*.jpg"):  # in the second photo of each person
        picture = face_packs.toy_picture(*[(64, 96)] * (path.name == "0002_01.jpg"))
        Image.fromarray(picture).save(path, quality=95, subsampling=0)
    options = {"photos": fixtures.photo_folder(release), "faces": f"insightface:{tmp_path / 'packs' / 'toy'}"}
    result = pack(release, tmp_path / "out", crops=None, det_size=192, **options)
    assert result.crops == {"identity_photo": 18}
    for sample in read_samples(tmp_path / "out"):
        assert sample.record.face_photo == f"{sample.record.identity_id}/0002_01.jpg"
        crop = np.asarray(Image.open(io.BytesIO(sample.face_crop_bytes)))
        assert crop.shape == (112, 112, 3)
        assert np.abs(crop[8:80, 8:104].astype(int) - face_packs.MAGENTA).max() < 60  # aligned: the face fills the crop


def test_the_shipped_face_pack_crops_for_real(tmp_path):
    pack_folder = (
        Path(shard_folder.__file__).parents[1] / "open_clip_idplugin" / "assets" / "weights" / "miniature_faces"
    )
    if not pack_folder.is_dir():
        pytest.skip("the shipped face pack is not there yet")
    release = fixtures.write_release(tmp_path / "release", scenes=2)
    result = pack(release, tmp_path / "out", crops="image", faces="insightface:miniature")
    assert result.samples == 6  # noise shows nobody
    assert result.crops.get("swapped_image", 0) + len(result.without_crop) == 6


# What is left out


def damage_images(release):
    images = fixtures.images_path(release)
    truncated = images / "000000000009.jpg_n000001.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    (images / "000000000009.jpg_n000002.jpg").write_bytes(b"")
    (images / "000000000009.jpg_n000003.jpg").write_bytes(b"<html>not found</html>")
    folder = images / "000000000109.jpg_n000001.jpg"
    folder.unlink()
    folder.mkdir()
    (images / "000000000109.jpg_n000002.jpg").unlink()
    return {
        "9_n000001": shard_report.CORRUPT_IMAGE,
        "9_n000002": shard_report.CORRUPT_IMAGE,
        "9_n000003": shard_report.CORRUPT_IMAGE,
        "109_n000001": shard_report.UNREADABLE_IMAGE,
        "109_n000002": shard_report.MISSING_IMAGE,
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_images_are_left_out_and_listed(release, tmp_path, workers):
    expected = damage_images(release)
    result = pack(release, tmp_path / "out", workers=workers)
    assert result.samples == 13 == sum(json.loads((tmp_path / "out/sizes.json").read_text()).values())
    listed = json.loads((tmp_path / "out/report.json").read_text())["skipped"]
    assert {entry["key"]: entry["reason"] for entry in listed["samples"]} == expected
    assert listed["counts"] == {
        shard_report.CORRUPT_IMAGE: 3,
        shard_report.MISSING_IMAGE: 1,
        shard_report.UNREADABLE_IMAGE: 1,
    }
    assert not expected.keys() & {sample.key for sample in read_samples(tmp_path / "out")}
    text = "\n".join(result.lines())
    assert "3 x corrupt image" in text and "109_n000002" in text


@pytest.mark.parametrize(
    ("format", "mode"),
    [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "I;16"), ("GIF", "P"), ("WEBP", "RGB")],
)
def test_unusual_images_are_no_damage(format, mode):
    stream = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(stream, format)
    else:
        Image.open(io.BytesIO(fixtures.picture_bytes(1))).convert(mode).save(stream, format)
    assert find_damage(stream.getvalue()) is None
    assert find_damage(stream.getvalue()[: len(stream.getvalue()) // 2]) is not None


def test_a_shard_whose_images_are_all_damaged_stays_readable(release, tmp_path):
    for path in fixtures.images_path(release).iterdir():
        if "n000003" not in path.name:
            path.write_bytes(b"broken")
    result = pack(release, tmp_path / "out", samples_per_shard=1)
    sizes = json.loads((tmp_path / "out/sizes.json").read_text())
    assert result.samples == 6 and list(sizes.values()).count(0) == 12
    assert len(list(read_samples(tmp_path / "out"))) == 6


def test_a_split_without_any_usable_sample_is_refused(release, tmp_path):
    fixtures.write_names(release, {"n9": "Nobody"})
    with pytest.raises(IdClipError, match=r"no sample of train.*'unknown identity': 18"):
        pack(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The same bytes, whatever happens


def test_any_number_of_workers_gives_the_same_bytes(release, tmp_path):
    damage_images(release)
    for workers in (1, 2):
        engine = fixtures.fake_engine()
        pack(release, tmp_path / str(workers), engine, crops="image", workers=workers, samples_per_shard=3)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "1")) == 2 * 6 + 4


BUILD = """
import sys
sys.path[:0] = [sys.argv[4]]
import release_fixtures as fixtures
from webdataset_tools.shards import ShardOptions, build_shards
if __name__ == "__main__":
    release, output, workers = sys.argv[1:4]
    options = ShardOptions(release, "train", output, crops="image", workers=int(workers), samples_per_shard=2)
    build_shards(options, fixtures.fake_engine(seconds=0.03))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_goes_on_to_the_same_bytes(release, tmp_path, workers):
    script, out = tmp_path / "build.py", tmp_path / "killed"
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(release), str(out), str(workers), str(FIXTURES)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(out.glob("*_stats.json"))) >= 2 and list(out.glob(".*.part")), process)
        children = children_of(process.pid)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(is_alive(child) for child in children))  # no worker outlives its parent
    survivors = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if stats_of(path).exists()}
    assert 2 <= len(survivors) < 9 and not (out / "sizes.json").exists()

    options = {"crops": "image", "samples_per_shard": 2}
    pack(release, out, fixtures.fake_engine(), **options)
    pack(release, tmp_path / "undisturbed", fixtures.fake_engine(), **options)
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert {name: (out / name).stat().st_mtime_ns for name in survivors} == survivors  # not made again


def stats_of(tar):
    return tar.with_name(f"{tar.stem}_stats.json")


def wait_for(condition, process=None, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.005)


def children_of(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def is_alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_lost_or_changed_tar_is_made_again_and_the_others_are_kept(release, tmp_path):
    out = tmp_path / "out"
    pack(release, out)
    before = contents(out)
    (out / "00001.tar").unlink()
    (out / "00002.tar").write_bytes(b"short")
    (out / "00003_stats.json").unlink()
    (out / ".00003.tar.abc.part").write_bytes(b"left by a killed run")
    kept = (out / "00000.tar").stat().st_mtime_ns
    pack(release, out, workers=2)
    assert contents(out) == before
    assert (out / "00000.tar").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"samples_per_shard": 6}, "samples_per_shard was 5, is 6"),
        ({"face_model": "other"}, "face_model was None, is other"),
    ],
)
def test_going_on_with_other_parameters_is_refused(release, tmp_path, change, message):
    pack(release, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(IdClipError, match=message):
        pack(release, tmp_path / "out", **change)
    assert contents(tmp_path / "out") == before


def test_going_on_with_a_changed_release_is_refused(release, tmp_path):
    pack(release, tmp_path / "out")
    fixtures.write_names(release, {"n000001": "Ann", "n000002": "Bea", "n000003": "Cleo"})
    with pytest.raises(IdClipError, match="the release or the photos have changed"):
        pack(release, tmp_path / "out")


def test_a_folder_of_other_tars_is_refused(release, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00000.tar").write_bytes(b"somebody's")
    with pytest.raises(IdClipError, match=r"holds tars but no build\.json"):
        pack(release, tmp_path / "out")


def test_two_builds_of_one_folder_at_a_time_are_refused(release, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(IdClipError, match="another process"):
        pack(release, tmp_path / "out")
    pack(release, tmp_path / "out")


# Bad input and failures


def test_an_output_that_cannot_be_a_folder_is_told(release, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(IdClipError, match="cannot make the folder"):
        pack(release, tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers"),
        ({"workers": "two"}, "--workers"),
        ({"samples_per_shard": 0}, "--samples_per_shard"),
        ({"seed": 1.5}, "--seed"),
        ({"names": "never"}, "--names must be required or optional"),
        ({"crops": "both"}, "--crops must be one of photo, image, none"),
        ({"crops": "photo"}, "--crops photo needs --photos"),
        ({"photos": "nowhere"}, "no photo folder nowhere"),
        ({"split": "dev"}, "train, val, test"),
    ],
)
def test_bad_options_are_named(release, tmp_path, options, message):
    with pytest.raises(IdClipError, match=message):
        pack(release, tmp_path / "out", **options)


def test_a_photo_folder_of_other_people_is_refused(release, tmp_path):
    (tmp_path / "photos" / "n777").mkdir(parents=True)
    with pytest.raises(IdClipError, match="<identity id>"):
        pack(release, tmp_path / "out", crops=None, photos=tmp_path / "photos")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_face_pack_is_told_in_one_sentence(release, tmp_path, workers):
    with pytest.raises(IdClipError, match="no/such/pack"):
        pack(release, tmp_path / "out", crops="image", faces="insightface:no/such/pack", workers=workers)
    assert not list((tmp_path / "out").glob("*.tar"))


class DyingEngine:
    def the_crop(self, picture, policy="largest"):
        os.kill(os.getpid(), signal.SIGKILL)


def load_dying_engine():
    return DyingEngine()


def test_a_dying_worker_ends_the_build_with_a_sentence(release, tmp_path):
    with pytest.raises(IdClipError, match="a worker process died"):
        pack(release, tmp_path / "out", partial(load_dying_engine), crops="image", workers=2)
    assert pack(release, tmp_path / "out", fixtures.fake_engine(), crops="image").samples == 18


def test_a_full_disk_at_any_file_is_one_sentence_and_the_build_goes_on(release, tmp_path, monkeypatch):
    pack(release, tmp_path / "undisturbed")
    sync, target = os.fsync, tmp_path / "out"
    for name in ["build.json", *sorted(contents(tmp_path / "undisturbed").keys() - {"build.json"})]:  # written once

        def failing(handle, name=name):
            if f".{name}." in os.readlink(f"/proc/self/fd/{handle}"):  # noqa: PTH115
                raise OSError(28, "No space left on device")
            sync(handle)

        monkeypatch.setattr("os.fsync", failing)
        with pytest.raises(IdClipError, match=r"cannot .*write .*No space left on device.* run the same command"):
            pack(release, target)
        assert not (target / "report.json").exists()
    monkeypatch.setattr("os.fsync", sync)
    pack(release, target)
    assert contents(target) == contents(tmp_path / "undisturbed")


# The command


def test_the_verb_prints_the_report_and_the_next_step(release, tmp_path, capsys):
    shards(str(release), "train", str(tmp_path / "out"), crops="none", workers=1, samples_per_shard=9)
    text = capsys.readouterr().out
    assert "samples 18; people 3; scenes 6; shards 2" in text
    assert "{00000..00001}.tar" in text and "idclip inspect" in text
    assert shard_pattern("d", 1) == "d/00000.tar"


def test_the_module_runs_as_a_command_and_stays_light(release, tmp_path):
    code = (
        "import sys; from webdataset_tools.__main__ import main\n"
        "if __name__ == '__main__':\n"
        "    try: main()\n"
        "    finally: print('HEAVY', sorted({'torch', 'open_clip', 'webdataset', 'cv2'} & sys.modules.keys()))\n"
    )
    (tmp_path / "run.py").write_text(code)
    flags = ["--release", str(release), "--split", "train", "--output", str(tmp_path / "out"), "--crops", "none"]
    run = subprocess.run([sys.executable, tmp_path / "run.py", "shards", *flags], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "HEAVY []" in run.stdout and "images/s" in run.stderr
    run = subprocess.run(
        [sys.executable, tmp_path / "run.py", "shards", *flags, "--seed", "3"], capture_output=True, text=True
    )
    assert run.returncode == 2 and "seed was 0, is 3" in run.stderr and "Traceback" not in run.stderr


# Stock readers


@pytest.fixture
def packed(release, tmp_path):
    photos = fixtures.photo_folder(release)
    pack(release, tmp_path / "out", fixtures.fake_engine(), crops=None, photos=photos)
    return tmp_path / "out"


@pytest.mark.host
def test_open_clip_reads_the_shards(packed):
    needs_host_reader()
    import torch
    from open_clip_train.data import get_dataset_size, get_wds_dataset

    pattern = shard_pattern(packed, 4)
    assert get_dataset_size(pattern) == (18, 4)
    arguments = SimpleNamespace(
        train_data=pattern, val_data=pattern, val_num_samples=None, train_num_samples=None, workers=0, batch_size=4,
        seed=0, world_size=1, dataset_resampled=False, train_data_upsampling_factors=None,
    )  # fmt: skip

    def to_tensor(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def tokenize(text):
        return [text]

    def parts(batch):
        return (batch["image"], batch["text"]) if isinstance(batch, dict) else batch

    validation = get_wds_dataset(arguments, to_tensor, is_train=False, tokenizer=tokenize).dataloader
    texts = [text for batch in validation for text in parts(batch)[1]]
    assert sorted(texts) == sorted(sample.caption for sample in read_samples(packed))
    training = get_wds_dataset(arguments, to_tensor, is_train=True, tokenizer=tokenize).dataloader
    images, texts = parts(next(iter(training)))
    assert images.shape == (4, 3, 64, 96) and all(text.startswith("Scene ") for text in texts)


def test_clip_retrieval_reads_the_shards(packed):
    package = importlib.util.find_spec("clip_retrieval")
    if package is None:
        pytest.skip("clip-retrieval is not installed")
    path = (
        Path(package.origin).parent / "clip_inference" / "reader.py"
    )  # the package itself imports all of its services
    spec = importlib.util.spec_from_file_location("stock_reader", path)
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)

    batches = reader.WebdatasetReader(
        sampler=lambda urls: urls,
        preprocess=lambda image: np.array(image),
        tokenizer=lambda texts: np.zeros((len(texts), 3), np.int64),
        input_dataset=[str(path) for path in sorted(packed.glob("*.tar"))],
        batch_size=5,
        num_prepro_workers=0,
        enable_metadata=True,
    )
    read = {
        key: (tuple(image.shape), text, json.loads(metadata)["identity_name"])
        for batch in batches
        for key, image, text, metadata in zip(
            batch["image_filename"], batch["image_tensor"], batch["text"], batch["metadata"], strict=True
        )
    }
    assert read == {
        sample.key: ((64, 96, 3), sample.caption, sample.record.identity_name) for sample in read_samples(packed)
    }


@pytest.mark.host
def test_wids_reads_the_index(packed, tmp_path):
    wids = pytest.importorskip("wids")  # webdataset 1 has left it out

    dataset = wids.ShardListDataset(str(packed / "index.json"), cache_dir=str(tmp_path / "cache"), keep=True)
    assert len(dataset) == 18
    read = [dataset[number] for number in range(18)]
    assert [sample["__key__"] for sample in read] == [sample.key for sample in read_samples(packed)]
    assert read[0][".jpg"].size == (96, 64) and read[0][".face.npy"].shape == (512,)
