"""A model name and a checkpoint -> a model that is ready to encode, with its preprocessing and tokenizer.

Checkpoints are plain CLIP weights, IdCLIP weights or open_clip_train's `epoch_N.pt`, as safetensors, torch files or
OpenAI's TorchScript archives, or the tag of pretrained weights; or a delta file (see `delta_files`), here or on a hub (see
`hub_files`), that names them, or both joined by a plus sign. Nothing in a file is run (see `weight_files`). The shape of our
own parts is read from the checkpoint where it holds them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.checkpoints import model_folders
from open_clip_idplugin.checkpoints.delta_files import (
    Delta,
    apply_delta,
    canonical,
    check_base,
    is_delta,
    read_delta,
    write_delta,
)
from open_clip_idplugin.checkpoints.hub_files import on_this_machine
from open_clip_idplugin.checkpoints.model_view import View, preprocessing_view, require_takes
from open_clip_idplugin.checkpoints.training_facts import facts_beside
from open_clip_idplugin.command_line.devices import AUTO, require_precision, resolve_device
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.pretrained import weights_missing
from open_clip_idplugin.hosts.registration import (
    add_config,
    add_models,
    model_config,
    own_config,
)
from open_clip_idplugin.hosts.tokenizers import tokenizer_missing
from open_clip_idplugin.storage.weight_files import first_lines, load_tensors, weight_shapes
from open_clip_idplugin.tokenizer import IdentityTokenizer
from open_clip_idplugin.weight_keys import config_of_weights, has_adaptor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode and what belongs to it.

    preprocess: PIL image -> float32 [3, H, W]. tokenizer: see IdentityTokenizer. name: open_clip's name of the model.
    checkpoint: what was loaded (a path or tag), or None. precision: see `devices.PRECISIONS`. face_model: id of the face
    model that it was trained with, None where that is not known. adaptor_loaded: whether the weights held an
    adaptor, so that it is not one of random numbers; False for a plain model.
    """

    model: torch.nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    tokenizer: Callable[..., Any]
    name: str
    checkpoint: str | None
    device: torch.device
    precision: str = "fp32"
    face_model: str | None = None
    adaptor_loaded: bool = True


def load_model(
    model: str,
    checkpoint: str | None = None,
    device: str | torch.device = AUTO,
    precision: str = "fp32",
    configs: str | Path | None = None,
) -> LoadedModel:
    """Build `model` with the weights of `checkpoint`: a file, a pretrained tag ("openai", "miniature"), None for random
    ones, a delta file, "hf-hub:OWNER/NAME" for that of a repository, or "BASE+DELTA" with another place of its base weights.
    A `model` "local-dir:FOLDER" is an exported folder, which holds its weights.

    configs: JSON file, or folder of them, that describes own models (see `registration.add_models`); what training noted
    beside a checkpoint, or a delta file holds, describes one too. Raises IdClipError for an unknown model, precision or
    device, a missing or unreadable file, and weights that do not fit.
    """
    if configs is not None:
        add_models(configs)
    if model.startswith(model_folders.PREFIX):
        return _load_folder(model, checkpoint, device, precision)
    checkpoint = checkpoint and on_this_machine(str(checkpoint))
    loaded = _load_named(model, checkpoint, device, precision)
    return loaded if checkpoint is None else replace(loaded, face_model=face_model_of(str(checkpoint)))


def _load_folder(model: str, checkpoint: str | None, device: str | torch.device, precision: str) -> LoadedModel:
    if checkpoint is not None:
        raise IdClipError(f"{model} holds its own weights; leave the checkpoint {checkpoint} out.")
    folder = model_folders.read_folder(Path(model.removeprefix(model_folders.PREFIX)))
    model_folders.require_unchanged(folder, read_weights(folder.weights))
    with model_folders.known_to_open_clip(folder) as name:
        loaded = _load_named(name, str(folder.weights), device, precision, preprocessing_view(folder.preprocess))
    if isinstance(loaded.tokenizer, IdentityTokenizer):
        loaded.tokenizer.model_name = model
    return replace(loaded, name=model, face_model=folder.note.facts.face_model if folder.note else None)


def _load_named(
    model: str,
    checkpoint: str | None,
    device: str | torch.device,
    precision: str,
    view: View | None = None,
) -> LoadedModel:
    """What open_clip knows by name. view: of the model, where the checkpoint is not the one to tell."""
    import open_clip

    config = described_model(model, checkpoint)
    require_precision(precision)
    settings: dict[str, Any] = {"precision": precision, "device": resolve_device(device)}
    pretrained, delta, adaptor_loaded = checkpoint and str(checkpoint), None, False
    if pretrained is None:
        _log.warning("%s has random weights: no checkpoint was given.", model)
    else:
        pretrained, delta = base_and_delta(model, str(checkpoint))
        path = checkpoint_path(model, pretrained)
        shapes = weight_shapes(path)
        adaptor_loaded = delta is not None or has_adaptor(shapes)
        settings |= _settings_of_weights(model, config, path, shapes, delta)
        view = _view_of_weights(pretrained, delta) if view is None else view
    view = view or {}
    require_takes(view, str(checkpoint))
    settings |= view
    tokenizer = _tokenizer(model, config, view.get("force_context_length"))
    try:
        built, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=pretrained, **settings)
        if delta is not None:
            apply_delta(delta, built)
    except (RuntimeError, AssertionError) as error:  # open_clip asserts what it resizes
        if checkpoint is None:
            raise
        raise IdClipError(
            f"the checkpoint {checkpoint} does not fit the model {model}: {first_lines(error)}"
        ) from error
    if isinstance(tokenizer, IdentityTokenizer):
        tokenizer = IdentityTokenizer(tokenizer.base, built.identity_cfg, model)
    named = None if checkpoint is None else str(checkpoint)
    return LoadedModel(
        built.eval(), preprocess, tokenizer, model, named, settings["device"], precision, adaptor_loaded=adaptor_loaded
    )


def _tokenizer(model: str, config: Mapping[str, Any], context_length: int | None) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(model, context_length=context_length)
    except (OSError, ImportError) as error:
        raise tokenizer_missing(model, config, error) from None


def export_delta(model: str, checkpoint: str | Path, base: str, output: str | Path) -> Delta:
    """Write the delta file of a trained checkpoint against `base`, the tag or file of the plain weights it began from.

    The file names a tag as it is and a file by its name alone: a delta is looked up beside its base. Raises IdClipError for
    what is no checkpoint of the model, and for another base.
    """
    config = described_model(model, str(checkpoint))
    if config.get("identity_cfg") is None:
        raise IdClipError(f"{model} is a plain model, which has no delta; give the name of an IdCLIP model.")
    identity_cfg = IdentityConfig.from_dict(config["identity_cfg"])
    trained = read_weights(checkpoint_path(model, str(checkpoint)))
    plain = read_weights(checkpoint_path(model, base))
    name = Path(base).name if Path(base).is_file() else base
    facts = facts_beside(checkpoint)
    return write_delta(
        output, model, trained, plain, name, identity_cfg, facts.face_model, facts.view, own_config(model)
    )


def face_model_of(checkpoint: str) -> str | None:
    """The face model that a checkpoint was trained with, by its delta file or by what stands beside it."""
    path = _own_file(checkpoint)
    if not Path(path).is_file():
        return None
    return read_delta(path).face_model if is_delta(path) else facts_beside(path).face_model


def _view_of_weights(pretrained: str, delta: Delta | None) -> View:
    """The view that a delta file holds, or that stands beside a file of weights; a tag's is the host's own affair."""
    if delta is not None:
        return delta.view
    return facts_beside(pretrained).view if Path(pretrained).is_file() else {}


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors under the names they have in an IdCLIP; raises IdClipError as `load_tensors` does."""
    weight_shapes(path)  # refuses what holds no tensors
    content = load_tensors(path)
    return canonical(content.get("state_dict", content))


def checkpoint_path(model: str, checkpoint: str) -> Path:
    """The file behind a path or a tag (which is downloaded); tags come first, as in open_clip."""
    import open_clip

    checkpoint = on_this_machine(checkpoint)
    tag = open_clip.get_pretrained_cfg(model, checkpoint)
    if tag:
        # Through the factory's name for it, which adds what to do when the download of one of our models fails.
        try:
            return Path(open_clip.factory.download_pretrained(tag))
        except IdClipError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise weights_missing(f"{model} ({checkpoint})", tag, error) from None
    if Path(checkpoint).is_file():
        return Path(checkpoint)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
    raise IdClipError(f"there is no file {checkpoint}, nor weights of that name for {model} (known: {tags}).")


def described_model(model: str, checkpoint: str | None) -> Mapping[str, Any]:
    """The config of a model; one that is not known here is taken from what its checkpoint carries.

    Raises IdClipError for an unknown model, and where the checkpoint carries another config than the one that is known here.
    """
    carried = {} if checkpoint is None else _carried_config(model, str(checkpoint))
    if not carried:
        return model_config(model)
    add_config(model, carried, str(checkpoint))
    config = model_config(model)
    # What an identity_cfg says is told by the weights, so that a file may change in it.
    other = sorted(key for key in {*config, *carried} - {"identity_cfg"} if config.get(key) != carried.get(key))
    if other:
        raise IdClipError(
            f"the checkpoint {checkpoint} was trained as another {model} than the one that is known here ({', '.join(other)} "
            "differ); give its own config with --model_config, under this name."
        )
    return config


def _carried_config(model: str, checkpoint: str) -> Mapping[str, Any]:
    """What stands in a delta file, or beside a checkpoint, about the config of a user's own model of this name."""
    path = _own_file(checkpoint)
    if not Path(path).is_file():
        return {}
    told = read_delta(path) if is_delta(path) else facts_beside(path)
    return told.config if told.model == model else {}


def base_and_delta(model: str, checkpoint: str) -> tuple[str, Delta | None]:
    """A checkpoint as given -> the tag or path of weights that open_clip loads, and the delta to put on them.

    Raises IdClipError for the delta of another model or of other base weights.
    """
    base, delta = split_checkpoint(model, checkpoint)
    if delta is not None:
        check_base(delta, read_weights(checkpoint_path(model, base)), _own_file(checkpoint), base)
    return base, delta


def _own_file(checkpoint: str) -> str:
    """The path of a checkpoint without the base that it may name; a tag stays."""
    checkpoint = on_this_machine(checkpoint)
    return checkpoint if Path(checkpoint).is_file() else checkpoint.rpartition("+")[2]


def split_checkpoint(model: str, checkpoint: str) -> tuple[str, Delta | None]:
    """As `base_and_delta`, without a look at the base weights."""
    checkpoint = on_this_machine(checkpoint)
    base, plus, path = checkpoint.rpartition("+")
    if Path(checkpoint).is_file() or not (plus and Path(path).is_file()):
        base, path = "", checkpoint
    if not (Path(path).is_file() and is_delta(path)):
        if base:
            raise IdClipError(f"{path} is not a delta file; give it alone, without {base}+ in front.")
        return checkpoint, None
    delta = read_delta(path)
    if delta.model != model:
        raise IdClipError(f"{path} is the delta of a {delta.model}, not of a {model}; load it as that.")
    beside = Path(path).parent / delta.base
    return base or (str(beside) if beside.is_file() else delta.base), delta


def _settings_of_weights(
    model: str, config: Mapping[str, Any], path: Path, shapes: Mapping[str, tuple[int, ...]], delta: Delta | None
) -> dict[str, Any]:
    """Arguments for open_clip's factory that depend on the checkpoint at `path`, whose tensors have these `shapes`."""
    settings: dict[str, Any] = {}
    if delta is not None:
        settings["identity_cfg"] = delta.identity_cfg.to_dict()
    elif config.get("identity_cfg") is not None:
        settings["identity_cfg"] = config_of_weights(shapes, IdentityConfig.from_dict(config["identity_cfg"])).to_dict()
        if not has_adaptor(shapes):
            _log.warning("%s holds plain CLIP weights: the adaptor of %s is not trained.", path, model)
    return settings
