"""A model name and a checkpoint become a loaded model; and what is written about a model and passed on."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]


def __getattr__(name: str) -> Any:
    """Import what loads models when it is first asked for: torch and open_clip take seconds, and facts need neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.loading"), name)
