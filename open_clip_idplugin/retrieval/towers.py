"""A loaded model as clip-retrieval wants it: an object with `encode_image` and `encode_text` on one device and
precision.

Role: `LoadedModel` -> the `model` of clip-retrieval's mapper and resources. The weights stay float32 (that is what an
index's fingerprint is taken of); a lower precision is reached by autocast.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from open_clip_idplugin.errors import IdClipError

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints import LoadedModel

_AUTOCAST = {"fp32": None, "amp": torch.float16, "amp_bf16": torch.bfloat16, "amp_bfloat16": torch.bfloat16}


class Towers:
    """The two encoders of a loaded model, under its precision."""

    def __init__(self, loaded: "LoadedModel") -> None:
        require_precision(loaded.precision)
        self.device = torch.device(loaded.device)
        self._model = loaded.model
        self._autocast = _AUTOCAST[loaded.precision]

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] float32, preprocessed -> [B, D] float32, not normalised."""
        return self._run(self._model.encode_image, images)

    def encode_text(self, text: Any) -> torch.Tensor:
        """Tokens [B, L] int64 (or an `IdentityText`) -> [B, D] float32, not normalised."""
        return self._run(self._model.encode_text, text)

    def _run(self, encode: Callable[[Any], torch.Tensor], batch: Any) -> torch.Tensor:
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._autocast is not None:
            autocast = torch.autocast(self.device.type, dtype=self._autocast)
        with autocast:
            return encode(batch).float()


def require_precision(precision: str) -> None:
    """Raise IdClipError on a precision that retrieval does not offer: one that rounds the weights themselves."""
    if precision not in _AUTOCAST:
        raise IdClipError(f"--precision '{precision}' is not offered here: choose fp32, amp or amp_bf16")
