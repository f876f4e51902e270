"""Training setups: flag's text -> with which texts an image is trained, and the term of the loss that each of them has.

Role: `--id-setup`, `--id-entity-loss`, `--id-false-negatives`. Words only, no host; an image of a run with several setups
has one text of each.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.prompts import training_caption

WITH_ENTITIES = "with_entities"  # the caption with the placeholder
ONLY_ENTITIES = "only_entities"  # a prompt with the placeholder and nothing else
COCO_ORIGINAL = "coco_original"  # the caption alone
SETUPS = (WITH_ENTITIES, ONLY_ENTITIES, COCO_ORIGINAL)

CROSS_ENTROPY, BCE = "cross_entropy", "bce"
ENTITY_LOSSES = (CROSS_ENTROPY, BCE)
KEEP = "keep"
FALSE_NEGATIVES = (KEEP, "mask", "positive")  # the last two are words of open_clip_idplugin.losses


@dataclass(frozen=True)
class TermOptions:
    """One setup's term of the loss.

    others: what becomes of other pairs of the batch that match; KEEP leaves them negatives, as the host's own loss does.
    form: "" is the host's (softmax or sigmoid, `--siglip`), else one of ENTITY_LOSSES.
    """

    setup: str
    weight: float
    others: str
    form: str = ""

    @property
    def labelled(self) -> bool:
        """Whether the term needs to know who and what is in an image."""
        return self.others != KEEP


def loss_terms(setups: Mapping[str, float], entity_loss: str, false_negatives: str) -> tuple[TermOptions, ...]:
    """Setup -> weight and the two flags' values -> the terms of the loss, in the order of the setups.

    A text of ONLY_ENTITIES is true of every picture of its person, so that all of them are its targets.
    """
    return tuple(
        TermOptions(name, weight, "positive", entity_loss)
        if name == ONLY_ENTITIES
        else TermOptions(name, weight, false_negatives)
        for name, weight in setups.items()
    )


def parse_setups(text: str) -> dict[str, float]:
    """ "with_entities=1,only_entities=0.1" -> weights in that order; a setup without a number has weight 1.

    Raises IdClipError on another setup, one that comes twice and a weight that is no number above 0.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in SETUPS:
            raise IdClipError(f"there is no setup {name!r}; choose from {', '.join(SETUPS)}.")
        if name in weights:
            raise IdClipError(f"the setup {name} comes twice.")
        try:
            weights[name] = float(number) if equals else 1.0
        except ValueError:
            weights[name] = math.nan
        if not 0 < weights[name] < math.inf:
            raise IdClipError(f"the weight of {name} must be a number above 0, not {number!r}.")
    return weights


def setup_text(setup: str, caption: str, captions: str, rng: random.Random, face_dropout: float) -> str:
    """The text of one setup for a picture with this caption; it holds the placeholder or not.

    captions: the caption setting, see `prompts.training_caption`; face_dropout: share of WITH_ENTITIES that stays plain.
    """
    if setup == COCO_ORIGINAL or (setup == WITH_ENTITIES and rng.random() < face_dropout):
        return caption
    return training_caption("" if setup == ONLY_ENTITIES else caption, captions, rng)
