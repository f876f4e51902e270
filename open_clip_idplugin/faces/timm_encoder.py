"""timm adapter: a model's name and a local checkpoint -> face embeddings, on the GPU where torch has one.

Role: engine kind `timm`, an encoder without a detector. `<name>@<checkpoint>` takes the input size, mean and deviation
from timm's configuration of that name; a folder in the form of timm's hub (`config.json` beside the weights) brings its
own. The model's output is the embedding: the head's where the checkpoint has one, else the pooled features.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.command_line.devices import AUTO, resolve_device
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.engine import EngineOptions
from open_clip_idplugin.faces.errors import (
    EngineUnknown,
    ModelUnreadable,
    PackEmpty,
    PackInvalid,
    PackNotFound,
    ProviderUnavailable,
)
from open_clip_idplugin.faces.licences import UNKNOWN_LICENCE, announce
from open_clip_idplugin.faces.model_identity import ModelIdentity, description_hash, weights_hash
from open_clip_idplugin.storage.weight_files import TORCHSCRIPT, kind_of

if TYPE_CHECKING:
    import torch

_CONFIG_FILE = "config.json"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_BATCH, _GPU_BATCH = 32, 256
_MOST_OUTPUTS = 4096  # more is a classifier of a training set's people, not an embedding
_FORM = "give timm:<name>@<checkpoint file> or timm:<folder with config.json and the weights>"


@dataclass(frozen=True)
class _Recipe:
    """What to build and what to fill it with."""

    architecture: str
    checkpoint: Path
    model_options: Mapping[str, Any] = field(default_factory=dict)
    input_options: Mapping[str, Any] = field(default_factory=dict)  # timm's input_size, mean, std
    outputs: int | None = None  # None: as the checkpoint's head has them


class TimmEncoder:
    """A timm model; crops are scaled as its configuration says."""

    fixed_batch = False

    def __init__(self, model: "torch.nn.Module", config: Mapping[str, Any], model_id: str, device: "torch.device"):
        import torch

        self._model = model.to(device).eval()
        self._device = device
        self.model_id = model_id
        self.batch = _BATCH if device.type == "cpu" else _GPU_BATCH
        self.crop_size = int(config["input_size"][-1])
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(config["mean"], device=device).reshape(shape) * 255
        self._deviation = torch.tensor(config["std"], device=device).reshape(shape) * 255
        self.embedding_size = int(self.encode([np.zeros((self.crop_size, self.crop_size, 3), np.uint8)]).shape[1])

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops -> [N, D] float32, not normalised."""
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(crops)).to(self._device).permute(0, 3, 1, 2).float()
            return self._model((pixels - self._mean) / self._deviation).float().cpu().numpy()


def load_encoder(name: str, options: EngineOptions) -> TimmEncoder:
    """Build the model and fill it from the local checkpoint; nothing is downloaded."""
    import torch

    recipe = _recipe(name)
    device = _device(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model, config = _build(recipe)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise PackInvalid(
            f"The timm model {recipe.architecture} takes {channels}x{height}x{width} inputs; faces need square RGB ones."
        )
    described = description_hash({key: config[key] for key in ("input_size", "mean", "std")})
    model_id = str(ModelIdentity("timm", recipe.architecture, weights_hash(recipe.checkpoint) + described))
    try:
        encoder = TimmEncoder(model, config, model_id, device)
    except (RuntimeError, AssertionError, IndexError) as error:  # whatever its layers raise on a picture
        raise PackInvalid(
            f"The timm model {recipe.architecture} gives no embedding for a {height}-pixel crop ({_short(error)})."
        ) from error
    announce(f"Face encoder {model_id!r}", UNKNOWN_LICENCE)
    return encoder


def _recipe(name: str) -> _Recipe:
    architecture, separator, checkpoint = name.partition("@")
    if separator:
        if not architecture or not checkpoint:
            raise EngineUnknown(f"The face encoder 'timm:{name}' is incomplete; {_FORM}.")
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise PackNotFound(f"There is no checkpoint {path} of the face encoder {architecture}; {_FORM}.")
        return _Recipe(architecture, path)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise PackNotFound(f"The face encoder 'timm:{name}' names no checkpoint and no folder; {_FORM}.")
    return _read_folder(folder)


def _read_folder(folder: Path) -> _Recipe:
    """timm's hub layout: the configuration names the architecture, its options and its input."""
    weights = [folder / file for file in _WEIGHT_FILES if (folder / file).is_file()]
    if not weights or not (folder / _CONFIG_FILE).is_file():
        raise PackEmpty(f"The folder {folder} lacks {_CONFIG_FILE} or the weights ({' or '.join(_WEIGHT_FILES)}).")
    try:
        values = json.loads((folder / _CONFIG_FILE).read_text())
        config = values.get("pretrained_cfg", values)  # older folders hold the configuration itself
        inputs = {key: config[key] for key in ("input_size", "mean", "std") if key in config}
        outputs = values.get("num_classes")
        return _Recipe(values["architecture"], weights[0], values.get("model_args", {}), inputs, outputs)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelUnreadable(
            f"{folder / _CONFIG_FILE} is no configuration of a timm model ({_short(error)})."
        ) from error


def _device(options: EngineOptions) -> "torch.device":
    """The GPU where torch has one, unless the providers name the CPU alone."""
    import torch

    wants_gpu = any(provider.startswith("CUDA") for provider in options.providers or ())
    if wants_gpu and not torch.cuda.is_available():
        raise ProviderUnavailable(
            "torch finds no CUDA device here; leave the CUDA provider out or install torch for it."
        )
    return resolve_device("cuda" if wants_gpu else AUTO if options.providers is None else "cpu")


def _build(recipe: _Recipe) -> tuple["torch.nn.Module", Mapping[str, Any]]:
    """The model with the checkpoint's weights, and its input configuration."""
    import timm
    from timm.data import resolve_model_data_config
    from timm.models import load_state_dict

    if not timm.is_model(recipe.architecture.partition(".")[0]):
        raise EngineUnknown(f"timm has no model {recipe.architecture!r}; `timm.list_models()` names them.")
    try:
        if kind_of(recipe.checkpoint) == TORCHSCRIPT:  # torch before 2.6 would run it
            raise IdClipError("it is a TorchScript program")
        weights = load_state_dict(str(recipe.checkpoint), weights_only=True)
    except Exception as error:  # unpickling and safetensors raise what they like on a damaged file
        raise ModelUnreadable(f"The checkpoint {recipe.checkpoint} cannot be read ({_short(error)}).") from error
    try:
        bare = timm.create_model(recipe.architecture, pretrained=False, num_classes=0, **recipe.model_options)
        outputs = _head_size(bare, weights) if recipe.outputs is None else recipe.outputs
        if outputs > _MOST_OUTPUTS:
            raise PackInvalid(
                f"The checkpoint {recipe.checkpoint} ends in a head of {outputs:,} outputs, a classifier of people and no "
                "embedding; save it without the head."
            )
        model = bare
        if outputs:
            model = timm.create_model(
                recipe.architecture, pretrained=False, num_classes=outputs, **recipe.model_options
            )
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelUnreadable(
            f"The checkpoint {recipe.checkpoint} does not fit the timm model {recipe.architecture} ({_short(error)})."
        ) from error
    return model, {**resolve_model_data_config(model), **recipe.input_options}


def _head_size(model: "torch.nn.Module", weights: Mapping[str, Any]) -> int:
    """Outputs of the checkpoint's head, 0 when it has none."""
    heads = getattr(model, "pretrained_cfg", {}).get("classifier")
    head = heads[0] if isinstance(heads, (tuple, list)) else heads
    weight = weights.get(f"{head}.weight")
    return 0 if weight is None else int(weight.shape[0])


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:2]) or type(error).__name__)[:200].rstrip(".")
