"""A model name and a checkpoint -> a model that is ready to encode, with its preprocessing and tokenizer.

Checkpoints are plain CLIP weights, IdCLIP weights or open_clip_train's `epoch_N.pt`, as safetensors, torch files or
OpenAI's TorchScript archives, or the tag of pretrained weights. Only tensors are unpickled. The shape of the adaptor
and the number of visual prompts are read from the checkpoint where it holds them.
"""

from __future__ import annotations

import inspect
import logging
import pickle
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.tokenizer import IdentityTokenizer
from open_clip_idplugin.weight_keys import config_of_weights, has_adaptor

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16", "amp", "amp_bf16")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode and what belongs to it.

    preprocess: PIL image -> float32 [3, H, W]. tokenizer: see IdentityTokenizer. name: open_clip's name of the model.
    checkpoint: what was loaded (a path or tag), or None. precision: see PRECISIONS.
    """

    model: torch.nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    tokenizer: Callable[..., Any]
    name: str
    checkpoint: str | None
    device: torch.device
    precision: str = "fp32"


def load_model(
    model: str, checkpoint: str | None = None, device: str | torch.device = "cpu", precision: str = "fp32"
) -> LoadedModel:
    """Build `model` with the weights of `checkpoint`: a file, a pretrained tag ("openai", "miniature") or None for
    random ones.

    Raises IdClipError for an unknown model, precision or device, a missing or unreadable file, and weights that do
    not fit.
    """
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        known = ", ".join(name for name in open_clip.list_models() if name.startswith("IdCLIP-"))
        raise IdClipError(f"there is no model named {model!r}; the identity models are {known}.")
    if precision not in PRECISIONS:
        raise IdClipError(f"the precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    settings: dict[str, Any] = {"precision": precision, "device": _device(device)}
    if checkpoint is None:
        _log.warning("%s has random weights: no checkpoint was given.", model)
    else:
        checkpoint = str(checkpoint)
        settings |= _settings_of_weights(model, config, _checkpoint_path(model, checkpoint))
    try:
        built, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=checkpoint, **settings)
    except RuntimeError as error:
        if checkpoint is None:
            raise
        raise IdClipError(
            f"the checkpoint {checkpoint} does not fit the model {model}: {_first_lines(error)}"
        ) from error
    tokenizer = open_clip.get_tokenizer(model)
    if isinstance(tokenizer, IdentityTokenizer):
        tokenizer = IdentityTokenizer(tokenizer.base, built.identity_cfg, model)
    return LoadedModel(built.eval(), preprocess, tokenizer, model, checkpoint, settings["device"], precision)


def weight_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's tensors by state-dict key; the tensors themselves are not read where the format allows.

    Empty for TorchScript archives. Raises IdClipError if the file is not a checkpoint or holds more than tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _safetensors_shapes(path)
    if is_torchscript(path):
        return {}
    try:
        content = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise IdClipError(
            f"{path} is not a checkpoint of tensors ({_first_lines(error, 1)}); save the model's state_dict alone."
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    shapes = {str(key): tuple(value.shape) for key, value in weights.items() if isinstance(value, torch.Tensor)}
    if not shapes:
        raise IdClipError(f"{path} holds no tensors; give a file with a model's state_dict.")
    return {key.removeprefix("module."): shape for key, shape in shapes.items()}


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, the form in which OpenAI published its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except safetensors.SafetensorError as error:
        raise IdClipError(f"{path} is not a safetensors file: {error}.") from error


def _checkpoint_path(model: str, checkpoint: str) -> Path:
    """The file behind a path or a tag (which is downloaded); tags come first, as in open_clip."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(model, checkpoint)
    if tag:
        # Through the factory's name for it, which adds what to do when the download fails.
        return Path(open_clip.factory.download_pretrained(tag))
    if Path(checkpoint).is_file():
        return Path(checkpoint)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
    raise IdClipError(f"there is no file {checkpoint}, nor weights of that name for {model} (known: {tags}).")


def _settings_of_weights(model: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Arguments for open_clip's factory that depend on the checkpoint."""
    import open_clip

    settings: dict[str, Any] = {}
    shapes = weight_shapes(path)
    if config.get("identity_cfg") is not None:
        settings["identity_cfg"] = config_of_weights(shapes, IdentityConfig.from_dict(config["identity_cfg"])).to_dict()
        if not has_adaptor(shapes):
            _log.warning("%s holds plain CLIP weights: the adaptor of %s is not trained.", path, model)
    if is_torchscript(path):
        # open_clip 3 renamed this. Nothing is unpickled: torch.load hands such archives to torch.jit.load.
        known = inspect.signature(open_clip.create_model_and_transforms).parameters
        settings["weights_only" if "weights_only" in known else "load_weights_only"] = False
    return settings


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise IdClipError(f"there is no device {device!r}; use cpu, cuda or cuda:0.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise IdClipError("no CUDA device is available; use the device cpu.")
    return chosen


def _first_lines(error: BaseException, count: int = 4) -> str:
    """An error's message on one line of a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(" ".join(lines[:count]) or type(error).__name__, 400)
