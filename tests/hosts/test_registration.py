"""Importing the plugin makes the models known to open_clip, and touches nothing else."""

import json
import subprocess
import sys

import pytest

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.open_clip_rows import OPEN_CLIP
from open_clip_idplugin.hosts.registration import IDENTITY_MODELS, add_identity_model, register

pytestmark = pytest.mark.host

PROMISED = [
    f"IdCLIP-{name}{suffix}"
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
    for suffix in ("", "-quickgelu")
] + [
    "IdCLIP-ViT-H-14",
    "IdCLIP-ViT-L-14-CLIPA-336",
    "IdCLIP-ViT-H-14-CLIPA-336",
    "IdCLIP-ViT-B-16-sigmoid",
    "IdCLIP-ViT-miniature",
]


def plain_name(name):
    """open_clip's model with the same towers."""
    return "ViT-B-16-SigLIP" if name == "IdCLIP-ViT-B-16-sigmoid" else name.removeprefix("IdCLIP-")


IN_A_FRESH_PROCESS = """
import os, sys, time
start = time.perf_counter()
import open_clip_idplugin
print(time.perf_counter() - start)
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
assert not {"torch", "open_clip", "numpy"} & set(sys.modules), "heavy import"

import open_clip
from open_clip import factory, pretrained

def ours():
    return [name for name in open_clip.list_models() if "IdCLIP" in name]

assert "IdCLIP-ViT-L-14-336" in ours() and "load_model" in dir(open_clip_idplugin)
registered = (open_clip.list_models(), factory.CustomTextCLIP, open_clip.get_tokenizer, pretrained._PRETRAINED)
open_clip_idplugin.unregister()
assert not ours() and not any("IdCLIP" in name for name in pretrained._PRETRAINED)
assert len(factory._MODEL_CONFIG_PATHS) == 1
assert factory.CustomTextCLIP is open_clip.CustomTextCLIP
assert open_clip.get_tokenizer is factory.get_tokenizer and open_clip.get_tokenizer.__module__ == "open_clip.factory"
assert factory.download_pretrained is open_clip.download_pretrained is pretrained.download_pretrained

from open_clip_idplugin.hosts import registration
add = registration.add_identity_model
def fail_halfway(path):
    assert "H-14" not in path.stem, "halfway"
    return add(path)
registration.add_identity_model = fail_halfway
try:
    registration.register()
except AssertionError:
    assert not ours() and len(factory._MODEL_CONFIG_PATHS) == 1 and factory.CustomTextCLIP is open_clip.CustomTextCLIP
else:
    raise SystemExit("a registration that fails halfway must raise")
registration.add_identity_model = add

open_clip_idplugin.register()
assert open_clip.list_models() == registered[0] and factory.CustomTextCLIP is not registered[1]
tiny = dict(vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
            text_cfg=dict(vocab_size=50, width=64, heads=1, layers=1))
assert type(open_clip.create_model("IdCLIP-ViT-B-32", **tiny)) is open_clip_idplugin.IdCLIP
"""


def test_cheap_to_import_registers_with_open_clip_and_can_be_undone():
    result = subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[0]) < 2  # 0.1 s on a free machine


def test_all_promised_models_are_listed(tiny_identity_models):
    import open_clip

    assert sorted(PROMISED) == sorted(IDENTITY_MODELS)
    assert set(PROMISED) <= set(open_clip.list_models())
    config = open_clip.get_model_config("IdCLIP-ViT-L-14-336")
    assert config["identity_cfg"] == {} and config["custom_text"] is True


@pytest.mark.parametrize("name", [name for name in PROMISED if "miniature" not in name])
def test_towers_are_those_of_the_plain_model(tiny_identity_models, name):
    import open_clip

    ours = open_clip.get_model_config(name)
    plain = open_clip.get_model_config(plain_name(name))
    del ours["identity_cfg"], ours["custom_text"]
    plain.pop("custom_text", None)
    assert ours == plain


@pytest.mark.parametrize("name", [name for name in PROMISED if "miniature" not in name])
def test_pretrained_tags_are_those_of_the_plain_model(tiny_identity_models, name):
    import open_clip

    plain = plain_name(name)
    assert open_clip.list_pretrained_tags_by_model(name) == open_clip.list_pretrained_tags_by_model(plain)
    for tag in open_clip.list_pretrained_tags_by_model(plain):
        ours, theirs = dict(open_clip.get_pretrained_cfg(name, tag)), open_clip.get_pretrained_cfg(plain, tag)
        assert ours.pop("identity_model") == name and ours == theirs


def test_known_tags(tiny_identity_models):
    import open_clip

    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-L-14-336", "openai")
    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-L-14-336-quickgelu", "openai")
    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-L-14", "datacomp_xl_s13b_b90k")
    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-H-14", "laion2b_s32b_b79k")
    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-miniature", "miniature")
    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-L-14-CLIPA-336", "datacomp1b")
    assert open_clip.is_pretrained_cfg("IdCLIP-ViT-H-14-CLIPA-336", "laion2b")
    assert open_clip.get_pretrained_cfg("IdCLIP-ViT-B-16-sigmoid", "webli")["interpolation"] == "bicubic"


def test_a_failed_download_names_the_file_to_provide(tiny_identity_models, monkeypatch):
    import open_clip
    from open_clip import pretrained

    def unreachable(*_args, **_kwargs):
        raise ConnectionError("no network here")

    monkeypatch.setattr(pretrained, "hf_hub_download", unreachable)
    sentence = (
        "get the file open_clip_model.safetensors of the Hugging Face repository timm/vit_base_patch32_clip_224.openai"
    )
    with pytest.raises((IdClipError, RuntimeError), match=sentence):
        open_clip.create_model("IdCLIP-ViT-B-32", pretrained="openai")
    with pytest.raises((FileNotFoundError, RuntimeError)) as plain:
        open_clip.create_model("ViT-B-32", pretrained="openai")
    assert "get the file" not in str(plain.value)


def test_a_missing_shipped_file_names_its_command(tiny_identity_models, monkeypatch, tmp_path):
    import open_clip

    from open_clip_idplugin import assets

    monkeypatch.setattr(assets, "WEIGHTS", tmp_path)
    with pytest.raises((IdClipError, RuntimeError), match=r"make it with `python -m webdataset_tools\.miniature"):
        open_clip.create_model("IdCLIP-ViT-miniature", pretrained="miniature")


def test_registering_again_changes_nothing(tiny_identity_models):
    import open_clip

    before = (list(open_clip.list_models()), list(open_clip.factory._MODEL_CONFIG_PATHS), open_clip.get_tokenizer)
    register()
    after = (list(open_clip.list_models()), list(open_clip.factory._MODEL_CONFIG_PATHS), open_clip.get_tokenizer)
    assert before == after


def test_other_models_stay_the_hosts(tiny_identity_models):
    import open_clip

    assert type(open_clip.create_model("plain-ViT-tiny")) is open_clip.CLIP
    custom = open_clip.create_model("plain-ViT-tiny", force_custom_text=True)
    assert type(custom) is open_clip.CustomTextCLIP
    assert type(custom.text) is open_clip.transformer.TextTransformer


def write_config(folder, name, **changes):
    config = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}, "custom_text": True, "identity_cfg": {}} | changes
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("IdCLIP-CoCa-ViT-B", {}, "must not contain 'coca'"),
        ("IdCLIP-ViT-B-SigLIP", {}, "must not contain 'siglip'"),
        ("ViT-B-32", {}, "already has a model named ViT-B-32"),
        ("IdCLIP-ViT-new", {"identity_cfg": None}, "lacks identity_cfg"),
        ("IdCLIP-ViT-new", {"custom_text": None}, "custom_text"),
        ("IdCLIP-ViT-new", {"identity_cfg": {"prompts": 5}}, "no key 'prompts'"),
    ],
)
def test_bad_registrations_are_refused(tiny_identity_models, tmp_path, name, changes, message):
    import open_clip

    before = list(open_clip.list_models())
    with pytest.raises(IdClipError, match=message):
        add_identity_model(write_config(tmp_path, name, **changes))
    assert open_clip.list_models() == before


def test_no_config_file(tiny_identity_models, tmp_path):
    with pytest.raises(IdClipError, match="not a readable model config"):
        add_identity_model(tmp_path / "missing.json")


def test_names_keep_vit_for_the_hosts_optimizer_defaults():
    assert all("vit" in name.lower() for name in IDENTITY_MODELS)
    assert len(OPEN_CLIP) == len({row.targets for row in OPEN_CLIP})
