"""Visual prompts (VPT, Jia et al., arXiv 2203.12119): n learnable tokens join the patch tokens of a ViT.

They are appended after the positional embedding and patch dropout, right before the pre-transformer LayerNorm, and
leave before the pooling: `tok` reads position 0 as before and `avg` averages patches only. Deep prompts are replaced
by new ones in front of every further block. Works on open_clip's own VisionTransformer and on timm's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from open_clip.utils import to_2tuple
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import nn

from open_clip_idplugin.errors import IdClipError


class VisualPrompts(nn.Module):
    """The prompt tokens of one tower: [n, width], or deep [blocks, n, width]."""

    def __init__(self, count: int, width: int, patch_size: tuple[int, int]) -> None:
        super().__init__()
        self.bound = math.sqrt(6.0 / (3 * patch_size[0] * patch_size[1] + width))  # as VPT: that of a patch embedding
        self.tokens = nn.Parameter(torch.empty(count, width))

    def resize(self, *sizes: int) -> None:
        """Start again with [n] shallow or [blocks, n] deep prompts."""
        fresh = self.tokens.detach().new_empty(*sizes, self.tokens.shape[-1]).uniform_(-self.bound, self.bound)
        self.tokens = nn.Parameter(fresh)

    def append(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, N, width] -> [B, N + n, width]."""
        first = self.tokens[0] if self.tokens.ndim == 3 else self.tokens
        return torch.cat([tokens, first.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)

    def drop(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, N + n, width] -> [B, N, width]."""
        return tokens[:, : tokens.shape[1] - self.tokens.shape[-2]]

    # As hooks, bound methods are copied together with the module they belong to.
    def _append_hook(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (self.append(inputs[0]), *inputs[1:])

    def _drop_hook(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return self.drop(output)

    def _renew_hook(self, block: int, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        if self.tokens.ndim == 2:
            return None
        tokens = self.drop(inputs[0])
        fresh = self.tokens[block].to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return (torch.cat([tokens, fresh], dim=1), *inputs[1:])


class PromptedVisionTransformer(VisionTransformer):
    """open_clip's VisionTransformer with prompts; promoted in place by `set_visual_prompts`."""

    prompts: VisualPrompts

    def _pool(self, x: torch.Tensor) -> Any:
        return super()._pool(self.prompts.drop(x))

    def forward_intermediates(self, x: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The host's, without the prompts in any of the results."""
        return _without_prompts(self.prompts, super().forward_intermediates, self._grid, x, kwargs)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size[0], width // self.patch_size[1]


class PromptedTimmModel(TimmModel):
    """open_clip's wrapper of a timm VisionTransformer with prompts; promoted in place by `set_visual_prompts`."""

    prompts: VisualPrompts

    def forward_intermediates(self, x: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The host's, without the prompts in any of the results."""
        return _without_prompts(self.prompts, super().forward_intermediates, self._grid, x, kwargs)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        embed = self.trunk.patch_embed
        grid: tuple[int, int] = embed.grid_size
        return embed.dynamic_feat_size((height, width)) if hasattr(embed, "dynamic_feat_size") else grid


def set_visual_prompts(tower: nn.Module, count: int, deep: bool = False) -> None:
    """Give an image tower `count` >= 1 new prompts (key `prompts.tokens`), in place of those it may have.

    The tower itself is promoted in place. Raises IdClipError for a tower that has no tokens.
    """
    if type(tower) is VisionTransformer:
        _promote(tower, PromptedVisionTransformer, tower.class_embedding, tower.patch_size)
        tower.ln_pre.register_forward_pre_hook(tower.prompts._append_hook)
        _renew_before_blocks(tower.transformer.resblocks, tower.prompts)
    elif type(tower) is TimmModel and _is_timm_vit(tower.trunk):
        trunk = tower.trunk
        _promote(tower, PromptedTimmModel, trunk.pos_embed, to_2tuple(trunk.patch_embed.feat_ratio()))
        trunk.norm_pre.register_forward_pre_hook(tower.prompts._append_hook)
        trunk.norm.register_forward_hook(tower.prompts._drop_hook)
        _renew_before_blocks(trunk.blocks, tower.prompts)
    elif not isinstance(tower, (PromptedVisionTransformer, PromptedTimmModel)):
        inner = type(getattr(tower, "trunk", tower)).__name__
        raise IdClipError(
            f"visual prompts need a ViT image tower, not {inner}; set visual_prompts to 0 in identity_cfg."
        )
    blocks = tower.trunk.blocks if isinstance(tower, TimmModel) else tower.transformer.resblocks
    tower.prompts.resize(*([len(blocks), count] if deep else [count]))


def _promote(tower: Any, kind: type, like: torch.Tensor, patch_size: tuple[int, int]) -> None:
    """Make `tower` a `kind` with prompts of the width, device and dtype of `like` [..., width]; their number follows."""
    tower.__class__ = kind
    tower.prompts = VisualPrompts(0, like.shape[-1], patch_size).to(like)


def _renew_before_blocks(blocks: Any, prompts: VisualPrompts) -> None:
    for number, block in enumerate(blocks):
        if number > 0:
            block.register_forward_pre_hook(functools.partial(prompts._renew_hook, number))


def _is_timm_vit(trunk: nn.Module) -> bool:
    """Whether a timm model is a VisionTransformer (hybrids included) that passes norm_pre and norm as the stock one does."""
    return isinstance(trunk, TimmVisionTransformer) and (
        type(trunk).forward_features is TimmVisionTransformer.forward_features
    )


def _without_prompts(
    prompts: VisualPrompts,
    forward_intermediates: Callable[..., dict[str, Any]],
    grid_of: Callable[[int, int], tuple[int, int]],
    images: torch.Tensor,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Run a host's forward_intermediates on token sequences, drop the prompts, then shape the rest as was asked."""
    output_fmt = settings.pop("output_fmt", "NCHW")
    outputs = forward_intermediates(images, output_fmt="NLC", **settings)
    grid = grid_of(*images.shape[-2:])
    kept = [tokens[:, : grid[0] * grid[1]] for tokens in outputs["image_intermediates"]]
    if output_fmt == "NCHW":
        kept = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in kept]
    outputs["image_intermediates"] = kept
    return outputs
