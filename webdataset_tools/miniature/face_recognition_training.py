"""Train the miniature's face recogniser: wide crops of numbered people -> `Recogniser`.

It learns people by ArcFace's margin (Deng et al., arXiv 1801.07698) on crops that are shifted as a detector shifts them
and degraded as scenes degrade faces, so that embeddings lose their person gradually and not at once.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from open_clip_idplugin.command_line.devices import fast_autocast
from webdataset_tools.miniature.face_nets import CROP_SIZE, EMBEDDING_SIZE, Recogniser, cosine_share
from webdataset_tools.miniature.face_samples import MARGIN, CropSet


class ArcMargin(nn.Module):
    """Cosine classifier with an additive angular margin: embeddings [B, 512], labels [B] -> loss."""

    def __init__(self, classes: int, scale: float = 24.0, margin: float = 0.3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, EMBEDDING_SIZE) * 0.01)
        self.scale, self.margin = scale, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the margin-shifted cosines."""
        cosines = functional.linear(functional.normalize(embeddings), functional.normalize(self.weight))
        target = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        shifted = torch.cos(target.acos() + self.margin)
        beyond = target <= math.cos(math.pi - self.margin)  # where the shifted angle would turn round
        shifted = torch.where(beyond, target - self.margin * math.sin(self.margin), shifted)
        return functional.cross_entropy(self.scale * cosines.scatter(1, labels[:, None], shifted), labels)


def train_recogniser(data: CropSet, steps: int, batch: int = 128, lr: float = 2e-3, seed: int = 0) -> Recogniser:
    """Train on wide crops for `steps` batches; cosine learning rate with a short warm-up."""
    torch.manual_seed(seed)
    net, head = Recogniser(), ArcMargin(int(data.people.max()) + 1)
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=lr, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_share(step, steps))
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    progress = tqdm(range(steps), desc="recogniser", unit="step")
    for _ in progress:
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(data.people))])
        chosen, order = order[:batch], order[batch:]
        crops = degrade(place(torch.from_numpy(data.crops[chosen])))
        with fast_autocast():  # no worse at this size
            embeddings = net(crops.to(memory_format=torch.channels_last))
        loss = head(embeddings.float(), torch.from_numpy(data.people[chosen]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return net.eval()


def place(wide: Tensor, jitter: float = 1.0) -> Tensor:
    """Wide crops uint8 [N, 96, 96, 3] -> crops float [N, 3, 112, 112] in [-1, 1], misaligned as by a detector.

    `jitter` 1 is about the error of the miniature's detector: 1.6 units of 112 in place, 3.5 % in size, 2 degrees.
    """
    count = len(wide)
    size = torch.exp(0.035 * jitter * torch.randn(count))
    angle = math.radians(2.0) * jitter * torch.randn(count)
    shift = 1.6 * jitter * torch.randn(count, 2) * 2 / (112 * MARGIN)
    cos, sin = size * torch.cos(angle) / MARGIN, size * torch.sin(angle) / MARGIN
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = functional.affine_grid(theta, [count, 3, CROP_SIZE, CROP_SIZE], align_corners=False)
    pictures = wide.permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def degrade(crops: Tensor) -> Tensor:
    """Crops in [-1, 1] as faces look in scenes: some small, blurred, dark, half hidden or noisy."""
    parts = [_lower_resolution(part) for part in crops.split(max(1, len(crops) // 8))]
    crops = torch.cat(parts)
    count = len(crops)
    crops = _hide(crops, torch.rand(count) < 0.12)
    light = torch.exp(0.18 * torch.randn(count, 1, 1, 1))
    light = torch.where(torch.rand(count, 1, 1, 1) < 0.1, 0.2 + 0.6 * torch.rand(count, 1, 1, 1), light)
    tint = 1 + 0.06 * torch.randn(count, 3, 1, 1)
    noise = torch.rand(count, 1, 1, 1) ** 2 * 0.1 * torch.randn_like(crops)
    return ((crops + 1) * light * tint - 1 + noise).clamp(-1, 1)


def _lower_resolution(crops: Tensor) -> Tensor:
    """Scale down and up again by one random factor, for half of the calls; down to 18 pixels a crop."""
    if torch.rand(()) < 0.5:
        return crops
    side = int(torch.exp(torch.empty(()).uniform_(math.log(18), math.log(90))))
    small = functional.interpolate(crops, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return functional.interpolate(small, size=crops.shape[2:], mode="bilinear", align_corners=False)


def _hide(crops: Tensor, where: Tensor) -> Tensor:
    """Cover a side or the lower part of the chosen crops by a plain colour."""
    count = len(crops)
    ramp = torch.linspace(-1, 1, crops.shape[-1])
    angle = torch.rand(count, 1, 1) * 2 * math.pi
    along = torch.cos(angle) * ramp[None, None, :] + torch.sin(angle) * ramp[None, :, None]
    hidden = (along > 0.05 + 0.6 * torch.rand(count, 1, 1)) & where[:, None, None]
    return torch.where(hidden[:, None], torch.rand(count, 3, 1, 1) * 2 - 1, crops)
