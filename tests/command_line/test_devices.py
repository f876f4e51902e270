"""`--device` and `--precision`: one rule each, for images and texts."""

import ast
import dataclasses

import numpy as np
import pytest
import torch
from places import ROOT

from open_clip_idplugin.command_line.devices import AUTO, autocast, resolve_device
from open_clip_idplugin.errors import IdClipError


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_torch_has_one(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve_device() == resolve_device("auto") == torch.device(chosen)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "0", "", "meta", "CPU", torch.device("cuda:99")])
def test_a_device_that_is_not_there_is_one_sentence(device):
    with pytest.raises(
        IdClipError, match=r"^there is no device '.*' here \(torch has cpu.*\); use auto, or one of those\.$"
    ):
        resolve_device(device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_a_device_by_name(device):
    assert resolve_device(device).type == "cpu"


def devices_with_defaults(tree: ast.AST):
    """(line, default) of every parameter and dataclass field that names a device."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = node.args.args + node.args.kwonlyargs
            defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + node.args.defaults
            pairs = [(argument.arg, value) for argument, value in zip(given, defaults + node.args.kw_defaults)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            pairs = [(node.target.id, node.value)]
        else:
            continue
        yield from ((node.lineno, value) for name, value in pairs if name in ("device", "spark_device") and value)


def test_every_device_is_automatic_unless_given():
    found = []
    for package in ("open_clip_idplugin", "webdataset_tools", "training_patches"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [(f"{path.name}:{line}", value) for line, value in devices_with_defaults(tree)]
    found = [(place, value) for place, value in found if ast.unparse(value) != "None"]  # a tensor's own .to()
    assert len(found) >= 10  # index, index_add, search, serve, evaluate, load_model, ...
    assert [place for place, value in found if ast.unparse(value) != "AUTO"] == []
    assert AUTO == "auto"


@pytest.fixture(scope="module")
def loaded(tiny_identity_models):
    from open_clip_idplugin import load_model

    torch.manual_seed(3)
    return load_model("IdCLIP-ViT-tiny", device="cpu")


@pytest.mark.parametrize("precision", ["fp32", "amp", "amp_bf16"])
def test_images_and_texts_are_computed_in_the_same_numbers(loaded, precision):
    """An index (`Towers`), and evaluation and queries (`QueryEncoder`), give the same vectors, in the numbers of training."""
    from open_clip_train.precision import get_autocast

    from open_clip_idplugin.queries.query_encoder import QueryEncoder
    from open_clip_idplugin.queries.towers import Towers

    low = dataclasses.replace(loaded, precision=precision)
    towers, encoder = Towers(low), QueryEncoder(low)
    images, texts = torch.randn(2, 3, 32, 32), ["a horse", "two people at sea"]
    seen = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
        for module in loaded.model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    with torch.inference_mode():
        ours = [unit(towers.encode_image(images)), unit(towers.encode_text(loaded.tokenizer(texts)))]
        theirs = [encoder.encode_images([images]), encoder.encode(texts)]
        with get_autocast(precision, device_type="cpu")():
            host = [unit(loaded.model.encode_image(images)), unit(loaded.model.encode_text(loaded.tokenizer(texts)))]
    for hook in hooks:
        hook.remove()
    expected = {"fp32": torch.float32, "amp": torch.float16, "amp_bf16": torch.bfloat16}[precision]
    assert set(seen) == {expected}
    for one, other, training in zip(ours, theirs, host, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        np.testing.assert_allclose(one, training, atol=1e-6)


def unit(features: torch.Tensor) -> np.ndarray:
    """Rows of length 1."""
    return torch.nn.functional.normalize(features.float(), dim=-1).numpy()


def test_no_autocast_where_the_weights_are_low():
    with autocast(torch.device("cpu"), "pure_bf16"):
        assert not torch.is_autocast_enabled("cpu")
