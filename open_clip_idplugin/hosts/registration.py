"""Makes open_clip know the IdCLIP models: model configs, pretrained tags, the model class and the tokenizer.

`register()` runs when open_clip is imported; it may be called any number of times, touches no other model, and can be
undone. Models of users enter by `add_models` alone (see `own_models` for where their configs come from).
"""

from __future__ import annotations

import copy
import functools
import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.own_models import (
    HOW_TO_ADD,
    SHIPPED,
    checked_config,
    config_files,
    read_config,
    remember,
    takes_faces_by,
    told_files,
)
from open_clip_idplugin.weights import shipped

PREFIX = "IdCLIP-"  # of the shipped models, whose pretrained tags are those of the plain model
_MARK = "open_clip_idplugin_original"

# Names of the models that come with the package.
IDENTITY_MODELS: list[str] = sorted(path.stem for path in SHIPPED.glob("*.json"))

# Plain models whose names cannot be ours with the prefix in front (see `_check_name`).
_PLAIN_NAMES = {"IdCLIP-ViT-B-16-sigmoid": "ViT-B-16-SigLIP"}

# Key by which the tags of our own models are told from the host's.
_OWN = "identity_model"
_SHIPPED_KEY = "shipped"
_SHIPPED_TAGS: dict[str, dict[str, dict[str, Any]]] = {
    "IdCLIP-ViT-miniature": {"miniature": {_SHIPPED_KEY: "miniature_clip.safetensors"}},
}

_log = logging.getLogger(__name__)
_added: dict[str, Path | None] = {}  # name -> file, None for a config that came with weights


def register() -> None:
    """Register the package's models and those of users; raises HostMismatchError if open_clip is of an unknown make."""
    importlib.import_module("open_clip_idplugin.miniature_tower")  # timm learns the name that a config uses
    host_patches.apply(host_patches.OPEN_CLIP)
    for name in IDENTITY_MODELS:
        add_identity_model(SHIPPED / f"{name}.json")
    for path in told_files():
        try:
            _add(path)
        except IdClipError as error:  # of somebody else's file; open_clip must stay importable
            _log.warning("%s", error)


def unregister() -> None:
    """Undo `register` and everything that was added since (for tests)."""
    factory = importlib.import_module("open_clip.factory")
    host_patches.restore(host_patches.OPEN_CLIP)
    for name, path in _added.items():
        # open_clip has a function that adds a config, but none that removes one.
        if path is not None:
            factory._MODEL_CONFIG_PATHS.remove(path)
        factory._MODEL_CONFIGS.pop(name, None)
    _added.clear()


def add_models(place: str | Path) -> list[str]:
    """Register the models of a JSON config file, or of a folder of them, and return their names, the files' stems.

    The files are open_clip model configs, of plain models too; processes that are started from here know them as well.
    Raises IdClipError as `add_identity_model` does.
    """
    files = config_files(place)
    names = [_add(path) for path in files]
    remember(files)
    return names


def add_identity_model(path: str | Path) -> str:
    """Register an IdCLIP model from a JSON config file and return its name, the file's stem.

    The file is an open_clip model config with `"custom_text": true` and an `identity_cfg`. Raises IdClipError for any
    other file, and for names by which open_clip would take the model for another kind or that another model has.
    """
    path = Path(path).resolve()
    if _added.get(path.stem) != path and not takes_faces_by(read_config(path)):
        raise IdClipError(f"the model config {path} lacks identity_cfg.")
    return _add(path)


def add_config(name: str, config: Mapping[str, Any], place: str) -> None:
    """Register a model by what was kept of its config beside weights (`place`); one that is known already stays as it is."""
    import open_clip

    if open_clip.get_model_config(name) is not None:
        return
    checked = checked_config(config, place)
    _check_name(name, checked)
    # No public door takes a config that is no file.
    importlib.import_module("open_clip.factory")._MODEL_CONFIGS[name] = copy.deepcopy(checked)
    _added[name] = None


def own_config(name: str) -> dict[str, Any] | None:
    """The config of a user's own model; None for models that every installation knows."""
    import open_clip

    if name in IDENTITY_MODELS or name not in _added:
        return None
    config: dict[str, Any] | None = open_clip.get_model_config(name)
    return config


def model_config(name: str) -> dict[str, Any]:
    """open_clip's config of a model; raises IdClipError for an unknown name, with how to add one."""
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(name)
    if config is None:
        known = ", ".join(
            known for known in open_clip.list_models() if takes_faces_by(open_clip.get_model_config(known))
        )
        raise IdClipError(f"there is no model named {name!r}; the identity models are {known}; {HOW_TO_ADD}.")
    return config


def _add(path: Path) -> str:
    open_clip = importlib.import_module("open_clip")
    path = path.resolve()
    name = path.stem
    if _added.get(name) == path:
        return name
    config = read_config(path)
    _check_name(name, config)
    if name in open_clip.list_models():
        if name in _added and open_clip.get_model_config(name) == config:
            return name  # the same model from another place
        raise IdClipError(f"open_clip already has a model named {name}; rename {path.name}.")
    open_clip.add_model_config(path)
    _added[name] = path
    return name


def _check_name(name: str, config: Mapping[str, Any]) -> None:
    for substring in ("coca", "siglip"):
        if takes_faces_by(config) and substring in name.lower():
            raise IdClipError(f"the model name {name} must not contain {substring!r}: open_clip would treat it as one.")


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
        if _SHIPPED_KEY in cfg:
            return str(shipped(cfg[_SHIPPED_KEY]))
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
