"""The release reader: the layout as published, and a reason for everything that cannot be used."""

import json

import fsspec
import numpy as np
import pytest
import release_fixtures as fixtures

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import ModelMismatch
from webdataset_tools import shard_report
from webdataset_tools.release import load_release, swapped_file_name
from webdataset_tools.release_face_model import ReleaseFaceModel, agreed_model, write_face_model
from webdataset_tools.release_files import ReleaseError, read_identity_names, stream_object


def edit_features(folder, change):
    path = fixtures.features_path(folder)
    features = json.loads(path.read_text())
    change(features)
    path.write_text(json.dumps(features))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_is_read_from_its_own_files(tmp_path, split):
    fixtures.write_release(tmp_path / "coco-pfs", split)
    read = load_release(tmp_path / "coco-pfs", split)
    assert (read.source, read.split, len(read.samples), read.skipped) == ("coco-pfs", split, 18, [])
    sample = read.samples[0]
    assert (sample.key, sample.image_id, sample.identity_id) == ("9_n000001", 9, "n000001")
    assert sample.identity_name == "Person Number 0"
    assert sample.captions == tuple(f"Scene 0, words {number}." for number in range(5))  # of six, stripped
    assert sample.file_name == "000000000009.jpg_n000001.jpg" == swapped_file_name(9, "n000001")
    assert (read.images / sample.file_name).is_file()
    np.testing.assert_array_equal(sample.face, np.float32(fixtures.face_embedding(0)))
    assert sample.face.dtype == np.float32


def test_val_and_test_share_images_but_not_samples(tmp_path):
    fixtures.write_release(tmp_path, "val", scenes=2, people=["n1", "n2"])
    fixtures.write_release(tmp_path, "test", scenes=2, people=["n3"], first_image_id=9)
    fixtures.write_names(tmp_path, {"n1": "A", "n2": "B", "n3": "C"})
    assert {sample.identity_id for sample in load_release(tmp_path, "val").samples} == {"n1", "n2"}
    assert {sample.identity_id for sample in load_release(tmp_path, "test").samples} == {"n3"}


def test_features_are_found_below_coco_dataset_and_padded_ids_are_accepted(tmp_path):
    fixtures.write_release(tmp_path, scenes=1)
    edit_features(tmp_path, lambda f: f.update({"000000000009_n000001": f.pop("9_n000001")}))
    path = fixtures.features_path(tmp_path)
    (path.parent / "features").mkdir()
    path.rename(path.parent / "features" / path.name)
    assert load_release(tmp_path, "train").samples[0].key == "9_n000001"


def break_embeddings(features):
    features["9_n000001"] = [features["9_n000001"][0][:100]]
    features["9_n000002"] = [features["9_n000002"][0]] * 2
    features["9_n000003"] = [["x"] * 512]
    features["109_n000001"] = [[float("nan")] * 512]
    features["109_n000002"] = [[0.0] * 512]
    features["109_n000003"] = [[1e300] * 512]
    features["209_n000001"] = None
    features["209_n000002"] = [None, [1.0]]


def test_unusable_embeddings_are_listed(tmp_path):
    fixtures.write_release(tmp_path)
    edit_features(tmp_path, break_embeddings)
    read = load_release(tmp_path, "train")
    reasons = {skip.key: skip.reason for skip in read.skipped}
    size, value = shard_report.WRONG_EMBEDDING_SIZE, shard_report.BAD_EMBEDDING
    assert reasons == {
        **dict.fromkeys(["9_n000001", "9_n000002", "9_n000003", "209_n000001", "209_n000002"], size),
        **dict.fromkeys(["109_n000001", "109_n000002", "109_n000003"], value),
    }
    assert len(read.samples) == 10
    assert {skip.detail for skip in read.skipped if skip.key == "9_n000001"} == {"shape [1, 100], not [1, 512]"}


def test_other_embedding_sizes_are_read_when_asked_for(tmp_path):
    fixtures.write_release(tmp_path, scenes=1)
    edit_features(tmp_path, lambda f: f.update({key: [value[0][:128]] for key, value in f.items()}))
    assert load_release(tmp_path, "train").samples == []
    assert load_release(tmp_path, "train", embedding_size=128).samples[0].face.shape == (128,)
    write_face_model(tmp_path, ReleaseFaceModel("opencv:sface-0", 128))
    assert load_release(tmp_path, "train").samples[0].face.shape == (128,)
    with pytest.raises(IdClipError, match="have 128 numbers, --embedding-size says 512"):
        load_release(tmp_path, "train", embedding_size=512)


def test_the_face_model_is_what_the_release_notes(tmp_path):
    fixtures.write_release(tmp_path, scenes=1)
    assert load_release(tmp_path, "train").face_model is None
    assert (agreed_model(None, None), agreed_model(None, "told")) == (None, "told")
    write_face_model(tmp_path, ReleaseFaceModel("insightface:buffalo_l/w600k_r50-000000000000", 512))
    noted = load_release(tmp_path, "train").face_model
    for told in (None, "insightface:buffalo_l", "insightface:buffalo_l/w600k_r50-000000000000"):
        assert agreed_model(noted, told) == "insightface:buffalo_l/w600k_r50-000000000000"
    with pytest.raises(ModelMismatch, match=r"were made with insightface:buffalo_l/\S+, not insightface:buffalo;"):
        agreed_model(noted, "insightface:buffalo")
    (tmp_path / "face_model.json").write_text("[]")
    with pytest.raises(ReleaseError, match="does not name a face model"):
        load_release(tmp_path, "train")


@pytest.mark.parametrize("key", ["n000001", "9-n000001", "9_../../etc/x", "9_a.b", "x_n000001", "9_", "9_a\nb", ""])
def test_keys_of_another_form_are_listed(tmp_path, key):
    fixtures.write_release(tmp_path, scenes=1)
    edit_features(tmp_path, lambda f: f.update({key: f["9_n000001"]}))
    read = load_release(tmp_path, "train")
    assert [(skip.key, skip.reason) for skip in read.skipped] == [(key, shard_report.BAD_KEY)]
    assert len(read.samples) == 3


def test_repeated_keys_keep_the_first(tmp_path):
    fixtures.write_release(tmp_path, scenes=1)
    path = fixtures.features_path(tmp_path)
    again = json.dumps([fixtures.face_embedding(5)])
    path.write_text(path.read_text().rstrip("}") + f', "9_n000002": {again}, "0009_n000003": {again}}}')
    read = load_release(tmp_path, "train")
    assert [(skip.key, skip.reason) for skip in read.skipped] == [
        ("9_n000002", shard_report.DUPLICATE_KEY),
        ("9_n000003", shard_report.DUPLICATE_KEY),
    ]
    np.testing.assert_array_equal(read.samples[1].face, np.float32(fixtures.face_embedding(1)))


def test_missing_image_captions_and_names_are_listed(tmp_path):
    fixtures.write_release(tmp_path)
    (fixtures.images_path(tmp_path) / "000000000009.jpg_n000001.jpg").unlink()
    captions = tmp_path / "coco_dataset/annotations/captions_train2017.json"
    values = json.loads(captions.read_text())
    values["annotations"] = [a for a in values["annotations"] if a["image_id"] != 109]
    values["annotations"] += [{"image_id": 209, "caption": "  "}, {"image_id": 109, "caption": " \n"}]
    captions.write_text(json.dumps(values))
    fixtures.write_names(tmp_path, {"n000001": "Ann", "n000002": "Bea"})
    read = load_release(tmp_path, "train")
    reasons = {skip.key: skip.reason for skip in read.skipped}
    assert reasons == {
        "9_n000001": shard_report.MISSING_IMAGE,
        "109_n000001": shard_report.MISSING_CAPTIONS,
        "109_n000002": shard_report.MISSING_CAPTIONS,
        **{f"{image}_n000003": shard_report.UNKNOWN_IDENTITY for image in (9, 109, 209, 309, 409, 509)},
    }
    assert {sample.identity_name for sample in read.samples} == {"Ann", "Bea"}


def test_names_may_be_optional(tmp_path):
    fixtures.write_release(tmp_path, scenes=1)
    fixtures.write_names(tmp_path, {"n000001": "Ann"})
    read = load_release(tmp_path, "train", names_required=False)
    assert [sample.identity_name for sample in read.samples] == ["Ann", "n000002", "n000003"]
    (tmp_path / "vggface_test_kaggle/identity_meta.csv").unlink()
    with pytest.raises(IdClipError, match=r"identity_meta\.csv.*--names optional"):
        load_release(tmp_path, "train")
    assert len(load_release(tmp_path, "train", names_required=False).samples) == 3


def test_identity_names_in_every_spelling(tmp_path):
    path = tmp_path / "identity_meta.csv"
    path.write_text(
        "\ufeffClass_ID, Name, Sample_Num, Flag, Gender\r\n"
        'n000001, "14th_Dalai_Lama", 424, 0, m\r\n'
        "n000002, A_Fine_Frenzy, 315, 1, f\r\n"
        'n000003, "Davis,_Sammy", 1, 1, m\r\n'
        "n000004, Davis,_Jr., 1, 1, m\r\n"
        'n000005, """Weird_Al""_Yankovic", 1, 1, m\r\n'
        "n000006,  Юрий_Гагарин , 1, 1, m\r\n"
        "n000007, 王_菲, 1, 1, f\r\n"
        "n000008, O'Neil/Smith, 1, 1, f\r\n"
        "n000009, , 1, 1, f\r\n"
        "\r\n"
        "n000001, Someone_Else, 1, 1, f\r\n"
        'n000010, "Unclosed_Quote, 1, 1, f\r\n'
        "n000011, Lone_Name\r\n",
        encoding="utf-8",
    )
    assert read_identity_names(path) == {
        "n000001": "14th Dalai Lama",
        "n000002": "A Fine Frenzy",
        "n000003": "Davis, Sammy",
        "n000004": "Davis, Jr.",
        "n000005": '"Weird Al" Yankovic',
        "n000006": "Юрий Гагарин",
        "n000007": "王 菲",
        "n000008": "O'Neil/Smith",
        "n000010": "Unclosed Quote",
        "n000011": "Lone Name",
    }


def test_attributes_are_joined_by_key(tmp_path):
    fixtures.write_release(tmp_path, scenes=1)
    notes = {"000009_n000002": {"stratum": "hard"}, "nonsense": {"stratum": "easy"}}
    (tmp_path / "attributes.json").write_text(json.dumps(notes))
    samples = load_release(tmp_path, "train").samples
    assert [sample.attributes for sample in samples] == [{}, {"stratum": "hard"}, {}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: fixtures.features_path(d).unlink(), "features_train_small_faceswap.json"),
        (lambda d: (d / "coco_dataset/annotations/captions_train2017.json").unlink(), "captions_train2017.json"),
        (lambda d: (d / "coco_dataset").rename(d / "elsewhere"), "coco_dataset"),
        (lambda d: fixtures.images_path(d).rename(d / "elsewhere"), "coco_train_swapped"),
        (lambda d: fixtures.features_path(d).write_text('{"9_n000001": [[1.0, 2.'), "complete JSON object"),
        (lambda d: fixtures.features_path(d).write_text("[1, 2]"), "complete JSON object"),
        (lambda d: (d / "coco_dataset/annotations/captions_train2017.json").write_text("[]"), "COCO captions file"),
        (lambda d: (d / "vggface_test_kaggle/identity_meta.csv").write_text("id;name\n"), "Class_ID"),
        (lambda d: (d / "vggface_test_kaggle/identity_meta.csv").write_bytes(b"Class_ID, Name\nn1, \xff\xfe"), "UTF-8"),
        (lambda d: (d / "attributes.json").write_text('{"9_n000001": 3}'), "must be an object"),
    ],
)
def test_a_broken_layout_is_named_in_one_sentence(tmp_path, damage, message):
    fixtures.write_release(tmp_path, scenes=1)
    damage(tmp_path)
    with pytest.raises(ReleaseError, match=message) as caught:
        load_release(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_release_is_read_from_a_url_as_from_a_folder(tmp_path):
    folder = fixtures.write_release(tmp_path / "release")
    (folder / "attributes.json").write_text('{"9_n000001": {"stratum": "small"}}')
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/release", recursive=True)
    local = load_release(folder, "train")
    for url in ("memory://bucket/release", f"file://{folder}"):
        split = load_release(url, "train")
        assert [(s.key, s.identity_name, s.captions, s.attributes) for s in split.samples] == [
            (s.key, s.identity_name, s.captions, s.attributes) for s in local.samples
        ]
        assert split.source == local.source and split.skipped == local.skipped
        first = split.samples[0].file_name
        assert (split.images / first).read_bytes() == (local.images / first).read_bytes()
    with pytest.raises(ReleaseError, match="memory://bucket/nothing holds no folder coco_dataset"):
        load_release("memory://bucket/nothing", "train")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ReleaseError, match="train, val, test"):
        load_release(tmp_path, "dev")


def test_streaming_crosses_chunk_borders(tmp_path, monkeypatch):
    values = {f"k{number}": [[number, -1.5e-7, 'a"b\\']] for number in range(200)} | {
        "é": {"nested": [1, {"x": 2}]},
        "n": 12345,
    }
    path = tmp_path / "object.json"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    for size in (1, 7, 64, 1 << 20):
        monkeypatch.setattr("webdataset_tools.release_files._CHUNK", size)
        assert dict(stream_object(path)) == values
    path.write_text(" { } \n")
    assert dict(stream_object(path)) == {}
    for broken in ("", "{", '{"a": 1', '{"a": 1,', '{"a": 1} x', '{"a" 1}', '{"a": [1}'):
        path.write_text(broken)
        with pytest.raises(ReleaseError):
            list(stream_object(path))


def test_a_split_of_one_s_own_is_the_keys_of_its_file(tmp_path):
    fixtures.write_release(tmp_path / "coco-pfs", "train", first_image_id=7)
    fixtures.write_release(tmp_path / "coco-pfs", "test")
    hard = tmp_path / "testhard.json"
    faces = {"109_n000002": [fixtures.face_embedding(5)], "9_n000001": [fixtures.face_embedding(6)]}
    hard.write_text(json.dumps({**faces, "9_n000009": [fixtures.face_embedding(7)]}))
    read = load_release(tmp_path / "coco-pfs", "testhard", features=hard)
    assert (read.split, [sample.key for sample in read.samples]) == ("testhard", ["9_n000001", "109_n000002"])
    assert read.images == load_release(tmp_path / "coco-pfs", "test").images  # of the split that holds the pictures
    np.testing.assert_array_equal(read.samples[0].face, np.float32(fixtures.face_embedding(6)))
    assert [(skip.key, skip.reason) for skip in read.skipped] == [("9_n000009", shard_report.UNKNOWN_IDENTITY)]
    again = load_release(tmp_path / "coco-pfs", "train", features=hard)  # a known name takes its own pictures
    assert again.images.name == "coco_train_swapped"
    assert {skip.reason for skip in again.skipped} == {shard_report.UNKNOWN_IDENTITY, shard_report.MISSING_CAPTIONS}
    with pytest.raises(ReleaseError, match=r"no split 'testhard'.*--features"):
        load_release(tmp_path / "coco-pfs", "testhard")
    with pytest.raises(ReleaseError, match=r"there is no file .*gone"):
        load_release(tmp_path / "coco-pfs", "testhard", features=tmp_path / "gone.json")
