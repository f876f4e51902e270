"""The two tables of the paper with our numbers: rows by visual prompts and query, the published values beside each.

Role: `Findings` -> tables. Another data set and another CLIP stand behind either side, so that the columns to compare are
the ratios to the query by name.
"""

from collections.abc import Mapping, Sequence

from benchmarks.recipes.findings import Findings
from benchmarks.recipes.published import (
    BEST_TEMPLATE,
    ENTITY,
    ENTITY_METRICS,
    GENERAL,
    GENERAL_METRICS,
    PublishedRow,
    published_row,
    times_names,
)
from benchmarks.recipes.recipes import ADAPTOR, PAPER
from benchmarks.recipes.stratum_tables import shown
from benchmarks.recipes.summary import BY_NAME, Spread, Summary, ratio
from open_clip_idplugin.evaluation.tables import Table
from open_clip_idplugin.prompts import CONFIGURATIONS

RECIPE_OF_PROMPTS = {0: ADAPTOR.name, 5: PAPER.name}
_HEADS = {"t2i_R@1": "t2i R@1", "entity_R@1_kmin": "entity R@1 kmin", "mAP@10": "mAP"}
_NONE = "-"
PUBLISHED = "published"


def general_table(title: str, findings: Findings) -> Table:
    """General retrieval; the last two columns are R@1 as a multiple of the query by name."""
    return _table(title, findings.shown, GENERAL, GENERAL_METRICS, "t2i_R@1")


def entity_table(title: str, findings: Findings) -> Table:
    """Entity retrieval; the last two columns are mAP as a multiple of the query by name."""
    return _table(title, findings.shown, ENTITY, ENTITY_METRICS, "mAP@10")


def _table(
    title: str,
    summaries: Mapping[str, Summary],
    published: Sequence[PublishedRow],
    metrics: Sequence[str],
    compared: str,
) -> Table:
    heads = [head for name in metrics for head in (_head(name), PUBLISHED)]
    rows = []
    for prompts, recipe in RECIPE_OF_PROMPTS.items():
        summary = summaries.get(recipe, {})
        named = summary.get(BY_NAME, {}).get(compared)
        for query in _ordered(summary, published, prompts):
            values = summary[query]
            theirs = published_row(published, prompts, query)
            if compared not in values:
                continue
            cells = [cell for name in metrics for cell in (shown(values.get(name)), _published(theirs, name))]
            times = (_times(values[compared], named), _number(times_names(published, prompts, query, compared)))
            rows.append((str(prompts or "none"), query, *cells, *times))
    return Table(title, ("visual prompts", "query", *heads, f"{_head(compared)} × names", PUBLISHED), tuple(rows))


def _ordered(summary: Summary, published: Sequence[PublishedRow], prompts: int) -> list[str]:
    """Our queries of the paper's kinds, those that it printed first and in its order."""
    printed = [row.query for row in published if row.visual_prompts == prompts]
    ours = [query for query in summary if query.removesuffix(f" {BEST_TEMPLATE}") in CONFIGURATIONS]
    return [*(query for query in printed if query in ours), *(query for query in ours if query not in printed)]


def _head(metric: str) -> str:
    return _HEADS.get(metric, metric.rpartition("_")[2])


def _published(row: PublishedRow | None, metric: str) -> str:
    return f"{row.percent[metric]:.1f}" if row else _NONE


def _times(value: Spread, named: Spread | None) -> str:
    return _number(ratio(value.mean, named.mean) if named else None)


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
