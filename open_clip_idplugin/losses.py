"""Losses that know what an image shows and what a text is about: features and labels in, named terms out.

Role: open_clip's ClipLoss and SigLipLoss with other targets than "row i belongs to column i", and the weighted sum of
several training setups. B images come with K texts each, one a setup, item by item: texts 0 .. K-1 belong to image 0.
Labels, one row a text, travel with it (`IdentityText.labels`) and are gathered over all ranks as the features are:
    image_shows [B * K, 2] int64  the identity and the scene of the text's image
    text_about  [B * K, 2] int64  the identity and the scene that the text tells, or ANYTHING
Setups: Messina et al., Towards Identity-Aware Cross-Modal Retrieval, ECIR 2025, arXiv 2412.21009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed.nn
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn

from open_clip_idplugin.errors import IdClipError

IMAGE_SHOWS = "image_shows"
TEXT_ABOUT = "text_about"
ANYTHING = -1  # a text that does not tell the identity (or the scene) suits every one

MASK = "mask"  # what matches beside a pair itself is left out of its negatives
POSITIVE = "positive"  # what matches is a target, as much as the pair itself


def matches(image_shows: torch.Tensor, text_about: torch.Tensor) -> torch.Tensor:
    """[N, 2] and [M, 2] -> [N, M] bool: whether the text is true of the image."""
    identity, scene = (
        (text_about[:, column] == ANYTHING) | (image_shows[:, column, None] == text_about[:, column])
        for column in (0, 1)
    )
    return identity & scene


class MatchingClipLoss(ClipLoss):
    """ClipLoss that knows which other pairs of the batch match.

    others: MASK leaves them out; POSITIVE makes them targets: cross-entropy against row-normalised targets, or with
    `binary` the binary cross-entropy of every pair on its own, averaged.
    """

    def __init__(self, others: str, binary: bool = False, **host_settings: Any) -> None:
        super().__init__(**host_settings)
        self.others, self.binary = others, binary

    def forward(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        *,
        image_shows: torch.Tensor,
        text_about: torch.Tensor,
    ) -> torch.Tensor:
        """Unit features [N, D] and labels [N, 2] of a rank's pairs -> the loss of its rows, or of all without `local_loss`."""
        per_image, per_text = self.get_logits(image_features, text_features, logit_scale, logit_bias)
        all_shows, all_about = _gathered(image_shows, self.world_size), _gathered(text_about, self.world_size)
        whole = self.world_size == 1 or not self.local_loss
        match_image = matches(all_shows if whole else image_shows, all_about)
        match_text = match_image.T if whole else matches(all_shows, text_about).T
        own = self.get_ground_truth(image_features.device, len(per_image))
        return (self._rows(per_image, match_image, own) + self._rows(per_text, match_text, own)) / 2

    def _rows(self, logits: torch.Tensor, match: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Logits and matches [R, C], the column of each row's own pair [R] -> mean loss of the rows."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        if self.others == MASK:
            return F.cross_entropy(logits.masked_fill(_other_matches(match, own), -torch.inf), own)
        targets = match.to(logits.dtype)
        if self.binary:
            return F.binary_cross_entropy_with_logits(logits, targets)
        return F.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))


class MatchingSigLipLoss(SigLipLoss):
    """SigLipLoss that knows which other pairs of the batch match: MASK leaves them out, POSITIVE gives them label 1."""

    def __init__(self, others: str, **host_settings: Any) -> None:
        super().__init__(**host_settings)
        self.others = others

    def forward(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        *,
        image_shows: torch.Tensor,
        text_about: torch.Tensor,
    ) -> torch.Tensor:
        """Unit features [N, D] and labels [N, 2] of a rank's pairs -> the loss of its images with the texts of all ranks."""
        first = 0
        if self.world_size > 1:
            first = self.rank * len(image_features)
            text_features = torch.cat(torch.distributed.nn.all_gather(text_features.contiguous()))
            text_about = _gathered(text_about, self.world_size)
        logits = self.get_logits(image_features, text_features, logit_scale, logit_bias)
        match = matches(image_shows, text_about)
        own = torch.arange(first, first + len(image_features), device=match.device)
        others = _other_matches(match, own)
        positive = match if self.others == POSITIVE else match & ~others
        each = F.logsigmoid(torch.where(positive, logits, -logits))
        if self.others == MASK:
            each = each.masked_fill(others, 0)
        return -each.sum() / len(image_features)


@dataclass(frozen=True)
class Term:
    """One setup's part in the loss. labelled: `loss` takes the labels (the Matching* classes); the host's do not."""

    name: str
    weight: float
    loss: nn.Module
    labelled: bool


class SetupsLoss(nn.Module):
    """The weighted sum of the losses of K setups, in the order in which the texts of an image stand."""

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)

    def forward(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        output_dict: bool = False,
        **labels: torch.Tensor,
    ) -> Any:
        """Features [B, D] and [B * K, D], labels [B * K, 2] -> the sum, or its weighted terms as `<setup>_loss`.

        Raises IdClipError for a batch of another form.
        """
        count = len(self.terms)
        if len(text_features) != count * len(image_features):
            raise IdClipError(
                f"a batch of {len(image_features)} images has {len(text_features)} texts, but {count} training setups "
                f"({', '.join(term.name for term in self.terms)}) need one text each an image."
            )
        losses = {}
        for number, term in enumerate(self.terms):
            given = {name: label[number::count] for name, label in labels.items()} if term.labelled else {}
            value = term.loss(image_features, text_features[number::count], logit_scale, logit_bias=logit_bias, **given)
            losses[f"{term.name}_loss"] = term.weight * value
        return losses if output_dict else sum(losses.values())


def _other_matches(match: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Matches [R, C] without the own pair of each row, whose column is `own` [R]."""
    return match.scatter(1, own[:, None], False)


def _gathered(labels: torch.Tensor, world_size: int) -> torch.Tensor:
    """The rows of all ranks [world_size * N, 2]; ranks have as many."""
    if world_size == 1:
        return labels
    rows = [torch.empty_like(labels) for _ in range(world_size)]
    torch.distributed.all_gather(rows, labels.contiguous())
    return torch.cat(rows)
