"""Pretraining of the tiny CLIP: drawn pictures with alt-texts -> the weights and the vocabulary that the package ships.

Role: `python -m webdataset_tools.miniature.clip_pretraining --output DIR --seed 0` makes `miniature_clip.safetensors`
and `miniature_bpe.txt.gz` again. Counted in steps: the image tower learns by naming the word groups of the alt-texts
(`clip_samples`), then it is frozen and the text tower is aligned to its cached features, as in LiT (Zhai et al., arXiv
2111.07991), with open_clip's towers, tokenizer and loss. From-scratch contrastive learning at this size would learn
backgrounds only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.loss import ClipLoss
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from open_clip_idplugin.assets import MODEL_CONFIGS
from open_clip_idplugin.command_line.devices import fast_autocast
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import miniature_tower  # registers the image tower
from open_clip_idplugin.prompts import CAPTION_TEMPLATES, ENTITY
from open_clip_idplugin.storage.atomic import atomic_path
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.miniature.bpe import learn_merges, vocabulary_size, write_merges
from webdataset_tools.miniature.clip_batch_norm import add_batch_norm, fold_batch_norm
from webdataset_tools.miniature.clip_samples import (
    PICTURES_PER_SCENE,
    UNSEEN,
    PretrainingPictures,
    captions_of_scenes,
    choose_groups,
    draw_pictures,
    group_targets,
)

CONFIG = MODEL_CONFIGS / "IdCLIP-ViT-miniature.json"
Pixels = Callable[[np.ndarray], np.ndarray]  # rows [n] -> uint8 [n, H, W, 3]
WEIGHTS_NAME, VOCABULARY_NAME = "miniature_clip.safetensors", "miniature_bpe.txt.gz"


@dataclass(frozen=True)
class Recipe:
    """How much and how fast; the defaults are the step counts of the shipped weights (docs/miniature.md)."""

    pictures: int = 24_000
    held_out: int = 1_000
    groups: int = 2_000  # at most; there are fewer that occur often enough
    head_steps: int = 1_000
    image_steps: int = 700
    image_batch: int = 128
    image_rate: float = 2e-3
    text_steps: int = 800
    text_batch: int = 256
    text_rate: float = 1.5e-3
    hard_places: int = 2  # backgrounds in every other batch of the text tower, which has whole scenes of few places
    weight_decay: float = 0.05


def pretrain(output: str, seed: int = 0, workers: int = 2) -> None:
    """Draw the pictures, train both towers and write vocabulary, weights and a report to `output`.

    Pictures and the image tower are kept there, so that a killed run goes on where it was.
    """
    folder, recipe = Path(output), Recipe()
    train = _stored(folder / f"pictures_{seed}.npz", lambda: draw_pictures(recipe.pictures, 0, seed, workers))
    unseen = _stored(folder / f"unseen_{seed}.npz", lambda: draw_pictures(recipe.held_out, UNSEEN, seed, workers))
    model = create_plain_model()
    write_merges(folder / VOCABULARY_NAME, learn_vocabulary(train, int(model.text.vocab_size)))
    tokenizer = SimpleTokenizer(str(folder / VOCABULARY_NAME), context_length=int(model.text.context_length))
    tower_path = folder / f"image_tower_{seed}.pt"
    if not tower_path.exists():
        train_image_tower(model.visual, train, recipe, seed)
        with atomic_path(tower_path) as temporary:
            torch.save(model.visual.state_dict(), temporary)
    model.visual.load_state_dict(torch.load(tower_path, weights_only=True))
    align_text_tower(model, tokenizer, train, recipe, seed)
    save_weights(model, folder / WEIGHTS_NAME)
    report = {"seed": seed, **recipe.__dict__, "held_out_recalls": held_out_recalls(model, tokenizer, unseen)}
    (folder / "report.json").write_text(json_text(report, indent=2))
    print(json_text(report))
    print(
        f"wrote {folder / WEIGHTS_NAME} and {folder / VOCABULARY_NAME}; copy both to {CONFIG.parent.parent / 'weights'}"
    )


def create_plain_model(seed: int = 0) -> CustomTextCLIP:
    """The towers of the model config without the parts that IdCLIP adds, with random weights."""
    settings: dict[str, Any] = json.loads(CONFIG.read_text())
    torch.manual_seed(seed)
    return CustomTextCLIP(settings["embed_dim"], settings["vision_cfg"], settings["text_cfg"])


def learn_vocabulary(pictures: PretrainingPictures, vocab_size: int) -> list[tuple[str, str]]:
    """Byte pairs of the alt-texts, of COCO-like captions and of the templates that people are asked for with."""
    templates = [template.replace(ENTITY, " ").replace("[CAPTION]", " ") for template in CAPTION_TEMPLATES] * 20
    merges = learn_merges(
        [*(text for of_picture in pictures.texts for text in of_picture), *captions_of_scenes(1_000), *templates],
        vocab_size,
    )
    if vocabulary_size(merges) != vocab_size:
        raise IdClipError(
            f"the texts fill a vocabulary of {vocabulary_size(merges)} entries, the model config says {vocab_size}; "
            "lower its vocab_size or draw more pictures."
        )
    return merges


class _View(nn.Module):
    """A way to look at pictures: which pixels, and the word groups that an embedding of them names."""

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels, frequency: torch.Tensor) -> None:
        super().__init__()
        self.encode, self.pixels = encode, pixels
        self.namer = nn.Linear(miniature_tower.WIDTH, len(frequency))
        self.namer.bias.data = torch.logit(frequency)
        entropy = -(torch.xlogy(frequency, frequency) + torch.xlogy(1 - frequency, 1 - frequency))
        self.weights = entropy**-0.5 / (entropy**0.5).sum()

    def loss(self, rows: np.ndarray, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of all groups, `targets` float32 [n, G], for some pictures; 1 is guessing by frequency.

        Groups are weighted by the square root of their rarity (in information): as with real CLIPs it is the names of the
        known by which faces are learned, and unweighted their few pictures would not count. Fully weighted, scenes would not.
        """
        with fast_autocast():
            logits = self.namer(self.encode(to_pixels(self.pixels(rows))))
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(0)
        return (losses * self.weights).sum()


def train_image_tower(tower: nn.Module, pictures: PretrainingPictures, recipe: Recipe, seed: int) -> None:
    """First stage: name the word groups of pictures. Batch norm is there during this stage only.

    In whole pictures faces are small and places are easy. So the convolutions learn from heads first, which is cheap, and
    heads stay a task of theirs beside the whole pictures: without it they forget faces.
    """
    groups = choose_groups(pictures.texts, recipe.groups)
    targets = torch.from_numpy(group_targets(pictures.texts, groups))
    torch.manual_seed(seed)
    add_batch_norm(tower)
    tower.train()
    trunk = tower.trunk.patch_embed
    heads = _View(lambda images: trunk(images).mean(1), pictures.heads, targets.float().mean(0))
    whole = _View(lambda images: tower(images), lambda rows: pictures.pixels[rows], targets.float().mean(0))
    for label, learner, views, steps in (
        ("heads", trunk, [heads], recipe.head_steps),
        ("image tower", tower, [heads, whole], recipe.image_steps),
    ):
        optimizer, schedule = _optimizer([learner, *views], recipe.image_rate, recipe.weight_decay, steps)
        batches = _random_batches(len(pictures), recipe.image_batch, steps, seed)
        progress = tqdm(batches, total=steps, desc=label, unit="step")
        for rows in progress:
            losses = [view.loss(rows, targets[rows].float()) for view in views]
            _step(optimizer, schedule, torch.stack(losses).sum())
            progress.set_postfix(loss=f"{losses[-1].item():.3f}", refresh=False)
    fold_batch_norm(tower)


def align_text_tower(
    model: CustomTextCLIP, tokenizer: SimpleTokenizer, pictures: PretrainingPictures, recipe: Recipe, seed: int
) -> None:
    """Second stage: open_clip's contrastive loss on the frozen image features and the text tower's."""
    images = encode_pictures(model.visual, pictures.pixels)
    tokens = tokenizer([text for of_picture in pictures.texts for text in of_picture])
    tokens = tokens.view(len(pictures), -1, tokens.shape[1])
    full_mask = model.text.attn_mask
    longest = int((tokens != 0).sum(-1).max())
    tokens, model.text.attn_mask = tokens[..., :longest], full_mask[:longest, :longest]
    optimizer, schedule = _optimizer(
        [model.text, model.logit_scale], recipe.text_rate, recipe.weight_decay, recipe.text_steps
    )
    loss_of, choice = ClipLoss(), torch.Generator().manual_seed(seed)
    model.text.train()
    progress = tqdm(_hard_batches(pictures, recipe, seed), total=recipe.text_steps, desc="text tower", unit="step")
    for batch in progress:
        which = torch.randint(tokens.shape[1], (len(batch),), generator=choice)
        with fast_autocast(), sdpa_kernel(SDPBackend.MATH):
            texts = model.text(tokens[batch, which])
        loss = loss_of(images[batch], F.normalize(texts.float(), dim=-1), model.logit_scale.exp())
        _step(optimizer, schedule, loss)
        model.logit_scale.data.clamp_(0, math.log(100))
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.text.attn_mask = full_mask


@torch.no_grad()
def encode_pictures(tower: nn.Module, pixels: np.ndarray, batch: int = 250) -> torch.Tensor:
    """Unit features float32 [N, D] of pictures uint8 [N, 96, 96, 3]."""
    tower.eval()
    features = []
    for start in tqdm(range(0, len(pixels), batch), desc="image features", unit="batch", leave=False):
        with fast_autocast():
            features.append(tower(to_pixels(pixels[start : start + batch])).float())
    return F.normalize(torch.cat(features), dim=-1)


@torch.no_grad()
def held_out_recalls(
    model: CustomTextCLIP, tokenizer: SimpleTokenizer, pictures: PretrainingPictures
) -> dict[str, float]:
    """Text-to-image R@1, R@5, R@10 in percent: the first alt-text of every picture among all pictures."""
    images = encode_pictures(model.visual, pictures.pixels)
    model.text.eval()
    texts = F.normalize(model.text(tokenizer([of_picture[0] for of_picture in pictures.texts])), dim=-1)
    scores = texts @ images.T
    ranks = (scores > scores.diagonal()[:, None]).sum(1)
    return {f"R@{k}": round(100 * (ranks < k).float().mean().item(), 1) for k in (1, 5, 10)}


def save_weights(model: CustomTextCLIP, path: Path) -> None:
    """Write the towers in half precision, in the layout that open_clip loads strictly."""
    with atomic_path(path) as temporary:
        save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, str(temporary))


def to_pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], normalised as open_clip does by default."""
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    scaled = (torch.from_numpy(pictures).float() / 255 - mean) / std
    return scaled.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _stored(path: Path, draw: Callable[[], PretrainingPictures]) -> PretrainingPictures:
    if not path.exists():
        draw().save(path)
    return PretrainingPictures.load(path)


def _optimizer(
    parts: list[nn.Module | nn.Parameter], rate: float, decay: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW without decay on gains, biases and single parameters; the rate warms up and falls as a cosine."""
    parameters = [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
    )
    warm = max(1, steps // 20)

    def share(step: int) -> float:
        return (
            (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        )

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _step(optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    schedule.step()


def _random_batches(count: int, size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Index batches, epoch after epoch in a new order."""
    rng, order = np.random.default_rng(seed), np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:size]
        order = order[size:]


def _hard_batches(pictures: PretrainingPictures, recipe: Recipe, seed: int) -> Iterator[np.ndarray]:
    """Random index batches; every other one holds whole scenes of few backgrounds, so that people and details count."""
    rng, places = np.random.default_rng(seed), np.unique(pictures.places)
    for step, batch in enumerate(_random_batches(len(pictures), recipe.text_batch, recipe.text_steps, seed)):
        if step % 2:
            chosen = np.isin(pictures.places, rng.choice(places, recipe.hard_places, replace=False))
            scenes = rng.permutation(np.unique(pictures.scenes[chosen]))
            batch = np.flatnonzero(np.isin(pictures.scenes, scenes[: recipe.text_batch // PICTURES_PER_SCENE]))
        yield batch


if __name__ == "__main__":
    from open_clip_idplugin.cli import main_of

    main_of(pretrain, "python -m webdataset_tools.miniature.clip_pretraining")
