"""The published numbers that the benchmark's tables stand beside, as data.

Source: Messina, Vadicamo, Maltese, Gennaro, "Towards Identity-Aware Cross-Modal Retrieval: a Dataset and a Baseline"
(ECIR 2025, arXiv 2412.21009): test split of COCO-PFS, OpenAI ViT-L/14@336px, adaptor with one hidden layer. Percent.
The miniature world is another data set with another CLIP: what can be compared are ratios to the query by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SOURCE = "arXiv 2412.21009, test split of COCO-PFS, OpenAI ViT-L/14@336px, adaptor with one hidden layer"
BY_NAME = "names"
BEST_TEMPLATE = "best template"  # ends a query's name: one wording for all captions, chosen on validation
GENERAL_METRICS = ("t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_R@50")
ENTITY_METRICS = ("entity_R@1_kmin", "entity_R@5", "entity_R@10", "entity_R@50", "mAP@10")


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table: number of visual prompts, query, metric -> percent."""

    visual_prompts: int
    query: str
    percent: Mapping[str, float]


def _rows(metrics: Iterable[str], *rows: tuple[int, str, tuple[float, ...]]) -> tuple[PublishedRow, ...]:
    return tuple(PublishedRow(prompts, query, dict(zip(metrics, values))) for prompts, query, values in rows)


GENERAL = _rows(
    GENERAL_METRICS,
    (0, "captions", (12.1, 56.2, 69.1, 92.2)),
    (0, "names", (26.2, 58.2, 70.1, 91.8)),
    (0, "conf1", (36.3, 66.6, 77.8, 95.2)),
    (0, "conf3", (36.4, 65.0, 75.8, 94.4)),
    (5, "captions", (12.4, 57.9, 70.6, 93.2)),
    (5, "names", (27.9, 61.7, 72.9, 93.0)),
    (5, "conf1", (39.2, 68.2, 78.5, 95.7)),
    (5, f"conf1 {BEST_TEMPLATE}", (43.2, 71.2, 80.8, 96.7)),
    (5, "conf3", (37.5, 66.1, 76.3, 94.3)),
)
ENTITY = _rows(
    ENTITY_METRICS,
    (0, "names", (12.8, 6.0, 8.4, 17.5, 2.1)),
    (0, "conf1", (15.4, 11.1, 13.5, 28.0, 3.1)),
    (0, "conf4", (21.8, 11.8, 14.2, 28.2, 3.6)),
    (5, "names", (15.4, 7.3, 9.2, 19.1, 2.5)),
    (5, "conf1", (21.2, 11.5, 14.2, 31.9, 3.7)),
    (5, "conf4", (24.3, 13.7, 16.2, 31.4, 4.2)),
)


def published_row(table: Iterable[PublishedRow], visual_prompts: int, query: str) -> PublishedRow | None:
    """The row of a table, None where nothing was published."""
    return next((row for row in table if (row.visual_prompts, row.query) == (visual_prompts, query)), None)


def times_names(table: Iterable[PublishedRow], visual_prompts: int, query: str, metric: str) -> float | None:
    """The published ratio to the query by name with as many visual prompts, None where one of both is missing."""
    rows = tuple(table)
    row, named = (published_row(rows, visual_prompts, name) for name in (query, BY_NAME))
    return row.percent[metric] / named.percent[metric] if row and named else None
