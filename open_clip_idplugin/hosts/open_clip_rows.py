"""Rows of the patch table for open_clip's models: the model class, the tokenizer, pretrained tags and the reading of weights.

The model and the tokenizer import torch and open_clip, which is being imported when the rows are applied: they are imported
by what takes their place.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_clip_idplugin.hosts.patches import PatchRow
from open_clip_idplugin.hosts.pretrained import download_with_remedy, with_identity_tags

_log = logging.getLogger(__name__)


def identity_model_or(original: Callable[..., Any]) -> Callable[..., Any]:
    """open_clip.factory's CustomTextCLIP -> one that makes an IdCLIP of configs with an `identity_cfg`."""

    @functools.wraps(original, updated=())
    def custom_text_clip(*args: Any, identity_cfg: Any = None, **settings: Any) -> Any:
        if identity_cfg is None:
            return original(*args, **settings)
        from open_clip_idplugin.model import IdCLIP  # whose parts may be what imports open_clip, and are not whole then

        _warn_of_training_without_faces()
        return functools.partial(IdCLIP, identity_cfg=identity_cfg)(*args, **settings)

    return custom_text_clip


@functools.cache  # once a process
def _warn_of_training_without_faces() -> None:
    """Say what open_clip's own training command leaves out, where this process is that command (the first rank says it)."""
    import torch

    main = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    distributed = torch.distributed
    first = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
    if main.parts[-2:] == ("open_clip_train", "main.py") and first:
        _log.warning(
            "open_clip_train.main trains an IdCLIP with captions alone: no face reaches its adaptor. To train it with the faces "
            "of shards: python -m training_patches, with the same flags (python -m training_patches --help)."
        )


def _identity_tokenizer_or_original(original: Any) -> Any:
    from open_clip_idplugin.hosts.tokenizers import identity_tokenizer_or

    return identity_tokenizer_or(original)


def _reading_tensors_only(original: Any) -> Any:
    from open_clip_idplugin.storage.weight_files import reading_tensors_only

    return reading_tensors_only(original)


_CHECKED = "open_clip 2.32, 3.3 and 4.2.0.dev0"

OPEN_CLIP: tuple[PatchRow, ...] = (
    PatchRow(
        targets=("open_clip.factory:CustomTextCLIP",),
        replacement=identity_model_or,
        reason="create_model picks the class by a fixed if; the class is not pluggable",
        hosts=_CHECKED,
        parameters=("embed_dim", "vision_cfg", "text_cfg", "cast_dtype"),
    ),
    PatchRow(
        targets=("open_clip.factory:get_tokenizer", "open_clip:get_tokenizer"),
        replacement=_identity_tokenizer_or_original,
        reason="get_tokenizer picks the tokenizer by a fixed if, and the package re-exports it by name",
        hosts=_CHECKED,
        parameters=("model_name", "context_length", "cache_dir"),
    ),
    PatchRow(
        targets=("open_clip.pretrained:_PRETRAINED",),
        replacement=with_identity_tags,
        reason="pretrained tags are a private table keyed by model name, without a function that adds to it",
        hosts=_CHECKED,
    ),
    PatchRow(
        targets=("open_clip.factory:_MODEL_CONFIGS",),
        reason="check only: model folders enter it for as long as they are built; add_model_config keeps what it was given",
        hosts=_CHECKED,
    ),
    PatchRow(
        targets=("open_clip.factory:_MODEL_CONFIG_PATHS",),
        reason="check only: open_clip has a function that adds a config and none that removes one",
        hosts=_CHECKED,
    ),
    PatchRow(
        targets=("open_clip.factory:add_model_config", "open_clip:add_model_config"),
        reason="check only: the public door by which the models enter",
        hosts=_CHECKED,
        parameters=("path",),
    ),
    PatchRow(
        targets=("open_clip:list_models", "open_clip.factory:list_models"),
        reason="check only: which names are taken",
        hosts=_CHECKED,
    ),
    PatchRow(
        targets=("open_clip:get_model_config", "open_clip.factory:get_model_config"),
        reason="check only: what a name stands for",
        hosts=_CHECKED,
        parameters=("model_name",),
    ),
    PatchRow(
        targets=("open_clip.push_to_hf_hub:save_config_for_hf",),
        reason="check only: model folders are written with it",
        hosts=_CHECKED,
        parameters=("model", "config_path", "model_config"),
    ),
    PatchRow(
        targets=("open_clip.factory:download_pretrained",),
        replacement=download_with_remedy,
        reason="a failed download is a raw error of the hub, which names no file to provide",
        hosts=_CHECKED,
        parameters=("cfg", "cache_dir"),
    ),
    PatchRow(
        targets=("open_clip.factory:load_state_dict",),
        replacement=_reading_tensors_only,
        reason="reads OpenAI's TorchScript archives only by running them; the reader is not pluggable",
        hosts=_CHECKED,
        parameters=("checkpoint_path", "device", "weights_only"),
    ),
    PatchRow(
        targets=("open_clip.transformer:TextTransformer._embeds",),
        reason="check only: IdentityTextTransformer overrides it and relies on forward calling it with the text",
        hosts=_CHECKED,
        parameters=("text",),
        marker="positional_embedding",
    ),
    PatchRow(
        targets=("open_clip.transformer:TextTransformer.forward",),
        reason="check only: what _embeds was given must also be what is pooled",
        hosts=_CHECKED,
        parameters=("text",),
        marker="self._embeds(text)",
    ),
    PatchRow(
        targets=("open_clip.transformer:VisionTransformer._embeds",),
        reason="check only: visual prompts enter right before ln_pre, after patch dropout",
        hosts=_CHECKED,
        marker="self.ln_pre(x)",
    ),
    PatchRow(
        targets=("open_clip.transformer:VisionTransformer._pool",),
        reason="check only: visual prompts leave right before the pooling",
        hosts=_CHECKED,
        parameters=("x",),
    ),
)
