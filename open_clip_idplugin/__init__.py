"""Identity-conditioned CLIP as a plugin to open_clip: importing this package registers the IdCLIP models.

Importing is cheap and imports neither torch nor open_clip: the registration runs when open_clip is imported (at once
if it is already there). The public names below are looked up on first use.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

import wrapt

from open_clip_idplugin.errors import HostMismatchError, IdClipError

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
    from open_clip_idplugin.config import IdentityConfig
    from open_clip_idplugin.hosts.registration import IDENTITY_MODELS, add_identity_model, register, unregister
    from open_clip_idplugin.identity_text import PLACEHOLDER, IdentityText, identity_key
    from open_clip_idplugin.model import IdCLIP
    from open_clip_idplugin.queries.query_encoder import QueryEncoder
    from open_clip_idplugin.tokenizer import IdentityTokenizer

__all__ = [
    "IDENTITY_MODELS",
    "PLACEHOLDER",
    "HostMismatchError",
    "IdCLIP",
    "IdClipError",
    "IdentityConfig",
    "IdentityText",
    "IdentityTokenizer",
    "LoadedModel",
    "QueryEncoder",
    "add_identity_model",
    "identity_key",
    "load_model",
    "register",
    "unregister",
]

# Public name -> the module that holds it.
_HOMES = {
    "IDENTITY_MODELS": "hosts.registration",
    "add_identity_model": "hosts.registration",
    "register": "hosts.registration",
    "unregister": "hosts.registration",
    "IdCLIP": "model",
    "IdentityConfig": "config",
    "IdentityText": "identity_text",
    "PLACEHOLDER": "identity_text",
    "identity_key": "identity_text",
    "IdentityTokenizer": "tokenizer",
    "LoadedModel": "checkpoints.loading",
    "load_model": "checkpoints.loading",
    "QueryEncoder": "queries.query_encoder",
}

# onnxruntime reads this when it is first imported, which is long after this line.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _register_with(_open_clip: Any) -> None:
    importlib.import_module(f"{__name__}.hosts.registration").register()


wrapt.when_imported("open_clip")(_register_with)


def __getattr__(name: str) -> Any:
    """Import the module behind a public name when the name is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
