"""The worst queries of a run, with what was found instead: where to look first when a number is low."""

from typing import Any

import numpy as np

from open_clip_idplugin.evaluation.metrics import Scores, top_of_rows

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


def describe(
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
