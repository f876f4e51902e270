"""`idclip evaluate`: from shards to tables, with what must be left out left out."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_fixtures import unit
from PIL import Image

from open_clip_idplugin.errors import IdClipError
from webdataset_tools.evaluation_data import detect_faces, encode_images, load_evaluation_set
from webdataset_tools.sample_format import Sample, SampleRecord, sample_to_members

FACE_DIM = 512
CAPTIONS = ("A man runs on the beach.", "A woman holds a dog.", "Two people eat lunch.")


def jpeg(level):
    stream = io.BytesIO()
    pixels = np.random.default_rng(level).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    pixels[:20] = level
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def sample(scene, person, **changes):
    image_id = changes.pop("image_id", scene + 100)
    key = f"{image_id}_n{person:06d}"
    record = SampleRecord(
        image_id=image_id,
        identity_id=f"n{person:06d}",
        identity_name=("Ada Lovelace", "Bo Diddley", "Cy Young", "Di Ba")[person],
        captions=(CAPTIONS[scene], f"{CAPTIONS[scene]} Seen from afar."),
        split="test",
        file_name=f"{key}.jpg",
        source="release",
        face_model=changes.pop("face_model", None),
        attributes={
            "stratum": ("plain", "small", "dark")[scene],
            "look_alike": person == 1,
            "gender": ("female", "male", "male", "female")[person],
            "ethnicity": None if person == 3 else "ab"[person % 2],
        },
    )
    face = np.random.default_rng(person).standard_normal(FACE_DIM).astype(np.float32)
    content = changes.pop("image_bytes", jpeg(40 * scene + 10 * person))
    return Sample(key, content, CAPTIONS[scene], changes.pop("face", face), None, record)


def write_shard(path, samples, broken=()):
    with tarfile.open(path, "w") as tar:
        for one in samples:
            for name, content in sample_to_members(one).items():
                if one.key in broken and name == "json":
                    content = b"{"
                entry = tarfile.TarInfo(f"{one.key}.{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two shards: 12 good images, one that is no image, one with a broken record, one key twice, one zero face."""
    good = [sample(scene, person) for scene in range(3) for person in range(4)]
    zero = sample(2, 3, image_id=999, face=np.zeros(FACE_DIM, np.float32))
    bad = sample(0, 1, image_id=998, image_bytes=b"no image")
    broken = sample(0, 1, image_id=997)
    write_shard(tmp_path / "00000.tar", [*good[:5], bad, broken], broken=(broken.key,))
    write_shard(tmp_path / "00001.tar", [*good[5:], good[0], zero])
    return str(tmp_path)


class MeanColour:
    """An image encoder whose features tell the image: the first 16 pixels."""

    def encode_images(self, batches):
        return unit(np.concatenate([batch[:, 0].flatten(1)[:, :16].numpy() for batch in batches]))


def preprocess(image):
    assert image.mode == "RGB"
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() + 1


def test_the_set_is_who_is_in_which_image(shards):
    skipped = {}
    found = load_evaluation_set(shards, skipped=skipped)
    assert len(found) == 13  # the image that cannot be decoded is still in it
    assert sorted(skipped) == ["100_n000000 (again)", "999_n000003", "damaged sample 1"]
    assert "zero" in skipped["999_n000003"] and "997_n000001" in skipped["damaged sample 1"]
    assert found.keys[:2] == ("100_n000000", "100_n000001")
    assert found.names[0] == "Ada Lovelace"
    assert found.captions[0] == (CAPTIONS[0], f"{CAPTIONS[0]} Seen from afar.")
    assert found.groups["stratum"][0] == "plain" and found.groups["look_alike"][:2] == ("no", "yes")
    assert found.groups["gender"][:4] == ("female", "male", "male", "female")
    assert found.groups["ethnicity"][:4] == ("a", "b", "a", "") and "age_group" not in found.groups
    assert np.linalg.norm(found.faces, axis=1) == pytest.approx(np.ones(13), abs=1e-5)
    assert len(load_evaluation_set(shards, limit=4)) == 4
    with pytest.raises(IdClipError):
        load_evaluation_set(shards)  # nobody listens to what is left out


@pytest.mark.parametrize("workers", [0, 2])
def test_features_keep_the_order_and_bad_images_leave_the_set(shards, workers):
    found = load_evaluation_set(shards, skipped={})
    encoded = encode_images(shards, found, MeanColour(), preprocess, batch_size=3, workers=workers, progress=False)
    assert list(encoded.skipped) == ["998_n000001"]
    assert encoded.evaluation_set.keys == tuple(key for key in found.keys if key != "998_n000001")
    again = encode_images(shards, found.take([7, 2]), MeanColour(), preprocess, workers=0, progress=False)
    rows = [encoded.evaluation_set.keys.index(found.keys[i]) for i in (7, 2)]
    assert np.array_equal(again.features, encoded.features[rows])


def test_a_set_without_images_is_refused(tmp_path):
    write_shard(tmp_path / "0.tar", [sample(0, 0, image_bytes=b"")])
    found = load_evaluation_set(tmp_path)
    with pytest.raises(IdClipError, match="decoded"):
        encode_images(tmp_path, found, MeanColour(), preprocess, workers=0, progress=False)
    write_shard(tmp_path / "0.tar", [])
    with pytest.raises(IdClipError):
        load_evaluation_set(tmp_path)


class KnownFaces:
    """A face engine that finds nobody in every third picture and two faces in the others."""

    model_id, embedding_size = "test", FACE_DIM

    def __init__(self):
        self.seen = 0

    def detect_many(self, pictures):
        result = []
        for picture in pictures:
            assert picture.dtype == np.uint8 and picture.shape == (40, 48, 3)
            rows = unit(np.random.default_rng(self.seen).standard_normal((2, FACE_DIM)))
            box = np.array([10, 20, 30, 50 + self.seen], np.float32)
            faces = [SimpleNamespace(embedding=row, box=box) for row in (*rows, None)]
            result.append([] if self.seen % 3 == 0 else faces)
            self.seen += 1
        return result


def test_faces_of_the_gallery(shards):
    found = load_evaluation_set(shards, limit=5)
    faces = detect_faces(shards, found, KnownFaces(), progress=False)
    assert faces.detected.tolist() == [False, True, True, False, True]
    assert faces.image_of_face.tolist() == [1, 1, 2, 2, 4, 4]
    assert faces.heights.tolist() == [31, 31, 32, 32, 34, 34]


def test_embeddings_of_different_face_models_are_not_compared(tmp_path):
    one = sample(0, 0)
    other = SampleRecord.from_json(json.dumps(json.loads(one.record.to_json()) | {"face_model": "other"}))
    write_shard(tmp_path / "0.tar", [Sample(one.key, one.image_bytes, one.caption, one.face, None, other)])
    two = sample(0, 1)
    third = SampleRecord.from_json(json.dumps(json.loads(two.record.to_json()) | {"face_model": "third"}))
    write_shard(tmp_path / "1.tar", [Sample(two.key, two.image_bytes, two.caption, two.face, None, third)])
    skipped: dict[str, str] = {}
    assert load_evaluation_set(tmp_path, skipped=skipped).keys == (one.key,)
    assert skipped == {two.key: "its face embedding was made with third, others with other"}
    (tmp_path / "1.tar").unlink()
    engine = KnownFaces()
    with pytest.raises(IdClipError, match="other"):
        detect_faces(tmp_path, load_evaluation_set(tmp_path), engine, progress=False)
    engine.model_id = "other/recogniser-0123456789ab"  # what an engine makes of the spec "other"
    assert detect_faces(tmp_path, load_evaluation_set(tmp_path), engine, progress=False).n_images == 1


def test_faces_of_another_model_than_the_checkpoints_are_refused(tmp_path):
    from open_clip_idplugin.evaluation.protocols import Settings
    from webdataset_tools.shard_evaluation import Loading, evaluate_shards

    write_shard(tmp_path / "0.tar", [sample(0, 0), sample(0, 1, face_model="insightface:a/recogniser-111111111111")])
    wanted = {"insightface:a": 2, "insightface:a/recogniser-111111111111": 2, None: 2}
    assert {model: len(load_evaluation_set(tmp_path, trained_with=model)) for model in wanted} == wanted
    loaded = SimpleNamespace(
        face_model="insightface:b/recogniser-222222222222", preprocess=preprocess, model=torch.nn.Identity()
    )
    refused = rf"face model 'insightface:b/recogniser-222222222222', and those of {tmp_path} come from 'insightface:a/"
    with pytest.raises(IdClipError, match=refused):
        evaluate_shards(str(tmp_path), loaded, Settings(("captions", "conf1")), Loading(workers=0))


def test_a_rival_of_another_face_model_is_refused_before_the_images_are_encoded(tmp_path, monkeypatch):
    from open_clip_idplugin.evaluation.protocols import Settings
    from open_clip_idplugin.faces import ModelMismatch
    from webdataset_tools import shard_evaluation

    write_shard(tmp_path / "0.tar", [sample(0, 0, face_model="insightface:a/recogniser-111111111111")])
    monkeypatch.setattr(shard_evaluation, "encode_images", None)  # calling it would be a TypeError
    engine = KnownFaces()
    engine.model_id = "insightface:b/recogniser-222222222222"
    loaded = SimpleNamespace(face_model=None, preprocess=preprocess, model=torch.nn.Identity())
    for rival in (shard_evaluation.Rival(engine), shard_evaluation.Rival(engine, validation=str(tmp_path))):
        with pytest.raises(ModelMismatch, match="and the rival come from different models"):
            shard_evaluation.evaluate_shards(
                str(tmp_path), loaded, Settings(("captions",)), shard_evaluation.Loading(workers=0), rival
            )


@pytest.mark.host
def test_the_verb_from_shards_to_files(shards, tmp_path, tiny_identity_models, plain_weights, monkeypatch, capsys):
    from open_clip_idplugin import cli, faces

    monkeypatch.setattr(faces, "load_face_engine", lambda spec, det_size: KnownFaces())
    _, checkpoint = plain_weights("IdCLIP-ViT-tiny")
    output = tmp_path / "results"
    flags = f"--data {shards} --model IdCLIP-ViT-tiny --checkpoint {checkpoint} --output {output} --workers 0"
    flags += " --configurations captions,names,conf1 --templates 0,6 --rival insightface:test --rival_data"
    assert cli.run(cli.VERBS, ["evaluate", *flags.split(), shards], "idclip") == 0
    printed = capsys.readouterr().out
    assert "General retrieval (percent)" in printed and "late fusion" in printed
    assert "4 samples were left out" in printed and "998_n000001: it is no picture in a known format" in printed
    document = json.loads((output / "results.json").read_text())
    rows = ["captions", "names", "conf1", "filter by face, then CLIP text", "late fusion", "hybrid"]
    assert list(document["metrics"]) == rows and set(document["failures"]) == set(rows)
    assert document["tuned"]["late fusion"]["rule"] in ("weighted", "none") and "gallery_size" in document["curves"]
    assert document["about"]["images"] == 12 and document["about"]["identities"] == 4
    assert len(document["about"]["skipped"]) == 4
    strata = document["strata"]["conf1"]
    assert {"stratum=dark", "look_alike=yes", "face=missed", "face=detected"} <= set(strata)
    assert strata["gender=female"]["images"] == strata["gender=male"]["images"] == 6 and "ethnicity=a" in strata
    assert strata["face=missed"]["images"] + strata["face=detected"]["images"] == 12
    assert strata["face_pixels=20-39"]["images"] == 6
    assert 0 <= document["metrics"]["conf1"]["mAP@10"] <= document["metrics"]["conf1"]["mAP@10_standard"] <= 1


def no_constant(word):
    raise AssertionError(f"{word} is no JSON")


@pytest.mark.host
def test_results_trace_everything_that_determines_a_number(
    shards, tmp_path, tiny_identity_models, plain_weights, monkeypatch
):
    from importlib.metadata import version

    from open_clip_idplugin import cli, faces, prompts
    from open_clip_idplugin.pictures import DECODER_VERSION
    from open_clip_idplugin.storage.file_hash import file_sha256

    monkeypatch.setattr(faces, "load_face_engine", lambda spec, det_size: KnownFaces())
    _, checkpoint = plain_weights("IdCLIP-ViT-tiny")

    def about(*flags):
        output = tmp_path / "results"
        command = f"--data {shards} --model IdCLIP-ViT-tiny --checkpoint {checkpoint} --output {output} --workers 0"
        assert cli.run(cli.VERBS, ["evaluate", *command.split(), *flags], "idclip") == 0
        return json.loads((output / "results.json").read_text(), parse_constant=no_constant)["about"]

    told = about(
        "--configurations", "captions,names,conf1", "--templates", "0,7", "--rival", "insightface:test", "--rival_data",
        shards, "--det_size", "96", "--limit", "9", "--as_reference", "articles",
    )  # fmt: skip
    assert told["weights"] == {checkpoint.name: file_sha256(checkpoint)} and len(told["model_config"]) == 64
    assert (told["rival"], told["rival_face_model"]) == ("insightface:test", KnownFaces().model_id)
    assert (told["rival_data"], told["det_size"], told["limit"]) == (shards, 96, 9)
    assert told["wordings"] == {str(number): prompts.GENERAL_TEMPLATES[number] for number in (0, 7)}
    assert told["entity_wordings"] == list(prompts.ENTITY_TEMPLATES) and told["as_reference"] == ["articles"]
    assert told["person_as"] == {"captions": "nothing", "names": "name", "conf1": "token"}
    assert set(told["fusion"]) == {"filter by face, then CLIP text", "late fusion", "hybrid"}
    assert told["fusion"]["late fusion"]["rule"] in ("weighted", "none") and "impostors" in told["calibration"]
    assert told["decoder"] == DECODER_VERSION and told["versions"]["torch"] == version("torch")
    assert {"python", "open_clip_torch", "numpy", "pillow", "open-clip-idplugin"} <= set(told["versions"])
    assert told["identity_cfg"]["face_dim"] == FACE_DIM and told["preprocessing"]["interpolation"] == "bicubic"
    page = (tmp_path / "results" / "results.md").read_text()
    assert f"* rival_data: {shards}\n" in page and "* skipped: 2\n" in page and '"torch": ' in page
    whole = about("--configurations", "captions", "--templates", "0")
    assert whole["split"] is whole["features"] is whole["rival"] is None and whole["limit"] is None


@pytest.mark.host
def test_a_split_of_one_s_own_is_picked_from_the_shards(shards, tmp_path, tiny_identity_models, plain_weights, capsys):
    from open_clip_idplugin import cli
    from open_clip_idplugin.storage.file_hash import file_sha256
    from webdataset_tools.chosen_samples import choose_samples

    _, checkpoint = plain_weights("IdCLIP-ViT-tiny")
    other = np.random.default_rng(9).standard_normal(FACE_DIM)
    hard = tmp_path / "hard.json"
    keys = ["102_n000001", "100_n000000", "101_n000000"]
    entries = {key: [other.tolist()] for key in keys} | {"500_n000000": [other.tolist()], "100_n000002": [[1.0]]}
    hard.write_text(json.dumps(entries))
    skipped = {}
    found = load_evaluation_set(shards, skipped=skipped, chosen=choose_samples("hard", str(hard), FACE_DIM))
    assert found.keys == tuple(keys) and found.in_order  # in the file's order
    np.testing.assert_allclose(found.faces, np.stack([unit(other)] * 3), rtol=1e-5)
    assert skipped["500_n000000"] == "not in the shards" and "not [1, 512]" in skipped["100_n000002"]

    def run(*flags):
        command = f"--data {shards} --model IdCLIP-ViT-tiny --checkpoint {checkpoint} --workers 0 --templates 0"
        command += f" --configurations captions,conf1 --output {tmp_path / 'results'}"
        code = cli.run(cli.VERBS, ["evaluate", *command.split(), *flags], "idclip")
        return code, capsys.readouterr().err

    assert run("--split", "testhard", "--features", str(hard))[0] == 0
    about = json.loads((tmp_path / "results" / "results.json").read_text())["about"]
    assert (about["split"], about["images"]) == ("testhard", 3)
    assert about["features"] == {"file": str(hard), "sha256": file_sha256(hard)}
    assert run("--split", "test")[0] == 0  # what the samples were packed as
    code, error = run("--split", "testhard")
    assert code == 2 and f"no usable sample of the split 'testhard' in {shards}" in error
    code, error = run("--features", str(tmp_path / "gone.json"))
    assert code == 2 and "there is no file" in error
    refusals = {b"{}": "no entry of", b"\xab\x00": "is not a JSON file in UTF-8", b"[1]": "not one complete JSON"}
    for content, words in refusals.items():
        hard.write_bytes(content)
        code, error = run("--features", str(hard))
        assert code == 2 and words in error


@pytest.mark.host
def test_the_verb_takes_any_model(shards, tiny_identity_models, plain_weights, monkeypatch, capsys):
    from open_clip_idplugin import cli, faces

    monkeypatch.setattr(faces, "load_face_engine", lambda spec, det_size: KnownFaces())
    _, checkpoint = plain_weights("IdCLIP-ViT-tiny")
    plain = tiny_identity_models["IdCLIP-ViT-tiny"]
    common = f"--data {shards} --checkpoint {checkpoint} --workers 0 --templates 0 --protocols general"

    def run(*flags):
        code = cli.run(cli.VERBS, ["evaluate", *common.split(), *flags], "idclip")
        return code, capsys.readouterr()

    for model, reason in ((plain, "is a plain CLIP"), ("IdCLIP-ViT-tiny", "was not trained")):
        code, printed = run("--model", model, "--rival", "insightface:test")
        assert code == 0 and "Without conf1, conf2" in printed.out and reason in printed.out
        table = printed.out.split("General retrieval (percent)")[1]
        assert "late fusion" in table and "names" in table and "conf1" not in table and "hybrid" not in table
    code, printed = run("--model", plain, "--configurations", "captions,conf1")
    assert code == 2 and "conf1 need an identity token, but" in printed.err and "late fusion" in printed.err
    assert run("--model", "IdCLIP-ViT-tiny", "--configurations", "conf1")[0] == 0  # a baseline


@pytest.mark.host
def test_metrics_are_those_of_the_model_asked_directly(shards, tiny_identity_models, plain_weights):
    from open_clip_idplugin.checkpoints.loading import load_model
    from open_clip_idplugin.evaluation.protocols import Settings
    from open_clip_idplugin.pictures import load_image
    from webdataset_tools.evaluation_data import samples_of
    from webdataset_tools.shard_evaluation import Loading, evaluate_shards

    _, checkpoint = plain_weights("IdCLIP-ViT-tiny")
    loaded = load_model("IdCLIP-ViT-tiny", str(checkpoint))
    settings = Settings(("names", "conf1"), ("general",), templates=0)
    evaluation = evaluate_shards(shards, loaded, settings, Loading(workers=0))
    found = evaluation.images.evaluation_set
    samples = [sample for _, sample in samples_of(shards, {key: row for row, key in enumerate(found.keys)})]
    with torch.inference_mode():
        pixels = torch.stack([loaded.preprocess(load_image(sample.image_bytes)) for sample in samples])
        images = loaded.model.encode_image(pixels, normalize=True)
        texts = [f"An image with [TOK]. {caption}" for sample in samples for caption in sample.record.captions]
        query_faces = np.repeat(unit(np.stack([sample.face for sample in samples])), 2, axis=0)
        queries = loaded.model.encode_text(loaded.tokenizer(texts, faces=query_faces), normalize=True)
        ranking = (queries @ images.T).argsort(dim=1, descending=True, stable=True)
    owner = torch.arange(len(texts))[:, None] // 2
    for k in (1, 5, 10):
        expected = float((ranking[:, :k] == owner).any(dim=1).float().mean())
        assert evaluation.results.metrics["conf1"][f"t2i_R@{k}"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.host
def test_plain_models_answer_the_baselines(shards, tiny_identity_models, plain_weights):
    from open_clip_idplugin.checkpoints.loading import load_model
    from open_clip_idplugin.evaluation.protocols import Settings
    from webdataset_tools.shard_evaluation import Loading, evaluate_shards

    _, checkpoint = plain_weights("IdCLIP-ViT-tiny")
    baselines = Settings(("captions", "names"))
    adapted, plain = (
        evaluate_shards(shards, load_model(name, str(checkpoint)), baselines, Loading(workers=0)).results.metrics
        for name in ("IdCLIP-ViT-tiny", tiny_identity_models["IdCLIP-ViT-tiny"])
    )
    assert adapted["captions"] == pytest.approx(plain["captions"], abs=1e-6)
    assert adapted["names"] == pytest.approx(plain["names"], abs=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        {"limit": 0},
        {"configurations": "conf9"},
        {"protocols": "people"},
        {"templates": "best"},
        {"rival_weight": 0.5},
        {"batch_size": 0},
    ],
)
def test_bad_flags_are_refused_before_anything_is_loaded(flags):
    from webdataset_tools.evaluate import evaluate

    with pytest.raises(IdClipError):
        evaluate("nothing.tar", "no model", **flags)
