"""A loaded model as clip-retrieval wants it: an object with `encode_image` and `encode_text` on one device and
precision.

Role: `LoadedModel` -> the `model` of clip-retrieval's mapper and resources. The weights stay float32 (that is what an
index's fingerprint is taken of); a lower precision is reached by autocast.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from open_clip_idplugin.command_line.devices import autocast, require_float32_weights

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints.loading import LoadedModel


class Towers:
    """The two encoders of a loaded model, under its precision; several threads take turns, since a pass takes all cores."""

    def __init__(self, loaded: "LoadedModel") -> None:
        require_float32_weights(loaded.precision)
        self.device = torch.device(loaded.device)
        self._model = loaded.model
        self._precision = loaded.precision
        self._one_pass = threading.Lock()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] float32, preprocessed -> [B, D] float32, not normalised."""
        return self._run(self._model.encode_image, images)

    def encode_text(self, text: Any) -> torch.Tensor:
        """Tokens [B, L] int64 (or an `IdentityText`) -> [B, D] float32, not normalised."""
        return self._run(self._model.encode_text, text)

    def _run(self, encode: Callable[[Any], torch.Tensor], batch: Any) -> torch.Tensor:
        with self._one_pass, autocast(self.device, self._precision):
            return encode(batch).float()
