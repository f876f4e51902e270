"""Makes open_clip know the IdCLIP models: model configs, pretrained tags, the model class and the tokenizer.

`register()` runs when open_clip is imported; it may be called any number of times, touches no other model, and can be
undone.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_clip_idplugin import host_patches
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.weights import shipped

PREFIX = "IdCLIP-"
_CONFIGS = Path(__file__).parent / "model_configs"
_MARK = "open_clip_idplugin_original"

# Names of the models that come with the package.
IDENTITY_MODELS: list[str] = sorted(path.stem for path in _CONFIGS.glob("*.json"))

# Plain models whose names cannot be ours with the prefix in front (see `_check_name`).
_PLAIN_NAMES = {"IdCLIP-ViT-B-16-sigmoid": "ViT-B-16-SigLIP"}

# Key by which the tags of our own models are told from the host's.
_OWN = "identity_model"
_SHIPPED = "shipped"
_SHIPPED_TAGS: dict[str, dict[str, dict[str, Any]]] = {
    "IdCLIP-ViT-miniature": {"miniature": {_SHIPPED: "miniature_clip.safetensors"}},
}

_added: dict[str, Path] = {}


def register() -> None:
    """Register the package's models with open_clip; raises HostMismatchError if open_clip is of an unknown make."""
    importlib.import_module("open_clip_idplugin.miniature_tower")  # timm learns the name that a config uses
    host_patches.apply(host_patches.OPEN_CLIP)
    for name in IDENTITY_MODELS:
        add_identity_model(_CONFIGS / f"{name}.json")


def unregister() -> None:
    """Undo `register` and every `add_identity_model` (for tests)."""
    factory = importlib.import_module("open_clip.factory")
    host_patches.restore(host_patches.OPEN_CLIP)
    for name, path in _added.items():
        # open_clip has a function that adds a config, but none that removes one.
        factory._MODEL_CONFIG_PATHS.remove(path)
        factory._MODEL_CONFIGS.pop(name, None)
    _added.clear()


def add_identity_model(path: str | Path) -> str:
    """Register an IdCLIP model from a JSON config file and return its name, the file's stem.

    The file is an open_clip model config with `"custom_text": true` and an `identity_cfg`. Raises IdClipError for any
    other file, and for names by which open_clip would take the model for another kind or that another model has.
    """
    path = Path(path).resolve()
    name = path.stem
    if _added.get(name) == path:
        return name
    _check_name(name)
    _check_config(path)
    open_clip = importlib.import_module("open_clip")
    if name in open_clip.list_models():
        raise IdClipError(f"open_clip already has a model named {name}; rename {path.name}.")
    open_clip.add_model_config(path)
    _added[name] = path
    return name


def _check_name(name: str) -> None:
    for substring in ("coca", "siglip"):
        if substring in name.lower():
            raise IdClipError(f"the model name {name} must not contain {substring!r}: open_clip would treat it as one.")


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IdClipError(f"{path} is not a readable model config: {error}.") from error
    wanted = ("embed_dim", "vision_cfg", "text_cfg", "identity_cfg")
    missing = [key for key in wanted if not isinstance(config, dict) or key not in config]
    if missing:
        raise IdClipError(f"the model config {path} lacks {', '.join(missing)}.")
    if not config.get("custom_text"):
        raise IdClipError(
            f'the model config {path} needs "custom_text": true, so that open_clip builds an IdCLIP from it.'
        )
    IdentityConfig.from_dict(config["identity_cfg"])


def with_identity_tags(tags: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """open_clip's table of pretrained tags -> the same with those of each plain model under its IdCLIP name as well."""
    extended = dict(tags)
    for name in IDENTITY_MODELS:
        plain = _PLAIN_NAMES.get(name, name.removeprefix(PREFIX))
        own = copy.deepcopy({**tags.get(plain, {}), **_SHIPPED_TAGS.get(name, {})})
        for entry in own.values():
            entry[_OWN] = name
        if own:
            extended[name] = own
    return extended


def download_with_remedy(original: Callable[..., Any]) -> Callable[..., Any]:
    """open_clip.factory's download_pretrained -> one that, for our models, says what to do when it fails."""
    if hasattr(original, _MARK):
        return original

    @functools.wraps(original)
    def download_pretrained(cfg: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if _OWN not in cfg:
            return original(cfg, *args, **kwargs)
        if _SHIPPED in cfg:
            return str(shipped(cfg[_SHIPPED]))
        try:
            return original(cfg, *args, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:
            raise weights_missing(cfg[_OWN], cfg, error) from error

    setattr(download_pretrained, _MARK, original)
    return download_pretrained


def weights_missing(name: str, cfg: Mapping[str, Any], error: BaseException) -> IdClipError:
    """The sentence about a pretrained tag (open_clip's entry `cfg`) that is neither here nor to be had."""
    return IdClipError(
        f"The weights for {name} could not be downloaded ({type(error).__name__}); get {_file_to_provide(cfg)} "
        "and pass its path as `pretrained` (or `--pretrained`, `--checkpoint`)."
    )


def tokenizer_missing(name: str, config: Mapping[str, Any] | None, error: BaseException) -> IdClipError:
    """The sentence about a tokenizer of a Hugging Face repository that is neither here nor to be had."""
    repository = (config or {}).get("text_cfg", {}).get("hf_tokenizer_name")
    if isinstance(error, ImportError) or repository is None:
        return IdClipError(
            f"The tokenizer of {name} cannot be made ({error}); `pip install transformers` where it lacks."
        )
    return IdClipError(
        f"The tokenizer of {name} is not on this machine and could not be downloaded ({type(error).__name__}); where there "
        f"is a network, `hf download {repository}` puts it into the cache of Hugging Face (HF_HOME), from where it is read."
    )


def _file_to_provide(cfg: Mapping[str, Any]) -> str:
    repository, _, filename = cfg.get("hf_hub", "").rpartition("/")
    filename = filename or "open_clip_model.safetensors"
    if repository:
        command = f"hf download {repository} {filename}"
        return (
            f"the file {filename} of the Hugging Face repository {repository} (`{command}`, where there is a network)"
        )
    return f"the file {cfg.get('url', '').rpartition('/')[2]} ({cfg.get('url', '')})"
