"""Texts and faces -> unit vectors: the one encoder that evaluation, search and serving share.

Tokenizes and encodes in batches of texts of similar length, each distinct query once. Vectors are float32 rows in
numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.command_line.devices import autocast, input_dtype
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.tokenizer import faces_per_text


class QueryEncoder:
    """Encodes with one loaded model; safe to call from several threads."""

    def __init__(self, loaded: LoadedModel, batch_size: int = 256) -> None:
        """`batch_size`: texts a forward pass."""
        if batch_size < 1:
            raise IdClipError(f"batch_size must be at least 1, not {batch_size}.")
        self.loaded = loaded
        self.batch_size = batch_size

    def encode(self, texts: Sequence[str], faces: Any = None, identity_ids: Sequence[str] | None = None) -> np.ndarray:
        """N texts, with `faces` as the tokenizer takes them -> [N, D] float32 unit rows.

        `identity_ids` may be passed along with the rest of a record; they do not change the vectors. Raises
        IdClipError where texts and faces do not fit together (see IdentityTokenizer).
        """
        return unit_rows(self._features(texts, faces))

    def encode_ensemble(self, groups: Sequence[Sequence[str]], faces: Any = None) -> np.ndarray:
        """Several texts a query -> [len(groups), D] float32 unit rows: the mean of unnormalised features, then L2.

        faces: those of each group (None, [D] or [F, D] each; or [G, D], [G, F, D]; or one [D] for all). Every text of a
        group with a face must hold `[TOK]`.
        """
        sizes = [len(group) for group in groups]
        if not all(sizes):
            raise IdClipError(f"group {sizes.index(0)} of the ensemble holds no text.")
        if faces is not None:
            per_group = faces_per_text(faces, len(groups), self._face_dim)
            faces = [entry for entry, size in zip(per_group, sizes, strict=True) for _ in range(size)]
        features = self._features([text for group in groups for text in group], faces)
        if not groups:
            return features
        starts = np.cumsum([0, *sizes[:-1]])
        means = np.add.reduceat(features, starts, axis=0) / np.asarray(sizes, np.float32)[:, None]
        return unit_rows(means)

    def encode_images(self, batches: Iterable[torch.Tensor], progress: str | None = None) -> np.ndarray:
        """Batches of preprocessed images [b, 3, H, W] -> [N, D] float32 unit rows. `progress`: label of a progress bar."""
        features = []
        for images in tqdm(batches, desc=progress, unit="batch", disable=progress is None):
            with torch.inference_mode(), autocast(self.loaded.device, self.loaded.precision):
                encoded = self.loaded.model.encode_image(
                    images.to(self.loaded.device, input_dtype(self.loaded.precision))
                )
            features.append(encoded.float().cpu().numpy())
        return unit_rows(np.concatenate(features)) if features else self._nothing()

    def _features(self, texts: Sequence[str], faces: Any) -> np.ndarray:
        """[N, D] float32 features of any length."""
        if isinstance(texts, str):
            raise IdClipError(f"texts must be a list of strings, not the string {texts!r}.")
        texts = list(texts)
        if not texts:
            return self._nothing()
        per_text = None if faces is None else faces_per_text(faces, len(texts), self._face_dim)
        keys = [(text, per_text[row].tobytes() if per_text else b"") for row, text in enumerate(texts)]
        first_rows: dict[Any, int] = {}
        for row, key in enumerate(keys):
            first_rows.setdefault(key, row)
        # Short texts together: a batch is cut at its longest text.
        distinct = sorted(first_rows.values(), key=lambda row: len(texts[row]))
        encoded: dict[Any, np.ndarray] = {}
        for start in range(0, len(distinct), self.batch_size):
            rows = distinct[start : start + self.batch_size]
            some_faces = [per_text[row] for row in rows] if per_text else None
            features = self._batch([texts[row] for row in rows], some_faces)
            encoded.update(zip((keys[row] for row in rows), features, strict=True))
        return np.stack([encoded[key] for key in keys])

    def _batch(self, texts: list[str], faces: list[np.ndarray] | None) -> np.ndarray:
        # A plain model's tokenizer knows no faces.
        tokens = self.loaded.tokenizer(texts, faces=faces) if faces else self.loaded.tokenizer(texts)
        with torch.inference_mode(), autocast(self.loaded.device, self.loaded.precision):
            features = self.loaded.model.encode_text(tokens.to(self.loaded.device))
        return features.float().cpu().numpy()

    @property
    def _face_dim(self) -> int:
        config = getattr(self.loaded.model, "identity_cfg", None)
        if not isinstance(config, IdentityConfig):
            raise IdClipError(f"{self.loaded.name} takes no faces; use an IdCLIP model.")
        return config.face_dim

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, _feature_size(self.loaded.model)), np.float32)


def _feature_size(model: torch.nn.Module) -> int:
    text = getattr(model, "text", model)
    projection = text.text_projection
    return int(projection.out_features if isinstance(projection, torch.nn.Linear) else projection.shape[1])


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)
