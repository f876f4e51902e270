"""The image tower of `IdCLIP-ViT-miniature`, by a name that timm knows: images [B, 3, 96, 96] -> class tokens [B, 192].

Importing this module registers `miniature_hybrid_vit` with timm, so that open_clip builds the tower from
`timm_model_name` in a model config. A trunk of strided convolutions turns 96 px images into a 6 x 6 grid of patch
tokens and two transformer layers follow: a plain patchifying ViT of this size learns backgrounds and nothing else from
the few ten thousand pictures it is shown. The model is an ordinary `timm.models.vision_transformer.VisionTransformer`,
so that whatever works on timm's ViTs works on it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.format import Format
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

IMAGE_SIZE = 96
GRID = 6
WIDTH = 192

# timm looks the pretrained configurations up under this name in the module that registers a model.
default_cfgs = generate_default_cfgs(
    {
        "miniature_hybrid_vit.untrained": {
            "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.layers.0.convolution",
            "classifier": "head",
        }
    }
)


class ConvolutionReLU(nn.Module):
    """3 x 3 convolution and ReLU.

    Pretraining puts a batch norm between the two and folds it into the convolution in the end: a frozen tower must not
    keep running statistics, which would change in training mode.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.activation = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        activated: torch.Tensor = self.activation(self.convolution(images))
        return activated


class ResidualPair(nn.Module):
    """Two 3 x 3 convolutions beside an identity path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvolutionReLU(channels, channels)
        self.second = ConvolutionReLU(channels, channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> the same shape."""
        deepened: torch.Tensor = images + self.second(self.first(images))
        return deepened


class ConvolutionalPatches(nn.Module):
    """Images [B, 3, 96, 96] -> patch tokens [B, 36, 192]: what timm's `PatchEmbed` does, in four strided steps.

    Takes the arguments by which timm's VisionTransformer builds an embedding layer; the image size is fixed.
    """

    output_fmt = Format.NCHW
    dynamic_img_pad = False

    def __init__(self, embed_dim: int = WIDTH, in_chans: int = 3, **_fixed: Any) -> None:
        super().__init__()
        self.img_size = (IMAGE_SIZE, IMAGE_SIZE)
        self.patch_size = (IMAGE_SIZE // GRID, IMAGE_SIZE // GRID)
        self.grid_size = (GRID, GRID)
        self.num_patches = GRID * GRID
        self.layers = nn.Sequential(
            ConvolutionReLU(in_chans, 32, stride=2),
            ConvolutionReLU(32, 64, stride=2),
            ConvolutionReLU(64, 128, stride=2),
            ResidualPair(128),
            ConvolutionReLU(128, embed_dim, stride=2),
        )

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels an edge of a patch token stands for."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, 96, 96] -> [B, 36, width], rows of the grid one after another."""
        tokens: torch.Tensor = self.layers(images).flatten(2).transpose(1, 2)
        return tokens


@register_model
def miniature_hybrid_vit(pretrained: bool = False, **overrides: Any) -> VisionTransformer:
    """The 1.4 M parameter tower under the name that timm and open_clip's `timm_model_name` know it by."""
    settings: dict[str, Any] = {
        "img_size": IMAGE_SIZE,
        "patch_size": IMAGE_SIZE // GRID,
        "embed_dim": WIDTH,
        "depth": 2,
        "num_heads": 6,
        "num_classes": 0,
        "global_pool": "token",
        "embed_layer": ConvolutionalPatches,
    }
    tower: VisionTransformer = build_model_with_cfg(
        VisionTransformer, "miniature_hybrid_vit", pretrained, **{**settings, **overrides}
    )
    for block in tower.blocks:
        block.attn.fused_attn = False  # the plain kernel is faster than the fused ones at 37 tokens on a CPU
    return tower
