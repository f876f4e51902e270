"""Plain and IdCLIP weights, in every layout that is around, through open_clip's own loader and through `load_model`."""

import ast
import logging

import pytest
import torch
from places import ROOT

from open_clip_idplugin.errors import IdClipError

pytestmark = pytest.mark.host

NAME = "IdCLIP-ViT-tiny"


@pytest.fixture(scope="module")
def plain(plain_weights):
    return plain_weights(NAME)[0]


@pytest.fixture
def fresh(tiny_identity_models):
    """A function: settings -> a new IdCLIP with seed 5, so that its initial values are known."""
    import open_clip

    def make(pretrained=None, **identity_cfg):
        torch.manual_seed(5)
        return open_clip.create_model(NAME, pretrained=pretrained, identity_cfg=identity_cfg)

    return make


def layout(kind: str, plain, folder) -> str:
    """Write the plain model's weights as people have them, and return the path."""
    import open_clip
    from safetensors.torch import save_file

    state = {key: value.clone() for key, value in plain.state_dict().items()}
    path = folder / f"{kind.replace(' ', '_')}.pt"
    if kind == "custom text":
        custom = open_clip.create_model("plain-ViT-tiny", force_custom_text=True)
        custom.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(state))
        state = custom.state_dict()
    elif kind == "open_clip_train":
        state = {
            "epoch": 3,
            "name": "run",
            "state_dict": {f"module.{key}": value for key, value in state.items()},
            "optimizer": {"state": {}, "param_groups": []},
        }
    elif kind == "openai":  # half precision, with scalars beside the weights
        state = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
        state |= {
            "input_resolution": torch.tensor(32),
            "context_length": torch.tensor(77),
            "vocab_size": torch.tensor(1),
        }
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({key: value.contiguous() for key, value in state.items()}, path)
        return str(path)
    torch.save(state, path)
    return str(path)


LAYOUTS = ["plain", "custom text", "open_clip_train", "openai", "safetensors"]


@pytest.mark.parametrize("kind", LAYOUTS)
@torch.no_grad()
def test_plain_weights_load_and_our_parts_keep_their_initial_values(plain, fresh, tmp_path, kind):
    path = layout(kind, plain, tmp_path)
    untouched, model = fresh(visual_prompts=2), fresh(path, visual_prompts=2)
    for name, value in model.named_parameters():
        if name.startswith(("text.adaptor.", "visual.prompts.")):
            assert torch.equal(value, untouched.get_parameter(name)), name
        else:
            key = name.removeprefix("text.")
            expected = plain.get_parameter(key)
            torch.testing.assert_close(
                value, expected, rtol=2e-3 if kind == "openai" else 0, atol=1e-4 * (kind == "openai")
            )


def test_a_plain_checkpoint_is_not_changed_by_loading(plain, fresh):
    import open_clip

    state = open_clip.model.convert_to_custom_text_state_dict(plain.state_dict())
    keys = list(state)
    assert fresh().load_state_dict(state).missing_keys == []
    assert list(state) == keys


def test_loading_through_a_wrapper_that_skips_load_state_dict(plain, fresh):
    import open_clip

    wrapper = torch.nn.ModuleDict({"module": fresh(visual_prompts=2)})
    state = open_clip.model.convert_to_custom_text_state_dict(plain.state_dict())
    wrapper.load_state_dict({f"module.{key}": value for key, value in state.items()})
    assert torch.equal(wrapper["module"].visual.conv1.weight, plain.visual.conv1.weight)


WRONG = {
    "a missing tower weight": lambda state: state.pop("visual.conv1.weight"),
    "a weight too many": lambda state: state.update(extra=torch.zeros(1)),
    "another width": lambda state: state.update({"text.ln_final.weight": torch.zeros(48)}),
    "part of the adaptor": lambda state: state.pop("text.adaptor.output.weight"),
    "another part of the adaptor": lambda state: state.pop("text.adaptor.hidden.0.weight"),
    "another face embedding": lambda state: state.update({"text.adaptor.hidden.0.weight": torch.zeros(768, 128)}),
    "prompts of another width": lambda state: state.update({"visual.prompts.tokens": torch.zeros(2, 31)}),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_checkpoints_fail(fresh, tmp_path, case):
    state = dict(fresh(visual_prompts=2).state_dict())
    WRONG[case](state)
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict"):
        fresh(visual_prompts=2).load_state_dict(state)
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict"):
        fresh(str(tmp_path / "wrong.pt"), visual_prompts=2)


def test_an_idclip_checkpoint_loads_whole(fresh, tmp_path):
    trained = fresh(visual_prompts=2)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "epoch_1.pt")
    for model in (fresh(str(tmp_path / "epoch_1.pt"), visual_prompts=2), fresh(str(tmp_path / "epoch_1.pt"))):
        assert model.state_dict().keys() == trained.state_dict().keys()
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_model_follows_the_weights(fresh):
    """A trained checkpoint loads by the model's name alone; only what the tokenizer depends on must match."""
    trained = fresh(visual_prompts=3, adaptor_layers=2, adaptor_bias=True, adaptor_hidden=96)
    model = fresh()
    model.load_state_dict(trained.state_dict())
    assert model.identity_cfg == trained.identity_cfg
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval().encode_image(images), trained.eval().encode_image(images))
    model.load_state_dict(fresh(visual_prompts=1).state_dict())
    assert model.visual.prompts.tokens.shape == (1, 32) and len(model.adaptor.hidden) == 1
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(fresh(tokens_per_identity=2).state_dict())


def test_prompts_can_be_added_to_a_trained_adaptor(fresh):
    trained, model = fresh(), fresh(visual_prompts=2)
    with torch.no_grad():
        trained.adaptor.output.weight.add_(1)
    model.load_state_dict(trained.state_dict())
    assert torch.equal(model.adaptor.output.weight, trained.adaptor.output.weight)
    assert torch.equal(model.visual.prompts.tokens, fresh(visual_prompts=2).visual.prompts.tokens)


def test_a_larger_image_resizes_positions(plain, tmp_path, tiny_identity_models):
    import open_clip

    path = layout("plain", plain, tmp_path)
    model = open_clip.create_model(NAME, pretrained=path, force_image_size=48, identity_cfg={"visual_prompts": 2})
    assert model.encode_image(torch.randn(1, 3, 48, 48)).shape == (1, 24)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_load_model_reads_all_layouts(plain, tmp_path, caplog, kind):
    from open_clip_idplugin import load_model

    with caplog.at_level(logging.WARNING, logger="open_clip_idplugin"):
        loaded = load_model(NAME, layout(kind, plain, tmp_path))
    assert "adaptor of IdCLIP-ViT-tiny is not trained" in caplog.text
    assert not loaded.model.training and loaded.name == NAME and loaded.device.type == "cpu"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_image(images), plain.encode_image(images), rtol=0.02, atol=0.02)
    from PIL import Image

    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_load_model_reads_torchscript_archives(plain, tmp_path):
    """As OpenAI published them; by this package and by the bare host."""
    import open_clip
    from weight_file_fixtures import openai_archive

    from open_clip_idplugin import load_model
    from open_clip_idplugin.checkpoints.loading import read_weights
    from open_clip_idplugin.storage.weight_files import TORCHSCRIPT, kind_of, weight_shapes

    path = openai_archive(plain.state_dict(), tmp_path / "ViT-tiny.pt")
    assert kind_of(path) == TORCHSCRIPT
    assert weight_shapes(path) == {key: tuple(value.shape) for key, value in plain.state_dict().items()}
    assert torch.equal(read_weights(path)["visual.proj"], plain.visual.proj)
    for model in (load_model(NAME, path).model, open_clip.create_model("plain-ViT-tiny", pretrained=str(path))):
        assert torch.equal(model.visual.proj, plain.visual.proj)
        assert torch.equal(model.visual.conv1.weight, plain.visual.conv1.weight)


def test_load_model_takes_shapes_from_the_checkpoint(fresh, tmp_path, faces):
    from open_clip_idplugin import load_model

    trained = fresh(visual_prompts=3, tokens_per_identity=2, face_dim=128, adaptor_layers=2)
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "e.pt"
    )
    loaded = load_model(NAME, str(tmp_path / "e.pt"))
    assert loaded.model.identity_cfg == trained.identity_cfg == loaded.tokenizer.identity_cfg
    text = loaded.tokenizer(["[TOK] runs"], faces=faces[0, :128])
    with torch.no_grad():
        assert torch.equal(loaded.model.encode_text(text), trained.eval().encode_text(text))


def test_nothing_in_this_project_unpickles_more_than_tensors():
    """By calls and by keywords, whatever they are called on; a process's own pickles between it and its workers apart."""
    own, loads, strays = ("spark_pool.py", "passing_faces.py"), 0, []
    for package in ("open_clip_idplugin", "training_patches", "webdataset_tools", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                loads += called == "torch.load"
                harmful = called in ("torch.jit.load", "joblib.load", "yaml.load", "pickle.load", "dill.load")
                harmful |= called == "pickle.loads" and path.name not in own
                harmful |= given.get("weights_only") == "False" or given.get("allow_pickle") == "True"
                harmful |= called == "torch.load" and given.get("weights_only") != "True"
                strays += [f"{path.name}:{node.lineno}"] * harmful
            text = path.read_text(encoding="utf-8")
            strays += [path.name] * ('weights_only"] = False' in text or '"weights_only": False' in text)
    assert loads >= 4 and strays == []


def test_load_model_without_weights_warns(tiny_identity_models, caplog):
    from open_clip_idplugin import load_model

    with caplog.at_level(logging.WARNING, logger="open_clip_idplugin"):
        assert load_model(NAME).checkpoint is None
    assert "random weights" in caplog.text


def test_load_model_of_a_plain_model(plain, tmp_path):
    from open_clip_idplugin import load_model

    loaded = load_model("plain-ViT-tiny", layout("plain", plain, tmp_path), precision="bf16")
    assert loaded.model.visual.proj.dtype == torch.bfloat16 and loaded.precision == "bf16"


def test_load_model_refuses_in_a_sentence(fresh, plain, tmp_path):
    from open_clip_idplugin import load_model

    text = tmp_path / "notes.pt"
    text.write_text("not weights")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 20)
    empty = tmp_path / "empty.pt"
    torch.save({"epoch": 1}, empty)
    objects = tmp_path / "objects.pt"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "config": pytest.approx(1)}, objects)
    state = dict(fresh().state_dict())
    state.pop("visual.conv1.weight")
    torch.save(state, tmp_path / "wrong.pt")
    foreign = dict(fresh().state_dict()) | {"text.positional_embedding": torch.zeros(77, 48)}
    torch.save(foreign, tmp_path / "foreign.pt")
    for arguments, message in [
        ((NAME, str(tmp_path / "foreign.pt")), "foreign.pt does not fit the model IdCLIP-ViT-tiny: "),
        ((NAME, str(tmp_path / "missing.pt")), "there is no file .*missing.pt, nor weights of that name"),
        ((NAME, str(text)), "notes.pt is not a checkpoint of tensors"),
        ((NAME, str(broken)), "broken.safetensors is not a safetensors file"),
        ((NAME, str(empty)), "empty.pt holds no tensors"),
        ((NAME, str(objects)), "objects.pt is not a checkpoint of tensors"),
        ((NAME, str(tmp_path / "wrong.pt")), "wrong.pt does not fit the model IdCLIP-ViT-tiny: .*conv1.weight"),
        (("IdCLIP-ViT-Z", None), "no model named 'IdCLIP-ViT-Z'; the identity models are IdCLIP-"),
        ((NAME, None, "cpu", "fp8"), "precision must be one of fp32"),
        ((NAME, None, "gpu"), "there is no device 'gpu' here"),
    ]:
        with pytest.raises(IdClipError, match=message):
            load_model(*arguments)


@pytest.mark.parametrize(
    ("model", "checkpoint", "words"),
    [
        (
            "ViT-B-32",
            "laion2b_s34b_b79k",
            r"ViT-B-32 \(laion2b\S+\) .*`hf download laion/CLIP-ViT-B-32\S+ open_clip_model",
        ),
        (
            "IdCLIP-ViT-B-32-quickgelu",
            "openai",
            r"`hf download timm/vit_base_patch32_clip_224.openai open_clip_model\.",
        ),
        ("ViT-B-32", "yfcc_none", r"no file yfcc_none, nor weights of that name for ViT-B-32 \(known: .*laion2b"),
    ],
)
def test_weights_that_are_not_here_are_one_sentence(monkeypatch, tmp_path, model, checkpoint, words):
    """Without a network and with an empty cache; conftest.py lets the hub know that it is offline."""
    import huggingface_hub.constants

    from open_clip_idplugin import load_model

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(IdClipError, match=words) as caught:
        load_model(model, checkpoint)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("identity", [True, False])
def test_a_tokenizer_that_is_not_here_is_one_sentence(monkeypatch, tiny_identity_models, identity):
    """Asked before the model is built. `load_model`, and the host's own function for models of ours."""
    import open_clip

    from open_clip_idplugin import load_model

    config = open_clip.get_model_config(NAME)
    config["text_cfg"] = {**config["text_cfg"], "hf_tokenizer_name": "nobody/no-such-tokenizer"}
    if not identity:
        config = {key: value for key, value in config.items() if key not in ("identity_cfg", "custom_text")}
    name = "IdCLIP-ViT-no-tokenizer" if identity else "no-tokenizer"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: pytest.fail("built first"))
    words = rf"^The tokenizer of {name} is not on this machine .*`hf download nobody/no-such-tokenizer` puts it into"
    with pytest.raises(IdClipError, match=words):
        load_model(name)
    with pytest.raises(IdClipError if identity else OSError, match=words if identity else None):
        open_clip.get_tokenizer(name)
