"""`benchmarks/training.py` at tiny shapes: the parts that compare towers run, in low precision too, on a CPU."""

import importlib.util
import json
import re

import pytest
import torch
from places import ROOT
from training_fixtures import variants

from open_clip_idplugin.errors import IdClipError

SHAPE = "ViT-benchmark-test"
TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The script as a module; its tiny shape is registered."""
    import open_clip

    from open_clip_idplugin import add_identity_model

    folder = tmp_path_factory.mktemp("shapes")
    for name, more in ((f"IdCLIP-{SHAPE}", {"custom_text": True, "identity_cfg": {}}), (SHAPE, {})):
        (folder / f"{name}.json").write_text(json.dumps(TOWERS | more))
    add_identity_model(folder / f"IdCLIP-{SHAPE}.json")
    open_clip.add_model_config(folder / f"{SHAPE}.json")
    path = ROOT / "benchmarks" / "training.py"
    spec = importlib.util.spec_from_file_location("training_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # as Python does for a script
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("precision", ["fp32", *variants("bf16"), "amp_bf16"])
@pytest.mark.parametrize(("part", "figures"), [("step", 4), ("cache", 1), ("memory", 1)])
def test_a_part_prints_its_ratios(benchmark, capsys, part, figures, precision):
    benchmark.main(["--only", part, "--shapes", SHAPE, "--rounds", "1", "--batch-size", "2", "--precision", precision])
    machine, *lines = capsys.readouterr().out.splitlines()
    assert json.loads(machine)["precision"] == precision
    ratios = [float(found[1]) for line in lines if (found := re.search(r": (\d+\.\d+) \(", line))]
    assert len(ratios) == figures and all(ratio > 0 for ratio in ratios)
    assert any("samples a second from cached features" in line for line in lines) == (part == "cache")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_in_a_sentence(benchmark):
    with pytest.raises(IdClipError, match="there is no device 'cuda' here"):
        benchmark.main(["--device", "cuda", "--precision", "bf16"])
