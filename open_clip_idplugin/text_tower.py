"""open_clip's text tower with identity tokens: token ids [B, L] or an `IdentityText` -> text features [B, D].

The stock tower is promoted in place, so that it keeps the host's constructor, weights and forward pass. What is
added: the adaptor, the embeddings at the placeholders, the cut behind the longest text, and a `lock` (open_clip 2.32
has none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer
from torch import nn

from open_clip_idplugin.adaptor import IdentityAdaptor
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.weight_keys import TEXT_TOWER, part_of


@dataclass(frozen=True, eq=False)
class _PlacedText:
    """Stands in for the token tensor in the host's forward pass, which asks it for the position of EOT and nothing else."""

    tokens: torch.Tensor  # [B, L], an ordinary id at every placeholder
    faces: torch.Tensor  # [B, F, D], F >= 1
    slots: torch.Tensor  # [B, L]

    @property
    def shape(self) -> torch.Size:
        return self.tokens.shape

    def argmax(self, dim: int = -1) -> torch.Tensor:
        """Position of EOT, the highest id [B]."""
        return self.tokens.argmax(dim=dim)

    def __eq__(self, other: Any) -> Any:
        return self.tokens == other

    __hash__ = None  # type: ignore[assignment]  # compares elementwise, like a tensor


class IdentityTextTransformer(TextTransformer):
    """A promoted text tower (see `promote_text_tower`); for plain token ids its features are the stock tower's."""

    adaptor: IdentityAdaptor
    # Skip what stands after the longest text of a batch. Exact up to rounding; off = bit for bit the stock tower.
    cut_at_eot: bool = True

    def forward(self, text: torch.Tensor | IdentityText) -> Any:
        """Token ids [B, L] int64 or IdentityText -> features [B, D] (with `output_tokens`: and tokens [B, L, width])."""
        return super().forward(self._shortened(self._placed(text)))

    def forward_intermediates(self, text: torch.Tensor | IdentityText, *args: Any, **kwargs: Any) -> Any:
        """The host's forward_intermediates, which keeps all L positions."""
        return super().forward_intermediates(self._placed(text), *args, **kwargs)

    def _embeds(self, text: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token ids or placed text -> embeddings with positions [B, L, width], attention mask cut to their length."""
        tokens = text.tokens if isinstance(text, _PlacedText) else text
        embeddings, mask = super()._embeds(tokens)
        length = embeddings.shape[1]
        if mask is not None and mask.ndim == 2:
            mask = mask[:length, :length]
        if isinstance(text, _PlacedText):
            embeddings = self._with_identities(embeddings, text)
        return embeddings, mask

    def _with_identities(self, embeddings: torch.Tensor, text: _PlacedText) -> torch.Tensor:
        """Put identity tokens, with the position of their placeholder, where slots are not 0. The input is not changed."""
        identities = self.adaptor(text.faces).flatten(1, 2).to(embeddings.dtype)  # [B, F * n, width]
        slots = F.pad(text.slots, (0, embeddings.shape[1] - text.slots.shape[1]))  # a class token may follow the text
        index = (slots - 1).clamp(min=0).unsqueeze(-1).expand(-1, -1, self.width)
        positions = self.positional_embedding[: embeddings.shape[1]].to(embeddings.dtype)
        placed = identities.gather(1, index) + positions
        return torch.where((slots > 0).unsqueeze(-1), placed, embeddings)

    def _placed(self, text: torch.Tensor | IdentityText) -> torch.Tensor | _PlacedText:
        """Plain ids where there is nothing to place; in training a text without faces still runs the adaptor, masked."""
        if isinstance(text, IdentityText):
            if text.faces.shape[1] > 0:
                self._check(text)
                return _PlacedText(text.tokens.masked_fill(text.slots > 0, self._filler), text.faces, text.slots)
            text = text.tokens
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.adaptor.parameters()):
            # DistributedDataParallel refuses a step in which a trainable parameter took no part.
            nobody = torch.zeros(len(text), 1, self.adaptor.face_dim, device=text.device)
            return _PlacedText(text, nobody, torch.zeros_like(text))
        return text

    def _check(self, text: IdentityText) -> None:
        if text.faces.shape[2] != self.adaptor.face_dim:
            raise IdClipError(
                f"the face embeddings have {text.faces.shape[2]} numbers, but this model takes {self.adaptor.face_dim}."
            )
        if text.tokens_per_identity != self.adaptor.tokens_per_identity:
            raise IdClipError(
                f"the texts were tokenized with {text.tokens_per_identity} token(s) an identity, but this model has "
                f"{self.adaptor.tokens_per_identity}; use the tokenizer of the model's own config."
            )

    @property
    def _filler(self) -> int:
        """An id that is neither padding nor EOT, the highest: what a placeholder counts as in masks and pooling."""
        return next(id for id in range(3) if id not in (self.pad_id, getattr(self, "eos_id", None)))

    @property
    def cut_is_exact(self) -> bool:
        """Whether positions behind the longest text have no influence on what is returned.

        So it is where tokens see nothing behind them, or no padding (open_clip 3's `use_pad_mask`), if the tower pools
        inside the text and returns nothing else. CLIPA's and SigLIP's towers see their padding and pool at its end.
        """
        blind = self.attn_mask is not None or getattr(self, "use_pad_mask", False)
        inside = self.pool_type in ("argmax", "eos") and self.cls_emb is None
        return blind and inside and not self.output_tokens

    def _shortened(self, text: Any) -> Any:
        """Drop what follows the longest text of the batch, unless that is not exact or would break a captured graph."""
        tokens = text.tokens if isinstance(text, _PlacedText) else text
        if not (self.cut_at_eot and self.cut_is_exact) or _is_captured(tokens):
            return text
        length = self._longest(tokens) if len(tokens) else tokens.shape[1]
        if isinstance(text, _PlacedText):
            return _PlacedText(tokens[:, :length], text.faces, text.slots[:, :length])
        return tokens[:, :length]

    def _longest(self, tokens: torch.Tensor) -> int:
        """Tokens up to the last EOT of the batch, and where padding alone is masked to what stands behind it."""
        ends = tokens.argmax(dim=-1) if self.pool_type == "argmax" else (tokens == self.eos_id).int().argmax(dim=-1)
        if self.attn_mask is None:
            ends = torch.maximum(
                ends, ((tokens != self.pad_id) * torch.arange(tokens.shape[1], device=ends.device)).amax(-1)
            )
        return int(ends.max()) + 1

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True, pooler_in_head: bool = True) -> None:
        """Freeze the tower but not what was added to it; leave the last `unlocked_layers` groups trainable.

        Groups, as in open_clip 3: embeddings, each block (the last together with the final LayerNorm), projection.
        LayerNorms are frozen with their groups whatever `freeze_layer_norm` says, because open_clip_train passes
        False by default.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad = part_of(f"text.{name}") != TEXT_TOWER
        *blocks, last = self.transformer.resblocks
        groups: list[list[Any]] = [[self.token_embedding, self.positional_embedding, self.cls_emb]]
        groups += [[block] for block in blocks]
        groups += [[last, self.ln_final], [self.text_projection]]
        for group in groups[len(groups) - min(unlocked_layers, len(groups)) :]:
            for part in group:
                if part is not None:
                    part.requires_grad_(True)


def _is_captured(tokens: torch.Tensor) -> bool:
    """Whether torch.compile, a trace, an export or a CUDA graph is recording, which one batch's length must not enter."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return tokens.is_cuda and torch.cuda.is_current_stream_capturing()


def refuse_hugging_face_tower(text_cfg: Any) -> None:
    """Raise IdClipError for a text config with a Hugging Face model, before the host builds or fetches it."""
    name = text_cfg.get("hf_model_name") if isinstance(text_cfg, Mapping) else getattr(text_cfg, "hf_model_name", None)
    if name:
        raise IdClipError(
            f"IdCLIP needs open_clip's own text tower, not the Hugging Face model {name!r}; use a config without "
            "hf_model_name (a Hugging Face tokenizer, hf_tokenizer_name, is fine)."
        )


def promote_text_tower(tower: nn.Module, config: IdentityConfig) -> IdentityTextTransformer:
    """Turn open_clip's native text tower into an IdentityTextTransformer, in place; raises IdClipError for other towers."""
    if type(tower) is not TextTransformer:
        raise IdClipError(
            f"IdCLIP needs open_clip's own text tower, not {type(tower).__name__}; use a config without hf_model_name."
        )
    tower.__class__ = IdentityTextTransformer
    tower.adaptor = IdentityAdaptor(config, tower.width)
    return tower
