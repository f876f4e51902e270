"""The two networks of the miniature face pack, in torch, and the schedule of their learning rate.

Role: shaped so that their ONNX graphs keep insightface's contracts.

`Recogniser`: aligned crops [N, 3, 112, 112] in [-1, 1] -> embeddings [N, 512] (not normalised).
`Detector`: pictures [1, 3, H, W] (sides multiples of 32) -> SCRFD's nine outputs (Guo et al., arXiv 2105.04714).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
# Face size in pixels that each anchor stands for, two a stride, in steps of about 1.43: small faces
# are beyond a detector that sees pictures at 192 pixels, as they are beyond real ones.
ANCHOR_SIZES = ((26.0, 38.0), (54.0, 78.0), (110.0, 156.0))
EMBEDDING_SIZE = 512
CROP_SIZE = 112


class ConvBlock(nn.Sequential):
    """3 x 3 convolution (or `kernel`), batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a short cut, [N, C, h, w] -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.first = ConvBlock(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, h, w]."""
        return torch.relu(x + self.second(self.first(x)))


class Recogniser(nn.Module):
    """A small residual net with a depthwise 7 x 7 head (as in MobileFaceNets, arXiv 1804.07573); 0.47 M parameters.

    The first convolution steps by four: faces in the miniature's pictures hold no detail beyond some 60 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            ConvBlock(3, 32, stride=4, kernel=6),
            ConvBlock(32, 40),
            ConvBlock(40, 64, stride=2),
            Residual(64),
            ConvBlock(64, 112, stride=2),
            Residual(112),
        )
        self.gather = nn.Sequential(nn.Conv2d(112, 112, 7, groups=112, bias=False), nn.BatchNorm2d(112))
        self.project = nn.Sequential(nn.Linear(112, EMBEDDING_SIZE, bias=False), nn.BatchNorm1d(EMBEDDING_SIZE))

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 3, 112, 112] -> [N, 512]."""
        return self.project(self.gather(self.trunk(crops)).flatten(1))


class Detector(nn.Module):
    """An anchor-free detector with two size classes ("anchors") a cell at strides 8, 16 and 32; 0.1 M parameters.

    Coarser maps are added to finer ones, so that a part of a large face is not taken for a small one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, 12, stride=2), ConvBlock(12, 20, stride=2))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvBlock(20, 32, stride=2), Residual(32)),
                nn.Sequential(ConvBlock(32, 40, stride=2), Residual(40)),
                nn.Sequential(ConvBlock(40, 44, stride=2), ConvBlock(44, 44)),
            ]
        )
        widths = (32, 40, 44)
        self.laterals = nn.ModuleList([nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths)])
        for level, (stride, sizes) in enumerate(zip(STRIDES, ANCHOR_SIZES)):
            scale = (torch.tensor(sizes) / stride).view(2, 1, 1, 1)
            self.register_buffer(f"scale{level}", scale, persistent=False)
        self.heads = nn.ModuleList([nn.Conv2d(width, 2 * (1 + 4 + 10), 1) for width in widths])
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, 0.0)
            nn.init.constant_(head.bias[:2], -4.0)  # faces are rare: start near their share

    def maps(self, pictures: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """[N, 3, H, W] -> a stride's logits [N, M, 1], boxes [N, M, 4], landmarks [N, M, 10]; M in y, x, anchor order.

        Boxes are distances left, top, right, bottom and landmarks offsets x, y from the cell's corner, both in strides;
        they leave the net in units of the anchor's face size, so that all anchors learn numbers of one size.
        """
        x = self.stem(pictures)
        features = [x := stage(x) for stage in self.stages]
        for level in (1, 0):
            coarse = functional.interpolate(self.laterals[level](features[level + 1]), scale_factor=2.0)
            features[level] = features[level] + coarse
        outputs = []
        for level, head in enumerate(self.heads):
            logits, boxes, landmarks = head(features[level]).split((2, 8, 20), dim=1)
            scale = getattr(self, f"scale{level}")
            boxes, landmarks = boxes.unflatten(1, (2, 4)) * scale, landmarks.unflatten(1, (2, 10)) * scale
            outputs.append(tuple(_rows(t) for t in (logits.unflatten(1, (2, 1)), boxes, landmarks)))
        return outputs

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """[1, 3, H, W] -> 3 scores [M, 1] in 0 ... 1, 3 boxes [M, 4], 3 landmarks [M, 10]: SCRFD's order."""
        maps = self.maps(pictures)
        scores = [logits.sigmoid().flatten(0, 1) for logits, _, _ in maps]
        return (*scores, *(boxes.flatten(0, 1) for _, boxes, _ in maps), *(points.flatten(0, 1) for *_, points in maps))


def _rows(values: Tensor) -> Tensor:
    """[N, anchors, C, h, w] -> [N, h * w * anchors, C]."""
    return values.permute(0, 3, 4, 1, 2).flatten(1, 3)


def cosine_share(step: int, steps: int, warm_up: int = 60) -> float:
    """Share of the learning rate at `step`: linear warm-up, then half a cosine down to zero at `steps`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
