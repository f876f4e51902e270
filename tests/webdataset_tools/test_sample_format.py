"""The form of a sample: what goes into a tar comes out again, and what is no sample is refused by name."""

import dataclasses
import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from open_clip_idplugin.errors import IdClipError
from webdataset_tools.sample_format import (
    MEMBERS,
    Sample,
    SampleFormatError,
    SampleRecord,
    members_to_sample,
    parse_key,
    read_samples,
    sample_to_members,
    shard_paths,
)


def make_sample(image_id=302882, identity_id="n000129", crop=b"crop"):
    record = SampleRecord(
        image_id=image_id,
        identity_id=identity_id,
        identity_name="Юрий O'Neil / 王菲",
        captions=("A man hits a ball.", 'He says "no".'),
        split="test",
        file_name=f"{image_id:012d}.jpg_{identity_id}.jpg",
        source="coco-pfs",
        face_crop_source="identity_photo" if crop else None,
        attributes={"stratum": "hard"},
    )
    face = np.arange(512, dtype=np.float32) / 7
    return Sample(record.key, b"\xff\xd8 image", record.captions[0], face, crop, record)


def make_members(sample=None):
    sample = sample or make_sample()
    return {"__key__": sample.key, **sample_to_members(sample)}


def write_tar(path, entries):
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample_entries(sample):
    return [(f"{sample.key}.{name}", content) for name, content in sample_to_members(sample).items()]


@pytest.mark.parametrize("crop", [b"crop", None])
def test_a_sample_survives_the_way_into_members_and_back(crop):
    sample = make_sample(crop=crop)
    members = make_members(sample)
    assert tuple(members)[1:] == (MEMBERS if crop else MEMBERS[1:])
    again = members_to_sample(members)
    np.testing.assert_array_equal(again.face, sample.face)
    assert again.face.dtype == np.float32
    assert dataclasses.replace(again, face=None) == dataclasses.replace(sample, face=None)
    assert pickle.loads(pickle.dumps(again)).record == sample.record


@pytest.mark.parametrize("size", [1, 128, 512])
def test_embeddings_are_written_as_numpy_writes_them(size):
    array = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    stream = io.BytesIO()
    np.save(stream, array)
    assert sample_to_members(dataclasses.replace(make_sample(), face=array))["face.npy"] == stream.getvalue()


def test_the_members_are_what_the_documentation_says():
    members = make_members()
    assert set(members) == {"__key__", "jpg", "txt", "face.npy", "face.jpg", "json"}
    assert members["txt"] == b"A man hits a ball."
    assert json.loads(members["json"]) == {
        "image_id": 302882,
        "identity_id": "n000129",
        "identity_name": "Юрий O'Neil / 王菲",
        "captions": ["A man hits a ball.", 'He says "no".'],
        "split": "test",
        "file_name": "000000302882.jpg_n000129.jpg",
        "source": "coco-pfs",
        "synthetic": True,
        "face_crop_source": "identity_photo",
        "face_photo": None,
        "face_model": None,
        "attributes": {"stratum": "hard"},
    }
    assert np.load(io.BytesIO(members["face.npy"])).shape == (512,)


def test_fields_of_a_later_version_are_left_out():
    text = json.dumps({**json.loads(make_sample().record.to_json()), "colour": "red"})
    assert SampleRecord.from_json(text) == make_sample().record


@pytest.mark.parametrize("key", ["1_n1", "302882_n000129", "0007_n-1_a"])
def test_keys_that_are_accepted(key):
    image_id, identity_id = parse_key(key)
    assert image_id == int(key.split("_")[0]) and identity_id == key.split("_", 1)[1]


@pytest.mark.parametrize("key", ["", "1", "1_", "_n1", "1_n1.x", "1_../n", "a/1_n1", "1_n 1", "1_n1\n", "1_é", "-1_n1"])
def test_keys_that_are_refused(key):
    assert parse_key(key) is None
    with pytest.raises(SampleFormatError, match="<image id>_<identity id>"):
        members_to_sample({**make_members(), "__key__": key})


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("json", b"{"),
        ("json", b"[1]"),
        ("json", b'{"image_id": 1}'),
        ("json", make_sample(image_id=7).record.to_json().encode()),
        ("json", make_sample().record.to_json().replace("302882,", '"302882",').encode()),
        ("json", make_sample().record.to_json().replace('"test"', "5").encode()),
        ("json", make_sample().record.to_json().replace('["A man hits a ball.", ', "[1, ").encode()),
        ("txt", b"\xff\xfe"),
        ("face.npy", b"not numpy"),
        ("face.npy", npy(np.zeros((1, 512), np.float32))),
        ("face.npy", npy(np.zeros(512, np.int64))),
        ("face.npy", npy(np.array([{"evil": 1}], dtype=object))),
    ],
)
def test_damaged_members_name_the_sample(name, content):
    with pytest.raises(SampleFormatError, match="302882_n000129"):
        members_to_sample({**make_members(), name: content})


@pytest.mark.parametrize("name", ["jpg", "txt", "face.npy", "json"])
def test_missing_members_are_named(name):
    members = make_members()
    del members[name]
    with pytest.raises(SampleFormatError, match=rf"302882_n000129 lacks \.{name}"):
        members_to_sample(members)


@pytest.mark.host
def test_shards_are_read_in_order(tmp_path):
    for number in range(3):
        samples = [make_sample(image_id=10 * number + index, crop=None) for index in range(2)]
        write_tar(tmp_path / f"{number:05d}.tar", [entry for sample in samples for entry in sample_entries(sample)])
    expected = [0, 1, 10, 11, 20, 21]
    spellings = [
        tmp_path,
        str(tmp_path / "{00000..00002}.tar"),
        [tmp_path / f"{number:05d}.tar" for number in range(3)],
        f"{tmp_path}/00000.tar::{tmp_path}/{{00001..00002}}.tar",
    ]
    for shards in spellings:
        assert [sample.record.image_id for sample in read_samples(shards)] == expected
    assert [sample.record.image_id for sample in read_samples([tmp_path / "00002.tar", tmp_path / "00000.tar"])] == [
        20,
        21,
        0,
        1,
    ]


@pytest.mark.host
def test_foreign_samples_are_refused_and_nothing_is_written(tmp_path):
    outside = [("../../evil_n1.jpg", b"x"), ("/etc/evil_n1.jpg", b"x"), ("a/b/1_n1.jpg", b"x"), ("cat.jpg", b"x")]
    folder = tmp_path / "inner" / "most"
    folder.mkdir(parents=True)
    for number, entry in enumerate(outside):
        shard = write_tar(folder / f"{number}.tar", [entry])
        with pytest.raises(SampleFormatError, match="not a sample of this project"):
            list(read_samples(shard))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.tar", "1.tar", "2.tar", "3.tar"]


def test_a_cut_off_shard_is_named(tmp_path):
    shard = write_tar(tmp_path / "00000.tar", sample_entries(make_sample()))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(IdClipError, match=r"00000\.tar.*copy it again"):
        list(read_samples(shard))


def test_missing_shards_are_named(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(IdClipError, match=r"there is no shard .*b\.tar"):
        shard_paths(str(tmp_path / "{a,b}.tar"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(IdClipError, match=r"holds no \.tar"):
        shard_paths(tmp_path / "empty")
    with pytest.raises(IdClipError, match="no shards given"):
        shard_paths([])
    assert shard_paths("https://host/{0..1}.tar") == ["https://host/0.tar", "https://host/1.tar"]
