"""Weights that stay in their file: the same answers, from mapped memory."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("clip_retrieval")

from retrieval_fixtures import IDENTITY, tiny_models  # noqa: F401

from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.retrieval.service import heap, mapped_weights
from open_clip_idplugin.retrieval.service.mapped_weights import leave_weights_in_file


def lies_in(tensor: torch.Tensor, path: Path) -> bool:
    """Whether a tensor's memory is a mapping of a file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.endswith(str(path))
    return False


def encode(loaded) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        text = loaded.model.encode_text(loaded.tokenizer(["a horse", "two people"]))
        return [text, loaded.model.encode_image(torch.rand(2, 3, 32, 32, generator=generator))]


@pytest.fixture(params=["torch", "training", "safetensors"])
def checkpoint(request, tiny_models, tmp_path) -> Path:  # noqa: F811
    from safetensors.torch import save_file

    weights = torch.load(tiny_models.identity, weights_only=True)
    path = tmp_path / ("weights.safetensors" if request.param == "safetensors" else "epoch_3.pt")
    if request.param == "safetensors":
        save_file(weights, path)
    elif request.param == "training":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    else:
        torch.save(weights, path)
    return path


def test_every_weight_is_the_files_and_encodes_the_same(checkpoint):
    loaded = load_model(IDENTITY, str(checkpoint))
    before = encode(loaded)
    sizes = [parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters()]
    assert leave_weights_in_file(loaded) == sum(sizes)
    assert all(lies_in(parameter, checkpoint) for parameter in loaded.model.parameters())
    for one, other in zip(encode(loaded), before, strict=True):
        assert torch.equal(one, other)


def test_what_differs_from_the_file_stays_in_memory(checkpoint):
    loaded = load_model(IDENTITY, str(checkpoint))
    with torch.no_grad():
        loaded.model.logit_scale += 1
    changed = loaded.model.logit_scale.clone()
    leave_weights_in_file(loaded)
    assert torch.equal(loaded.model.logit_scale, changed) and not lies_in(loaded.model.logit_scale, checkpoint)


def test_a_delta_takes_its_base_from_the_base_file(tiny_models, tmp_path):  # noqa: F811
    from open_clip_idplugin.checkpoints.loading import export_delta

    delta = tmp_path / "delta.safetensors"
    export_delta(IDENTITY, tiny_models.identity, str(tiny_models.plain), delta)
    loaded = load_model(IDENTITY, f"{tiny_models.plain}+{delta}")
    before = encode(loaded)
    leave_weights_in_file(loaded)
    assert all(lies_in(parameter, tiny_models.plain) for parameter in loaded.model.visual.parameters())
    for one, other in zip(encode(loaded), before, strict=True):
        assert torch.equal(one, other)


def test_random_weights_and_others_stay_as_they_are(tiny_models):  # noqa: F811
    assert leave_weights_in_file(load_model(IDENTITY)) == 0
    assert leave_weights_in_file(load_model(IDENTITY, str(tiny_models.identity), precision="pure_bf16")) == 0


def test_heaps_are_limited_unless_the_environment_says_otherwise(monkeypatch):
    asked = []
    monkeypatch.setattr(heap, "_library", type("Library", (), {"mallopt": lambda *values: asked.append(values[1:])})())
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    heap.limit_heaps()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "16")
    heap.limit_heaps()
    assert asked == [(-8, max(2, heap.count_cores()))]


def test_a_file_that_is_replaced_while_it_is_compared_is_not_used(checkpoint, monkeypatch):
    loaded = load_model(IDENTITY, str(checkpoint))
    read = mapped_weights._mapped_tensors

    def replace_then_read(path):
        mapped = read(path)
        checkpoint.with_name("new").write_bytes(checkpoint.read_bytes())
        checkpoint.with_name("new").replace(checkpoint)
        return mapped

    monkeypatch.setattr(mapped_weights, "_mapped_tensors", replace_then_read)
    assert leave_weights_in_file(loaded) == 0
    assert not any(lies_in(parameter, checkpoint) for parameter in loaded.model.parameters())
