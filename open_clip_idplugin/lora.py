"""LoRA (Hu et al., arXiv 2106.09685): low-rank updates of the layers of chosen blocks of a tower.

Layers are promoted in place, so that their own weights keep their names and plain checkpoints load as ever; the
updates stand beside them under `<layer>.lora.down` [rank, in] and `<layer>.lora.up` [out, rank], which starts at zero.
Works on the blocks of open_clip's transformers (attention whose projections are never called as layers and so cannot be
wrapped one by one) and of timm's ViTs. There is no alpha: it would only scale the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import Attention
from torch import nn

from open_clip_idplugin.config import ATTENTION, BOTH, MLP, chosen_blocks
from open_clip_idplugin.errors import IdClipError


class LowRankUpdate(nn.Module):
    """What is added to a weight [out, in]: up @ down."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))

    def matrix(self) -> torch.Tensor:
        """The update as one matrix [out, in], float32."""
        return self.up.float() @ self.down.float()


class LoraLinear(nn.Linear):
    """A linear layer with an update."""

    lora: LowRankUpdate

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return super().forward(input) + self.lora(input)


class LoraAttention(nn.MultiheadAttention):
    """The self-attention of open_clip's blocks with an update of queries, keys and values; `out_proj` has its own."""

    lora: LowRankUpdate

    def forward(self, query: torch.Tensor, *_key_value: Any, attn_mask: Any = None, **_settings: Any) -> Any:
        """[B, L, width], additive mask [L, L] or [B * heads, L, L] or None -> ([B, L, width], None)."""
        return _self_attention(self, query, attn_mask), None


class LoraOwnAttention(Attention):
    """As `LoraAttention`, of blocks with open_clip's own module (all of them in open_clip's main)."""

    lora: LowRankUpdate

    def forward(self, x: torch.Tensor, *_key_value: Any, attn_mask: Any = None, **_settings: Any) -> torch.Tensor:
        """[B, L, width], additive mask [L, L] or [B * heads, L, L] or None -> [B, L, width]."""
        return _self_attention(self, x, attn_mask)


def _self_attention(layer: Any, x: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
    joint = F.linear(x, layer.in_proj_weight, layer.in_proj_bias) + layer.lora(x)
    queries, keys, values = joint.unflatten(-1, (3, layer.num_heads, layer.head_dim)).permute(2, 0, 3, 1, 4)
    if attn_mask is not None:
        attn_mask = attn_mask.to(queries.dtype)
        if attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, layer.num_heads))
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
    projected: torch.Tensor = layer.out_proj(attended.transpose(1, 2).flatten(2))
    return projected


_WITH_UPDATE: dict[type, type] = {
    nn.Linear: LoraLinear,
    nn.MultiheadAttention: LoraAttention,
    Attention: LoraOwnAttention,
}
_WITHOUT_UPDATE = {updated: plain for plain, updated in _WITH_UPDATE.items()}
_ATTENTIONS = (nn.MultiheadAttention, Attention)


def set_lora(tower: nn.Module, name: str, blocks: str, rank: int, targets: str) -> list[int]:
    """Give the chosen blocks of a tower without updates new ones; returns the blocks' numbers.

    name: the setting by which errors are reported. Raises IdClipError for a tower without transformer blocks, and for
    blocks that the tower does not have.
    """
    stack = _blocks(tower)
    if stack is None:
        inner = type(getattr(tower, "trunk", tower)).__name__
        raise IdClipError(
            f"LoRA needs a tower of transformer blocks, not {inner}; set {name} to 'none' in identity_cfg."
        )
    numbers = chosen_blocks(name, blocks, len(stack))
    for number in numbers:
        for layer in _layers(stack[number], targets):
            _promote(layer, rank)
    return numbers


def remove_lora(module: nn.Module) -> None:
    """Take all updates away and leave the weights as they are."""
    for layer in list(_updated(module)):
        del layer.lora
        layer.__class__ = _WITHOUT_UPDATE[type(layer)]


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Add all updates to the weights they belong to, then take them away: the same features at the plain cost."""
    for layer in _updated(module):
        weight = layer.in_proj_weight if isinstance(layer, _ATTENTIONS) else layer.weight
        weight.copy_(weight.float() + layer.lora.matrix())
    remove_lora(module)


def _updated(module: nn.Module) -> Iterator[Any]:
    return (layer for layer in module.modules() if isinstance(layer, tuple(_WITHOUT_UPDATE)))


def _blocks(tower: Any) -> Any:
    """The transformer blocks of an image or text tower, or None."""
    if hasattr(tower, "transformer"):
        return getattr(tower.transformer, "resblocks", None)
    stack = getattr(getattr(tower, "trunk", None), "blocks", None)
    return (
        stack
        if stack is not None and all(hasattr(block, "attn") and hasattr(block, "mlp") for block in stack)
        else None
    )


def _layers(block: Any, targets: str) -> list[nn.Module]:
    parts = {ATTENTION: [block.attn], MLP: [block.mlp], BOTH: [block.attn, block.mlp]}[targets]
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, (nn.Linear, *_ATTENTIONS))]
    if not layers or any(isinstance(part, Attention) and not _is_plain(part) for part in parts):
        raise IdClipError(f"LoRA does not know the layers of {type(block).__name__}; choose another tower or no LoRA.")
    return layers


def _is_plain(attention: Any) -> bool:
    """Whether open_clip's own module computes what nn.MultiheadAttention does: no norms, scales or dropout of its own."""
    norms = (attention.ln_q, attention.ln_k, attention.ln_inner)
    return (
        attention.in_proj_weight is not None
        and attention.logit_scale is None
        and attention.head_scale is None
        and all(isinstance(norm, nn.Identity) for norm in norms)
        and not attention.attn_drop.p
        and not attention.out_drop.p
    )


def _promote(layer: Any, rank: int) -> None:
    weight = layer.in_proj_weight if isinstance(layer, _ATTENTIONS) else layer.weight
    layer.lora = LowRankUpdate(weight.detach(), rank)
    layer.__class__ = next(updated for plain, updated in _WITH_UPDATE.items() if isinstance(layer, plain))
