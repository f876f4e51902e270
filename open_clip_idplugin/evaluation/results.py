"""Results of an evaluation: metrics, strata, curves and the worst queries, by configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from open_clip_idplugin.evaluation.curves import Points
from open_clip_idplugin.evaluation.metrics import Scores, top_of_rows


@dataclass
class Results:
    """Fractions in [0, 1] (sums: up to 4 and 8) by configuration, such as `metrics["conf1"]["t2i_R@1"]`.

    strata: the general protocol by the groups of the set, `strata["conf1"]["stratum=small"]["t2i_R@1"]`, with the
    numbers of `images` and `queries` beside the recalls
    curves: t2i R@1 against what is searched, `curves["gallery_size"]["conf1"]` as [x, y] pairs, see `evaluation.curves`
    failures: the worst queries, `failures["conf1"]`, see `describe_failures`
    tuned: rule and numbers that were chosen on other people, by configuration
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    strata: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, Points]] = field(default_factory=dict)
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tuned: dict[str, dict[str, str | float]] = field(default_factory=dict)

    def add(
        self, configuration: str, general: "General | None" = None, more: Mapping[str, float] | None = None
    ) -> None:
        """Note what a configuration found in general retrieval, and further metrics."""
        values = self.metrics.setdefault(configuration, {})
        if general is not None:
            values |= general.values
            self.strata[configuration] = general.strata
            self.failures[configuration] = general.failures
            for name, points in general.curves.items():
                self.curves.setdefault(name, {})[configuration] = points
        values |= more or {}

    def update(self, other: "Results") -> None:
        """Take the results of other configurations, or other results of the same ones."""
        for configuration, values in other.metrics.items():
            self.metrics.setdefault(configuration, {}).update(values)
        self.strata.update(other.strata)
        self.failures.update(other.failures)
        self.tuned.update(other.tuned)
        for name, lines in other.curves.items():
            self.curves.setdefault(name, {}).update(lines)


@dataclass(frozen=True)
class General:
    """What one configuration found in general retrieval; fields as in `Results`."""

    values: dict[str, float]
    strata: dict[str, dict[str, float]]
    curves: dict[str, Points]
    failures: list[dict[str, Any]]


MOST = 12
SHOWN = 5  # images of each query


def worst_queries(ranks: np.ndarray, image_of_query: np.ndarray, most: int = MOST) -> np.ndarray:
    """Numbers [F] of the queries whose right image has the worst ranks [Q], at most one for an image, worst first.

    Of equal ranks the earlier query comes first; queries that found their image first are no failures.
    """
    order = np.lexsort((np.arange(len(ranks)), -ranks))
    order = order[ranks[order] > 0]
    _, first = np.unique(image_of_query[order], return_index=True)
    return order[np.sort(first)][:most]


def describe_failures(
    scores: Scores, query_rows: np.ndarray, texts: list[str], images: np.ndarray, ranks: np.ndarray, keys: tuple[str, ...],
    identities: tuple[str, ...],
) -> list[dict[str, Any]]:  # fmt: skip
    """`query`, `identity`, `key` of the right image, `rank` (places from 1), `retrieved` keys of the first five, of F queries.

    query_rows: [F] rows of `scores`; texts: F; images, ranks: [F] right images and how many images are above them.
    """
    if not len(query_rows):
        return []
    first = top_of_rows(scores, query_rows.tolist(), SHOWN)
    return [
        {
            "query": text,
            "identity": identities[image],
            "key": keys[image],
            "rank": int(rank) + 1,
            "retrieved": [keys[found] for found in row],
        }
        for text, image, rank, row in zip(texts, images.tolist(), ranks, first.tolist(), strict=True)
    ]
