"""Makes open_clip know the IdCLIP models: model configs, pretrained tags, the model class and the tokenizer.

`register()` runs when open_clip is imported; it may be called any number of times, touches no other model, and can be
undone. Models of users enter by `add_models` alone (see `own_models` for where their configs come from).
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import patches
from open_clip_idplugin.hosts.open_clip_rows import OPEN_CLIP
from open_clip_idplugin.hosts.own_models import (
    HOW_TO_ADD,
    MODEL_CONFIGS,
    checked_config,
    config_files,
    known_config_files,
    read_config,
    remember,
    takes_faces_by,
)
from open_clip_idplugin.hosts.pretrained import IDENTITY_MODELS as IDENTITY_MODELS

_log = logging.getLogger(__name__)
_added: dict[str, Path | None] = {}  # name -> file, None for a config that came with weights


def register() -> None:
    """Register the package's models and those of users.

    Raises HostMismatchError if open_clip is of an unknown make; then, and after any other error, open_clip is as it was.
    """
    patches.verify(OPEN_CLIP)
    importlib.import_module("open_clip_idplugin.hosts.miniature_tower")  # timm learns the name that a config uses
    patches.apply(OPEN_CLIP)
    try:
        for name in IDENTITY_MODELS:
            add_identity_model(MODEL_CONFIGS / f"{name}.json")
    except Exception:
        unregister()
        raise
    for path in known_config_files():
        try:
            _add(path)
        except IdClipError as error:  # of somebody else's file; open_clip must stay importable
            _log.warning("%s", error)


def unregister() -> None:
    """Undo `register` and everything that was added since."""
    factory = importlib.import_module("open_clip.factory")
    patches.restore(OPEN_CLIP)
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
