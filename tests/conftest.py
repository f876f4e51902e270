"""Fixtures for all tests: tiny models beside their plain counterparts, no network, one thread a process."""

import json
import os
import tempfile

from places import FIXTURES

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the numbers compared are the CPU's, also where there is a GPU
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub fails at once instead of retrying for a minute

import pytest

os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="idclip-tests-")  # no gallery or calibration of whoever runs them

MODEL_CONFIGS = FIXTURES / "model_configs"
FACE_DIM = 512


@pytest.fixture(scope="session")
def tiny_identity_models(tmp_path_factory) -> dict[str, str]:
    """Name of each tiny IdCLIP model -> name of the plain open_clip model with the same towers; both are registered."""
    import open_clip
    import torch

    import open_clip_idplugin

    torch.set_num_threads(1)
    plain_configs = tmp_path_factory.mktemp("plain_model_configs")
    pairs = {}
    for path in sorted(MODEL_CONFIGS.glob("IdCLIP-*.json")):
        name = open_clip_idplugin.add_identity_model(path)
        config = json.loads(path.read_text())
        del config["identity_cfg"]
        if not config["text_cfg"].get("proj_bias"):  # open_clip converts no other projection between its two layouts
            del config["custom_text"]
        pairs[name] = name.replace("IdCLIP-", "plain-")
        (plain_configs / f"{pairs[name]}.json").write_text(json.dumps(config))
    open_clip.add_model_config(plain_configs)
    return pairs


@pytest.fixture(scope="session")
def plain_weights(tiny_identity_models, tmp_path_factory):
    """A function: name of a tiny IdCLIP model -> (the plain model with random weights, a file with its state dict)."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("plain_weights")
    made = {}

    def make(name: str):
        if name not in made:
            torch.manual_seed(1)
            model = open_clip.create_model(tiny_identity_models[name]).eval()
            path = folder / f"{name}.pt"
            torch.save(model.state_dict(), path)
            made[name] = (model, path)
        return made[name]

    return make


@pytest.fixture
def faces():
    """Three unit face embeddings [3, 512] float32 (torch)."""
    import torch

    generator = torch.Generator().manual_seed(7)
    return torch.nn.functional.normalize(torch.randn(3, FACE_DIM, generator=generator), dim=-1)
