"""Text prompts (TPT, as in Messina et al., arXiv 2412.21009): n learnable tokens in front of every text.

They enter the blocks of open_clip's text tower together with the embedded text and leave before the pooling, so that
the pooling position means the same token as before. Texts keep their own positions and their whole context length;
prompts have no positional embedding, which would only be added to numbers that are learned anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer, Transformer
from torch import nn

_STD = 0.02  # of a fresh token embedding in open_clip's text towers


class TextPrompts(nn.Module):
    """The prompt tokens [n, width] of one tower."""

    def __init__(self, count: int, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.tokens = nn.Parameter(torch.empty(count, width).normal_(std=_STD))

    def resize(self, count: int) -> None:
        """Start again with `count` prompts."""
        self.tokens = nn.Parameter(self.tokens.detach().new_empty(count, self.tokens.shape[1]).normal_(std=_STD))

    def prepend(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, L, width] -> [B, n + L, width]."""
        return torch.cat([self.tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def widen(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Additive mask [.., L, L] -> [.., n + L, n + L]: every token sees all prompts.

        In a causal tower prompts see what stands before them, else all that the tokens see.
        """
        if mask is None:
            return None
        count = len(self.tokens)
        seen = F.pad(mask[..., :1, :], (count, 0)).expand(*mask.shape[:-2], count, -1)
        if self.causal:
            seen = torch.full_like(seen, float("-inf")).triu(1)
        return torch.cat([seen, F.pad(mask, (count, 0))], dim=-2)


class PromptedTransformer(Transformer):
    """open_clip's stack of blocks with prompts in front; promoted in place by `set_text_prompts`."""

    prompts: TextPrompts

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[B, L, width] -> [B, L, width]."""
        hidden = super().forward(self.prompts.prepend(x), attn_mask=self.prompts.widen(attn_mask))
        return hidden[:, len(self.prompts.tokens) :]

    def forward_intermediates(
        self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, **settings: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The host's, without the prompts in any of the results."""
        hidden, layers = super().forward_intermediates(
            self.prompts.prepend(x), attn_mask=self.prompts.widen(attn_mask), **settings
        )
        count = len(self.prompts.tokens)
        return hidden[:, count:], [layer[:, count:] for layer in layers]


def set_text_prompts(tower: TextTransformer, count: int) -> None:
    """Give a text tower `count` >= 1 new prompts (key `transformer.prompts.tokens`), in place of those it may have."""
    blocks = tower.transformer
    if isinstance(blocks, PromptedTransformer):
        blocks.prompts.resize(count)
        return
    blocks.__class__ = PromptedTransformer
    like = tower.positional_embedding
    blocks.prompts = TextPrompts(count, tower.width, causal=tower.attn_mask is not None).to(like)
