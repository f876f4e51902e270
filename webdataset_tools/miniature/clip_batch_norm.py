"""Batch norm while the image tower is pretrained: tower -> with it, and folded into its convolutions again.

Role: convolutions learn in a fraction of the steps with batch norm, and a frozen tower must not have any; so it is put
after every convolution of the trunk before training and folded into the convolutions afterwards.
"""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from open_clip_idplugin.hosts.miniature_tower import ConvolutionReLU


def add_batch_norm(tower: nn.Module) -> None:
    """Put a batch norm after every convolution of the trunk, in place."""
    for layer in _layers(tower):
        layer.convolution = nn.Sequential(layer.convolution, nn.BatchNorm2d(layer.convolution.out_channels))


def fold_batch_norm(tower: nn.Module) -> None:
    """Turn convolution and batch norm into one convolution that answers as both do in eval mode, in place."""
    for layer in _layers(tower):
        convolution, norm = layer.convolution
        layer.convolution = fuse_conv_bn_eval(convolution.eval(), norm.eval())


def _layers(tower: nn.Module) -> list[ConvolutionReLU]:
    return [module for module in tower.modules() if isinstance(module, ConvolutionReLU)]
