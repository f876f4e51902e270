"""Delta files: exactly what differs from the plain CLIP, refused where changed, foreign or put on another base."""

import json

import pytest
import torch

from open_clip_idplugin.checkpoints.delta_files import canonical, is_delta, read_delta, weights_digest
from open_clip_idplugin.checkpoints.loading import export_delta, load_model, read_weights
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.weight_keys import OWN_PARTS

pytestmark = pytest.mark.host

NAME = "IdCLIP-ViT-tiny"
SETTINGS = {"visual_prompts": 2, "text_prompts": 3, "lora_text_blocks": "1", "lora_rank": 2, "token_norm": "fixed",
            "tokens_per_identity": 2}  # fmt: skip


@pytest.fixture(scope="module")
def trained(plain_weights, tmp_path_factory):
    """A model with all parts, one LayerNorm and the temperature moved, its checkpoint, its base and its delta file."""
    import open_clip

    _, base = plain_weights(NAME)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME, pretrained=str(base), identity_cfg=SETTINGS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if model.part_of(name) in OWN_PARTS or name in ("visual.ln_post.weight", "logit_scale"):
                parameter.add_(0.1 * torch.randn(parameter.shape))
    folder = tmp_path_factory.mktemp("delta")
    checkpoint, delta = folder / "epoch_1.pt", folder / "delta.safetensors"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, checkpoint)
    export_delta(NAME, checkpoint, str(base), delta)
    return model, checkpoint, base, delta


def test_a_delta_holds_what_differs_and_nothing_else(trained):
    model, checkpoint, base, path = trained
    delta = read_delta(path)
    own = {key for key in model.state_dict() if model.part_of(key) in OWN_PARTS}
    assert set(delta.tensors) == own | {"visual.ln_post.weight", "logit_scale"}
    assert "text.adaptor.token_norm" in own and any(".lora." in key for key in own)
    assert delta.identity_cfg == model.identity_cfg and delta.base == base.name and delta.model == NAME
    assert path.stat().st_size < checkpoint.stat().st_size / 3
    assert is_delta(path) and not is_delta(checkpoint)


@torch.no_grad()
def test_base_and_delta_are_the_trained_model(trained, faces, tmp_path):
    model, _, base, path = trained
    for given in (f"{base}+{path}", _beside(path, base, tmp_path)):
        loaded = load_model(NAME, given)
        assert loaded.checkpoint == str(given) and loaded.model.identity_cfg == model.identity_cfg
        state = loaded.model.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        text = loaded.tokenizer(["[TOK] runs"], faces=faces[0])
        assert torch.equal(loaded.model.encode_text(text), model.encode_text(text))
    low = load_model(NAME, f"{base}+{path}", precision="pure_bf16").model
    assert low.visual.ln_post.weight.dtype == torch.bfloat16


def _beside(delta, base, folder):
    """A folder with the delta and its base, where the delta alone is enough."""
    for file in (delta, base):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / delta.name


def rewritten(path, folder, tensors=None, **facts):
    """A copy of a delta file with other content under the old digest."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    changed = folder / "changed.safetensors"
    save_file(load_file(path) | (tensors or {}), changed, metadata=metadata | facts)
    return changed


def test_a_changed_delta_is_refused(trained, tmp_path):
    _, _, base, path = trained
    assert read_delta(rewritten(path, tmp_path)).model == NAME
    config = read_delta(path).identity_cfg.override({"lora_rank": 4}).to_dict()
    for changes in (
        {"tensors": {"logit_scale": torch.tensor(1.0)}},
        {"tensors": {"visual.proj": torch.zeros(32, 24)}},
        {"identity_cfg": json.dumps(config)},
        {"base_digest": "0" * 64},
    ):
        with pytest.raises(IdClipError, match=r"changed\.safetensors was changed after it was written"):
            load_model(NAME, f"{base}+{rewritten(path, tmp_path, **changes)}")
    with pytest.raises(IdClipError, match="changed after it was written: its identity_cfg"):
        read_delta(rewritten(path, tmp_path, identity_cfg="{"))
    with pytest.raises(IdClipError, match=r"not a delta file of this version \(idclip-delta-1\)"):
        read_delta(rewritten(path, tmp_path, format="idclip-delta-9"))


def test_another_base_or_model_is_refused(trained, tiny_identity_models, tmp_path):
    import open_clip

    _, checkpoint, base, path = trained
    torch.manual_seed(9)
    other = tmp_path / "other.pt"
    torch.save(open_clip.create_model(tiny_identity_models[NAME]).state_dict(), other)
    with pytest.raises(
        IdClipError, match=r"trained on other base weights than .*other\.pt \(it names 'IdCLIP-ViT-tiny\.pt'\)"
    ):
        load_model(NAME, f"{other}+{path}")
    with pytest.raises(IdClipError, match=r"there is no file IdCLIP-ViT-tiny\.pt"):
        load_model(NAME, path)
    with pytest.raises(IdClipError, match="is the delta of a IdCLIP-ViT-tiny, not of a IdCLIP-RN-tiny"):
        load_model("IdCLIP-RN-tiny", f"{base}+{path}")
    with pytest.raises(IdClipError, match=r"epoch_1\.pt is not a delta file; give it alone"):
        load_model(NAME, f"{base}+{checkpoint}")


def test_export_refuses_what_has_no_delta(trained, plain_weights, tmp_path):
    _, checkpoint, base, _ = trained
    _, resnet = plain_weights("IdCLIP-RN-tiny")
    out = tmp_path / "out.safetensors"
    for arguments, message in (
        ((NAME, base, str(base)), "hold no adaptor"),
        ((NAME, checkpoint, str(checkpoint)), "hold an adaptor; give those of the plain CLIP"),
        ((NAME, checkpoint, str(resnet)), "are not of the trained model"),
        ((NAME, tmp_path / "missing.pt", str(base)), "there is no file"),
        (("ViT-B-32", checkpoint, str(base)), "is a plain model"),
    ):
        with pytest.raises(IdClipError, match=message):
            export_delta(*arguments, out)
    assert not out.exists()


def test_digests_know_values_not_precisions(plain_weights):
    plain, path = plain_weights(NAME)
    weights = read_weights(path)
    assert weights_digest(weights) == weights_digest(canonical(plain.state_dict()))
    half = {key: value.half() for key, value in weights.items()}
    assert weights_digest(half) == weights_digest({key: value.float() for key, value in half.items()})
    assert weights_digest(half) != weights_digest(weights)


def test_a_disguised_archive_is_not_unpickled(tiny_identity_models, tmp_path):
    """A file that only looks like TorchScript would be read by torch.load without `weights_only`."""
    import zipfile

    ran = tmp_path / "ran"

    class Harmful:
        def __reduce__(self):
            return (type(ran).touch, (ran,))

    plain, disguised = tmp_path / "plain.pt", tmp_path / "disguised.pt"
    torch.save({"state_dict": Harmful()}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(disguised, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr(f"{source.namelist()[0].partition('/')[0]}/more/constants.pkl", b"")
    with pytest.raises(IdClipError, match=r"disguised\.pt is (not a checkpoint of tensors|more than one archive)"):
        load_model(NAME, str(disguised))
    assert not ran.exists()
