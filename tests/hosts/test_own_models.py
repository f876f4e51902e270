"""Models of users: a config file, a folder, a variable or a package makes them known to verbs, training and reloading."""

import importlib
import inspect
import json
import logging

import pytest
import torch
from training_fixtures import logging_as_before, small_world, write_shards  # noqa: F401 - around all tests

from open_clip_idplugin import cli
from open_clip_idplugin.checkpoints.export import export
from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.checkpoints.training_facts import facts_beside
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import own_models, registration
from open_clip_idplugin.hosts.own_models import GROUP, VARIABLE, config_files, takes_faces
from open_clip_idplugin.hosts.registration import add_models, model_config, own_config, register
from training_patches.__main__ import main

pytestmark = pytest.mark.host

FACE_DIM = 16
NAME, PLAIN = "Mine-ViT-tiny", "Mine-plain-ViT-tiny"  # no prefix: what a model takes is told by its config
CONFIG = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    "identity_cfg": {"face_dim": FACE_DIM, "adaptor_hidden": 24},
}
PLAIN_CONFIG = {key: value for key, value in CONFIG.items() if key not in ("custom_text", "identity_cfg")}


def forget(*names):
    """As in a process that has not seen the models."""
    factory = importlib.import_module("open_clip.factory")
    for name in names:
        path = registration._added.pop(name, None)
        if path is not None:
            factory._MODEL_CONFIG_PATHS.remove(path)
        factory._MODEL_CONFIGS.pop(name, None)


@pytest.fixture(autouse=True)
def nothing_stays(tiny_identity_models, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    before = set(registration._added)
    yield
    forget(*(set(registration._added) - before))


def write(folder, name=NAME, config=None):
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config or CONFIG))
    return path


def test_a_file_or_a_folder_makes_models_known(tmp_path):
    import open_clip

    place = write(tmp_path / "configs").parent
    write(place, PLAIN, PLAIN_CONFIG)
    (place / "readme.txt").write_text("no config")
    assert add_models(place / f"{NAME}.json") == [NAME] and open_clip.get_model_config(NAME) == CONFIG
    assert add_models(place) == [NAME, PLAIN] == add_models(place)
    assert type(open_clip.create_model(PLAIN)) is open_clip.CLIP
    assert model_config(PLAIN) == PLAIN_CONFIG and own_config(PLAIN) == PLAIN_CONFIG
    assert own_config("IdCLIP-ViT-B-32") is None and own_config("ViT-B-32") is None
    write(tmp_path / "elsewhere")
    assert add_models(tmp_path / "elsewhere") == [NAME]  # the same model, from another place
    other = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "layers": 1}}
    with pytest.raises(IdClipError, match=f"already has a model named {NAME}"):
        add_models(write(tmp_path / "other", NAME, other))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not a readable model config"),
        ("a.json", "[" * 100_000, "not a readable model config"),
        ("a.json", json.dumps({**CONFIG, "more": "x" * (1 << 20)}), "more than 1048576 bytes"),
        ("a.json", "[1]", "lacks embed_dim, vision_cfg, text_cfg"),
        ("a.json", json.dumps({**CONFIG, "text_cfg": "big"}), "needs objects as vision_cfg and text_cfg"),
        ("a.json", json.dumps({**CONFIG, "custom_text": False}), "custom_text"),
        ("a.json", json.dumps({**CONFIG, "identity_cfg": {"prompts": 1}}), "no key 'prompts'"),
        ("ViT-B-32.json", json.dumps(PLAIN_CONFIG), "already has a model named ViT-B-32"),
        ("a.yaml", "x: 1", "there is no model config"),
        ("empty/", "", "holds no model config"),
        ("missing.json", None, "there is no model config"),
    ],
)
def test_what_describes_no_model_is_refused(tmp_path, name, content, message):
    import open_clip

    before, place = list(open_clip.list_models()), tmp_path / name
    if name.endswith("/"):
        place.mkdir()
    elif content is not None:
        place.write_text(content)
    with pytest.raises(IdClipError, match=message):
        add_models(place)
    assert open_clip.list_models() == before


def test_processes_that_are_started_later_know_the_models(tmp_path, monkeypatch):
    import open_clip

    path = write(tmp_path)
    add_models(path)
    add_models(tmp_path)
    assert config_files(tmp_path) == [path] == list(own_models.known_config_files())  # noted once, by its file
    forget(NAME)
    register()  # what importing open_clip does there
    assert open_clip.get_model_config(NAME) == CONFIG


def test_packages_describe_models_by_an_entry_point_and_a_broken_one_breaks_nothing(tmp_path, monkeypatch, caplog):
    import open_clip

    write(tmp_path / "my_tiny_models")
    (tmp_path / "my_tiny_models" / "__init__.py").write_text("")
    (tmp_path / "my_broken_models.py").write_text("raise RuntimeError('made wrongly')")
    told = tmp_path / "mine-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (told / "entry_points.txt").write_text(f"[{GROUP}]\nbroken = my_broken_models\ntiny = my_tiny_models\n")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        register()
    assert open_clip.get_model_config(NAME) == CONFIG and takes_faces(NAME)
    assert "made wrongly" in caplog.text and "broken" in caplog.text


def test_an_unknown_model_is_told_how_to_be_added(tmp_path, capsys):
    for name in ("IdCLIP-ViT-typo", NAME):
        with pytest.raises(IdClipError, match=r"no model named.*IdCLIP-ViT-B-32.*--model_config FILE\.json"):
            load_model(name)
    add_models(write(tmp_path))
    with pytest.raises(IdClipError, match=f"identity models are.*{NAME}"):
        load_model("typo")


def test_every_verb_that_takes_a_model_takes_its_config_and_explains_it():
    pytest.importorskip("clip_retrieval")
    asked = []
    for verb in cli.VERBS.values():
        module, _, attribute = verb.target.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        if "model" in inspect.signature(function).parameters:
            asked.append(attribute)
            assert "model_config" in inspect.signature(function).parameters, attribute
            assert "model_config: JSON file, or folder of them" in inspect.getdoc(function), attribute
    assert {"open_pictures", "evaluate", "export", "index", "index_add", "search", "serve"} <= set(asked)


def test_a_preset_is_the_default_of_what_takes_faces_whatever_its_name(tmp_path):
    from open_clip_train.params import parse_args

    from training_patches import params

    write(tmp_path)
    write(tmp_path, "IdCLIP-plain-ViT-tiny", PLAIN_CONFIG)

    def preset(model, *more):
        command = ["--model", model, "--train-data", "x.tar", "--model-config", str(tmp_path), *more]
        args, _ = params.parse_args(command, parse_args)
        assert args.model_config == str(tmp_path)  # so that the host writes it into params.txt
        return args.id_preset

    assert preset(NAME) == preset("IdCLIP-ViT-B-32") == "unseen-people"
    assert preset("IdCLIP-plain-ViT-tiny") is None is preset("ViT-B-32")
    assert preset(NAME, "--id-preset", "none") is None is preset(NAME, "--dataset-type", "csv")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_identity_models):
    """One epoch of the command on a model that only its file describes -> (config file, plain weights, run's folder)."""
    import open_clip

    folder = tmp_path_factory.mktemp("own")
    path = write(folder / "configs")
    write_shards(folder / "train", small_world(people=2, scenes=4, face_dim=FACE_DIM), shards=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "")
        add_models(path)
        torch.manual_seed(3)
        state = open_clip.create_model(NAME).state_dict()
        torch.save({key: value for key, value in state.items() if "adaptor" not in key}, folder / "plain.pt")
        forget(NAME)
        code = main(
            ["--model", NAME, "--model-config", str(path), "--train-data", f"{folder}/train/00000.tar", "--device", "cpu",
             "--dataset-type", "webdataset", "--precision", "fp32", "--workers", "0", "--batch-size", "4", "--epochs", "1",
             "--warmup", "1", "--logs", str(folder / "logs"), "--name", "own", "--pretrained", str(folder / "plain.pt"),
             "--id-preset", "paper", "--lr", "0.01"]
        )  # fmt: skip
        forget(NAME)
    assert code == 0
    return path, folder / "plain.pt", folder / "logs" / "own" / "checkpoints"


def features(loaded):
    face = torch.ones(1, FACE_DIM)
    with torch.no_grad():
        return loaded.model.encode_text(loaded.tokenizer(["[TOK] in the rain"], faces=face))


def test_a_checkpoint_brings_its_config_and_so_does_what_is_exported(run, tmp_path):
    path, plain, folder = run
    checkpoint = str(folder / "epoch_1.pt")
    facts = facts_beside(checkpoint)
    assert (facts.model, facts.config) == (NAME, CONFIG)
    told = features(load_model(NAME, checkpoint, configs=path))
    forget(NAME)
    assert torch.equal(features(load_model(NAME, checkpoint)), told)  # where the file is unknown
    export(NAME, checkpoint, str(tmp_path / "folder"))
    export(NAME, checkpoint, str(tmp_path / "small.safetensors"), base=str(plain))
    forget(NAME)
    assert torch.equal(features(load_model(f"local-dir:{tmp_path / 'folder'}")), told)
    delta = f"{plain}+{tmp_path / 'small.safetensors'}"
    assert torch.allclose(features(load_model(NAME, delta)), told, atol=1e-6)


def test_another_model_of_the_same_name_is_refused_beside_a_checkpoint(run, tmp_path):
    _, _, folder = run
    other = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "head_width": 8}}  # no shape tells of it
    add_models(write(tmp_path, NAME, other))
    with pytest.raises(IdClipError, match=f"another {NAME} than the one that is known here .vision_cfg differ"):
        load_model(NAME, str(folder / "epoch_1.pt"))


def test_a_wider_identity_cfg_in_the_file_does_not_matter_to_a_checkpoint(run, tmp_path):
    _, _, folder = run
    add_models(write(tmp_path, NAME, {**CONFIG, "identity_cfg": {"face_dim": FACE_DIM, "visual_prompts": 3}}))
    assert load_model(NAME, str(folder / "epoch_1.pt")).model.identity_cfg.visual_prompts == 0


def test_training_names_the_flag_for_a_model_that_nobody_described(capsys, tmp_path):
    write_shards(tmp_path / "train", small_world(people=1, scenes=2, face_dim=FACE_DIM), shards=1)
    code = main(
        ["--model", NAME, "--train-data", f"{tmp_path}/train/00000.tar", "--device", "cpu", "--workers", "0",
         "--dataset-type", "webdataset", "--logs", str(tmp_path / "logs"), "--epochs", "1", "--id-preset", "none"]
    )  # fmt: skip
    assert code == 2 and "--model_config FILE.json" in capsys.readouterr().err.splitlines()[-1]
