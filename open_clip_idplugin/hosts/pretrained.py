"""Pretrained tags: open_clip's table of them -> the same with the shipped IdCLIP models'; and what is said where one fails."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

from open_clip_idplugin.assets import MODEL_CONFIGS, shipped
from open_clip_idplugin.errors import IdClipError

PREFIX = "IdCLIP-"  # of the shipped models, whose pretrained tags are those of the plain model

# Names of the models that come with the package.
IDENTITY_MODELS: list[str] = sorted(path.stem for path in MODEL_CONFIGS.glob("*.json"))

# Plain models whose names cannot be ours with the prefix in front: open_clip would take these for another kind.
_PLAIN_NAMES = {"IdCLIP-ViT-B-16-sigmoid": "ViT-B-16-SigLIP"}

# Key by which the tags of our own models are told from the host's.
_OWN = "identity_model"
_SHIPPED_KEY = "shipped"
_SHIPPED_TAGS: dict[str, dict[str, dict[str, Any]]] = {
    "IdCLIP-ViT-miniature": {"miniature": {_SHIPPED_KEY: "miniature_clip.safetensors"}},
}


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

    return download_pretrained


def weights_missing(name: str, cfg: Mapping[str, Any], error: BaseException) -> IdClipError:
    """The sentence about a pretrained tag (open_clip's entry `cfg`) that is neither here nor to be had."""
    return IdClipError(
        f"The weights for {name} could not be downloaded ({type(error).__name__}); get {_file_to_provide(cfg)} "
        "and pass its path as `pretrained` (or `--pretrained`, `--checkpoint`)."
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
