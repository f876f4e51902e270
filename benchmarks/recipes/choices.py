"""What is chosen on the validation people before the test people are asked: a template, and rules that fuse faces.

Role: queries of validation -> `Choices`. Strata are not looked at: the best t2i R@1 of all queries is chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from open_clip_idplugin.evaluation.metrics import CosineScores, general_ranks
from open_clip_idplugin.evaluation.protocols import (
    CAPTIONS_PER_IMAGE,
    Asked,
    EvaluationSet,
    Settings,
    TextEncoder,
    ask,
)
from open_clip_idplugin.evaluation.rivals import untuned
from open_clip_idplugin.faces.calibration import assumed_calibration
from open_clip_idplugin.prompts import GENERAL_TEMPLATES
from open_clip_idplugin.queries.fusion import Fusion


@dataclass(frozen=True)
class Choices:
    """template: number of the best one, None where no face is asked for; rules: row -> how it fuses."""

    template: int | None = None
    rules: Mapping[str, Fusion] = field(default_factory=lambda: untuned(assumed_calibration("")))


def one_caption_each(evaluation_set: EvaluationSet) -> EvaluationSet:
    """The set with one caption an image, in turns of all of them: a fifth of the queries for what is asked often."""
    captions = tuple(
        (texts[:CAPTIONS_PER_IMAGE][row % min(len(texts), CAPTIONS_PER_IMAGE)],) if texts else ()
        for row, texts in enumerate(evaluation_set.captions)
    )
    return replace(evaluation_set, captions=captions)


def first_share(asked: Asked, image_features: np.ndarray) -> float:
    """t2i R@1 of encoded queries."""
    assert asked.queries is not None and asked.features is not None
    scores = CosineScores(asked.features, image_features)
    ranks = general_ranks(scores, asked.queries.image_of_query, asked.queries.row_of_query, i2t=False)
    return float((ranks.t2i == 0).mean())


def best_template(
    evaluation_set: EvaluationSet, image_features: np.ndarray, encoder: TextEncoder, configuration: str
) -> int:
    """The number of the template with the best t2i R@1, the first of several, from one caption an image."""
    few = one_caption_each(evaluation_set)
    shares = []
    for template in range(len(GENERAL_TEMPLATES)):
        settings = Settings((configuration,), ("general",), template)
        shares.append(first_share(ask(few, configuration, encoder, settings), image_features))
    return int(np.argmax(shares))
