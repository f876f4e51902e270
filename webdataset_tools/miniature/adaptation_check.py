"""Does a tiny CLIP make a good miniature? Weights and shards -> the numbers of a short Id-CLIP adaptation.

Role: validates pretrained weights before they are shipped. Image features are computed once and only the adaptor learns,
so that this takes a minute where open_clip's training loop, which must be general, takes several. What is wanted: names
help a little, and the adaptor's t2i R@1 is at least 1.41 times that of the query by name (arXiv 2412.21009).
"""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from tqdm import tqdm

from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
from open_clip_idplugin.command_line.devices import fast_autocast, fast_precision
from open_clip_idplugin.evaluation.protocols import EvaluationSet, Results, Settings, run
from open_clip_idplugin.prompts import training_caption
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from webdataset_tools.evaluation_data import encode_images, load_evaluation_set

MODEL = "IdCLIP-ViT-miniature"
CONFIGURATIONS = ("captions", "names", "conf1")
_SHOWN = ("t2i_R@1", "t2i_R@5", "t2i_R@10", "mAP@10")


def adaptation_check(
    train: str, data: str, checkpoint: str = "miniature", steps: int = 300, seed: int = 0, templates: str = "0"
) -> None:
    """Adapt to the shards `train`, evaluate on the shards `data` and print a table in percent.

    `checkpoint` is a pretrained tag or a weights file; `templates` as in `idclip evaluate`.
    """
    torch.manual_seed(seed)  # of the adaptor's initial values
    loaded = load_model(MODEL, checkpoint, precision=fast_precision())
    people, features = _encoded(loaded, train)
    loss = adapt(loaded, people, features, steps=steps, seed=seed)
    print(f"adapted in {steps} steps, last loss {loss:.2f}")
    people, features = _encoded(loaded, data)
    settings = Settings(configurations=CONFIGURATIONS, templates=templates, image_to_text=False)
    print(table(run(people, features, QueryEncoder(loaded), settings)))


def adapt(
    loaded: LoadedModel,
    people: EvaluationSet,
    features: np.ndarray,
    steps: int = 300,
    batch_size: int = 128,
    rate: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train the adaptor of a loaded IdCLIP in place on cached unit image features [N, E]; return the last loss.

    open_clip's loss at the temperature of the weights, captions with prompts drawn at random, AdamW with a cosine.
    """
    model, images, faces = loaded.model, torch.from_numpy(features), torch.from_numpy(people.faces)
    model.requires_grad_(False)
    model.adaptor.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.adaptor.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng, words, loss_of = np.random.default_rng(seed), random.Random(seed), ClipLoss()
    loss = torch.zeros(())
    for _ in tqdm(range(steps), desc="adaptor", unit="step"):
        batch = rng.choice(len(people), min(batch_size, len(people)), replace=False)
        captions = [training_caption(words.choice(people.captions[row]), "multi", words) for row in batch]
        query = loaded.tokenizer(captions, faces=faces[batch])
        with fast_autocast():
            texts = model.encode_text(query)
        loss = loss_of(images[batch], F.normalize(texts.float(), dim=-1), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def table(results: Results) -> str:
    """The chosen numbers in percent, one configuration a line."""
    lines = [" ".join([f"{'':10s}", *(f"{name:>10s}" for name in _SHOWN)])]
    for configuration, values in results.metrics.items():
        cells = [f"{100 * values[name]:10.1f}" if name in values else f"{'-':>10s}" for name in _SHOWN]
        lines.append(" ".join([f"{configuration:10s}", *cells]))
    return "\n".join(lines)


def _encoded(loaded: LoadedModel, shards: str) -> tuple[EvaluationSet, np.ndarray]:
    people = load_evaluation_set(shards)
    encoded = encode_images(shards, people, QueryEncoder(loaded), loaded.preprocess)
    return encoded.evaluation_set, encoded.features


if __name__ == "__main__":
    from open_clip_idplugin.cli import main_of

    main_of(adaptation_check, "python -m webdataset_tools.miniature.adaptation_check")
