"""open_clip's `get_tokenizer` -> the same with the tokenizers of IdCLIP models; a config's vocabulary -> its file."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_clip_idplugin.assets import WEIGHTS, shipped
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.tokenizer import IdentityTokenizer

_HUB, _LOCAL = "hf-hub:", "local-dir:"  # open_clip's; its version 2 knows the first only


def identity_tokenizer_or(original: Callable[..., Any]) -> Callable[..., Any]:
    """open_clip's get_tokenizer -> one that wraps the tokenizers of IdCLIP models (for the patch table)."""

    @functools.wraps(original)
    def get_tokenizer(
        model_name: str = "", context_length: int | None = None, cache_dir: str | None = None, **kwargs: Any
    ) -> Any:
        repository = model_name.removeprefix(_HUB) if model_name.startswith(_HUB) else None
        config = _model_config(model_name) if repository is None else _hub_config(repository, cache_dir)
        folder = Path(model_name.removeprefix(_LOCAL)) if model_name.startswith(_LOCAL) else None
        vocabulary = vocabulary_file(config, folder, repository, cache_dir)
        if vocabulary is not None:
            kwargs.setdefault("bpe_path", vocabulary)
        identity_cfg = (config or {}).get("identity_cfg")
        try:
            base = original(model_name, context_length, cache_dir, **kwargs)
        except (OSError, ImportError) as error:
            if identity_cfg is None:
                raise
            raise tokenizer_missing(model_name, config, error) from None
        if identity_cfg is None:
            return base
        return IdentityTokenizer(base, IdentityConfig.from_dict(identity_cfg), model_name)

    return get_tokenizer


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


def _model_config(model_name: str) -> dict[str, Any] | None:
    """open_clip's config of a model that is not on a hub; None where it has none (the host then says so)."""
    try:
        config: dict[str, Any] | None = importlib.import_module("open_clip.factory").get_model_config(model_name)
    except (OSError, ValueError):
        return None
    return config


def _hub_config(repository: str, cache_dir: str | None) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = importlib.import_module("open_clip.factory")._get_hf_config(repository, cache_dir)
    except (OSError, ValueError):
        return None
    return config.get("model_cfg")


def vocabulary_file(
    config: dict[str, Any] | None,
    folder: Path | None = None,
    repository: str | None = None,
    cache_dir: str | None = None,
) -> str | None:
    """The file that the `bpe_path` of an IdCLIP model's config means, None where it has none.

    A bare name is looked up in the model's folder, in the package's own files and in its hub repository, in this order.
    Raises IdClipError where it is nowhere.
    """
    if config is None or config.get("identity_cfg") is None:
        return None
    name = (config["text_cfg"].get("tokenizer_kwargs") or {}).get("bpe_path")
    if name is None or Path(name).is_absolute():
        return name
    if folder is not None and (folder / name).is_file():
        return str((folder / name).absolute())
    if repository is None or (WEIGHTS / name).is_file():
        return str(shipped(name))
    factory = importlib.import_module("open_clip.factory")
    return str(factory.download_pretrained_from_hf(repository, filename=name, cache_dir=cache_dir))
