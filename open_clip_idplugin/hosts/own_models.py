"""Model configs from outside the package: a JSON file, a folder of them, an environment variable, entry points -> files, checked.

Role: which files describe a user's own models, and what such a file must hold. Imports neither torch nor open_clip, so that a
command line can ask whether a model takes faces before either is loaded; `registration` tells open_clip.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from open_clip_idplugin.assets import MODEL_CONFIGS
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError

GROUP = "open_clip_idplugin.model_configs"  # entry points: name = package (or package:attribute that is a path)
VARIABLE = "IDCLIP_MODEL_CONFIGS"  # files and folders, separated as in PATH
HOW_TO_ADD = "a model of your own is added with --model_config FILE.json (see docs/own_models.md)"
LARGEST = 1 << 20  # bytes of a config
FOLDER_PREFIX, FOLDER_CONFIG = "local-dir:", "open_clip_config.json"  # open_clip's, of model folders

_PARTS = ("embed_dim", "vision_cfg", "text_cfg")
_log = logging.getLogger(__name__)


def config_files(place: str | Path) -> list[Path]:
    """A JSON file, or all of a folder's in order of their names, as absolute paths; raises IdClipError where there is none."""
    path = Path(place).expanduser().absolute()
    if path.is_dir():
        files = sorted(file for file in path.glob("*.json") if file.is_file())
        if not files:
            raise IdClipError(f"the folder {place} holds no model config; a config is a file NAME.json.")
        return files
    if path.suffix != ".json" or not path.is_file():
        raise IdClipError(f"there is no model config {place}; give a file NAME.json, or a folder of such files.")
    return [path]


def read_config(path: Path) -> dict[str, Any]:
    """What a file describes, checked by `checked_config`; raises IdClipError for what is no JSON object or too large."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IdClipError(f"{path} is not a readable model config: {error}.") from error
    return checked_config(config, str(path))


def checked_config(config: Any, place: str) -> dict[str, Any]:
    """An open_clip model config, with an `identity_cfg` for a model that takes faces; raises IdClipError for anything else."""
    missing = [key for key in _PARTS if not isinstance(config, dict) or key not in config]
    if missing:
        raise IdClipError(f"the model config {place} lacks {', '.join(missing)}.")
    if not all(isinstance(config[key], dict) for key in _PARTS[1:]):
        raise IdClipError(f"the model config {place} needs objects as {' and '.join(_PARTS[1:])}.")
    if config.get("identity_cfg") is None:
        return dict(config)
    if not config.get("custom_text"):
        raise IdClipError(
            f'the model config {place} needs "custom_text": true, so that open_clip builds an IdCLIP from it.'
        )
    IdentityConfig.from_dict(config["identity_cfg"])
    return dict(config)


def known_config_files() -> Iterator[Path]:
    """Files that the environment variable and installed packages name; what cannot be read is logged and left out."""
    for place in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        yield from _files_or_warning(VARIABLE, functools.partial(Path, place))
    for entry in importlib.metadata.entry_points(group=GROUP):
        yield from _files_or_warning(
            f"the entry point {entry.name} = {entry.value}", functools.partial(_place_of, entry)
        )


def _place_of(entry: importlib.metadata.EntryPoint) -> str | Path:
    told = entry.load()
    return told if isinstance(told, (str, Path)) else str(importlib.resources.files(told))


def _files_or_warning(teller: str, place: Callable[[], str | Path]) -> list[Path]:
    try:
        return config_files(place())
    except Exception as error:  # whatever a package's import raises: open_clip must stay importable
        _log.warning("No model configs of %s: %s", teller, error)
        return []


def remember(files: list[Path]) -> None:
    """Let processes that are started from here know these files too: importing open_clip there registers them."""
    known = [place for place in os.environ.get(VARIABLE, "").split(os.pathsep) if place]
    new = [str(file) for file in files if str(file) not in known]
    if new:
        os.environ[VARIABLE] = os.pathsep.join([*known, *new])


def takes_faces(model: str, model_config: str | Path | None = None) -> bool:
    """Whether a model of this name is described with an `identity_cfg`: in `model_config`, by the package, or elsewhere.

    open_clip is asked where it is imported already. Raises IdClipError as `config_files` and `read_config` do.
    """
    named = [] if model_config is None else config_files(model_config)
    for path in [*named, MODEL_CONFIGS / f"{model}.json", *known_config_files()]:
        if path.stem == model and path.is_file():
            return takes_faces_by(read_config(path))
    if model.startswith(FOLDER_PREFIX):
        path = Path(model.removeprefix(FOLDER_PREFIX)) / FOLDER_CONFIG
        return path.is_file() and takes_faces_by(_folder_config(path))
    host = None if ":" in model else sys.modules.get("open_clip")
    return host is not None and takes_faces_by(host.get_model_config(model))


def _folder_config(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content.get("model_cfg", content)
    except (OSError, ValueError, AttributeError) as error:
        raise IdClipError(f"{path} is not the config of a model ({error}); get the folder again.") from None


def takes_faces_by(config: Any) -> bool:
    """Whether a model config is one of a model with identity tokens."""
    return isinstance(config, Mapping) and config.get("identity_cfg") is not None
