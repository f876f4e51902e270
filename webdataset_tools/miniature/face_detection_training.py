"""Train the miniature's face detector: drawn pictures with exact boxes and landmarks -> `Detector`.

It learns the faces of plain scenes and portraits alone, so that small, turned, hidden, dark and blurred ones are found
as rarely as real detectors find them; of hard scenes it learns where no face is.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from webdataset_tools.miniature.face_nets import ANCHOR_SIZES, STRIDES, Detector, cosine_share
from webdataset_tools.miniature.face_samples import DetectionSet

SIDE = 192  # of the pictures trained on and of the square that the detector is meant to see pictures in
_REACH = 1.45  # an anchor answers for faces up to this many times larger or smaller than its size ...
_IGNORED = 1.9  # ... and is neither praised nor blamed up to this many times
_LANDMARK_SWAP = [1, 0, 2, 4, 3]  # left and right change places in a mirrored picture


def train_detector(data: DetectionSet, steps: int, batch: int = 32, lr: float = 2e-3, seed: int = 0) -> Detector:
    """Train for `steps` batches of randomly scaled, shifted, mirrored and joined pictures."""
    torch.manual_seed(seed)
    net = Detector().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_share(step, steps))
    rng = np.random.default_rng(seed)
    progress = tqdm(range(steps), desc="detector", unit="step")
    for _ in progress:
        views = [_view(data, rng) for _ in range(batch)]
        pictures = torch.from_numpy(np.stack([picture for picture, _ in views])).permute(0, 3, 1, 2).float()
        pictures = _recolour((pictures - 127.5) / 128).to(memory_format=torch.channels_last)
        loss = detection_loss(net.maps(pictures), [faces for _, faces in views])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return net.eval()


def _view(data: DetectionSet, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One training picture uint8 [192, 192, 3] and its faces float32 [n, 15]: box, landmarks (pixels), learn."""
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    kind = rng.random()
    if kind < 0.75:
        place = _natural if kind < 0.35 else _anywhere
        return canvas, _paste(canvas, (0, 0, SIDE), data, int(rng.integers(len(data.pictures))), rng, place)
    half = SIDE // 2
    faces = [
        _paste(canvas, (x, y, half), data, int(rng.integers(len(data.pictures))), rng, _anywhere)
        for x in (0, half)
        for y in (0, half)
    ]
    return canvas, np.concatenate(faces)


def _anywhere(box: np.ndarray, side: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Scale and middle of a face whose height is log-uniform from 24 pixels to 0.9 of the tile, at a free place."""
    goal = float(np.exp(rng.uniform(np.log(24), np.log(0.9 * side))))
    reach = max(0.0, side - goal) / 2 + 0.1 * goal
    return goal / _face_size(box), side / 2 + rng.uniform(-1, 1, 2) * reach


def _natural(box: np.ndarray, side: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Scale and middle of a face in a picture that is shown nearly as it is."""
    scale = float(rng.uniform(0.85, 1.15)) * side / SIDE
    return scale, side / 2 + scale * ((box[:2] + box[2:] - SIDE) / 2) + rng.uniform(-12, 12, 2)


def _paste(
    canvas: np.ndarray,
    tile: tuple[int, int, int],
    data: DetectionSet,
    index: int,
    rng: np.random.Generator,
    place: Callable[[np.ndarray, int, np.random.Generator], tuple[float, np.ndarray]],
) -> np.ndarray:
    """Warp picture `index` into the square `tile` (x, y, side) of `canvas`; return its face float32 [1, 15]."""
    x, y, side = tile
    box, points = data.boxes[index], data.landmarks[index]
    scale, target = place(box, side, rng)
    factors = np.array([-scale if rng.random() < 0.5 else scale, scale])
    shift = target - factors * (box[:2] + box[2:]) / 2
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    canvas[y : y + side, x : x + side] = _warp(data.pictures[index], factors, shift, side, border)
    corners = np.sort(box.reshape(2, 2) * factors + shift, axis=0)
    moved = points * factors + shift
    moved = moved[_LANDMARK_SWAP] if factors[0] < 0 else moved
    return np.concatenate([(corners + [x, y]).ravel(), (moved + [x, y]).ravel(), data.learn[[index]]])[None].astype(
        "f4"
    )


def _warp(picture: np.ndarray, factors: np.ndarray, shift: np.ndarray, side: int, border: int) -> np.ndarray:
    """Scale by `factors` (x, y; negative mirrors) and shift into [side, side, 3] without aliasing."""
    ratio = min(1.0, 2 * float(factors[1]))
    if ratio < 1:  # a warp samples single pixels: shrink first
        picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    matrix = np.array([[factors[0] / ratio, 0, shift[0]], [0, factors[1] / ratio, shift[1]]])
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)


def _face_size(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1]))


def _recolour(pictures: Tensor) -> Tensor:
    """Vary brightness, tint and noise a little."""
    count = len(pictures)
    light = torch.exp(0.2 * torch.randn(count, 1, 1, 1)) * (1 + 0.06 * torch.randn(count, 3, 1, 1))
    noise = 0.04 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)
    return ((pictures + 1) * light - 1 + noise).clamp(-1, 1)


def detection_loss(maps: list[tuple[Tensor, Tensor, Tensor]], faces: list[np.ndarray]) -> Tensor:
    """Focal loss of the scores plus smooth L1 losses of boxes and landmarks in units of the anchor's size."""
    score_loss, shape_loss, positives = [], [], 0
    for level, (logits, boxes, points) in enumerate(maps):
        side = SIDE // STRIDES[level]
        for anchor, size in enumerate(ANCHOR_SIZES[level]):
            label, targets = _targets(faces, STRIDES[level], side, size)
            here = slice(anchor, None, 2)
            score_loss.append(_focal(logits[:, here, 0], label))
            chosen = label > 0.5
            positives += int(chosen.sum())
            if chosen.any():
                guess = torch.cat([boxes[:, here][chosen], points[:, here][chosen]], 1) * (STRIDES[level] / size)
                error = functional.smooth_l1_loss(guess, targets[chosen] / size, beta=0.05, reduction="none")
                shape_loss.append(error[:, :4].sum() + error[:, 4:].sum())
    total = torch.stack(score_loss).sum() + 2.0 * (torch.stack(shape_loss).sum() if shape_loss else 0.0)
    return total / max(1, positives)


def _targets(faces: list[np.ndarray], stride: int, side: int, size: float) -> tuple[Tensor, Tensor]:
    """Labels [B, side * side] (1 face, 0 none, -1 ignored) and targets [B, side * side, 14] in pixels from the cell."""
    y, x = np.mgrid[:side, :side].reshape(2, -1) * float(stride)
    labels = np.zeros((len(faces), side * side), np.float32)
    targets = np.zeros((len(faces), side * side, 14), np.float32)
    for row, found in enumerate(faces):
        for face in found:
            height = _face_size(face[:4])
            ratio = max(height / size, size / height)
            distance = np.hypot(x - (face[0] + face[2]) / 2, y - (face[1] + face[3]) / 2)
            if not face[14]:
                labels[row, distance < 0.6 * height] = -1
                continue
            labels[row, (distance < 0.5 * height) & (ratio < _IGNORED) & (labels[row] < 0.5)] = -1
            if ratio < _REACH:
                inside = distance < max(0.22 * height, 0.72 * stride)
                labels[row, inside] = 1
                sides = np.stack([x - face[0], y - face[1], face[2] - x, face[3] - y], 1)
                offsets = face[4:14].reshape(1, 5, 2) - np.stack([x, y], 1)[:, None]
                targets[row, inside] = np.concatenate([sides, offsets.reshape(-1, 10)], 1)[inside]
    return torch.from_numpy(labels), torch.from_numpy(targets)


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss (Lin et al., arXiv 1708.02002), gamma 2, summed over the cells that are not ignored."""
    plain = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
    chance = torch.where(labels > 0.5, 1 - logits.sigmoid(), logits.sigmoid())
    return (plain * chance**2 * (labels >= 0)).sum()
