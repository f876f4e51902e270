"""Result tables: fractions -> Markdown and console in percent, JSON and CSV as they are.

Role: `protocols.Results` in, text out. One row a configuration, one column a metric; sums of recalls in percent too.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_idplugin.evaluation.results import Results
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text

GENERAL = ("t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_R@50", "i2t_R@1", "i2t_R@5", "i2t_R@10", "i2t_R@50", "t2i_sum", "sum")
SCENES = ("right_scene", "right_person")
ENTITY = ("entity_R@1_kmin", "entity_R@5", "entity_R@10", "entity_R@50", "mAP@10", "mAP@10_standard")
COUNTS = ("images", "queries")
_LISTED = ("skipped", "calibration", "wordings")


@dataclass(frozen=True)
class Table:
    """A title, column heads and rows of text; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def result_tables(results: Results) -> list[Table]:
    """The tables that have something to show: general, entity, and t2i R@1 by stratum."""
    tables = [
        _metric_table("General retrieval (percent)", results.metrics, (*GENERAL, *SCENES)),
        _metric_table("Entity retrieval (percent)", results.metrics, ENTITY),
        _strata_table("Text-to-image R@1 by stratum (percent)", results.strata),
    ]
    return [table for table in tables if table.rows]


def to_console(tables: Sequence[Table]) -> str:
    """Aligned columns, numbers to the right."""
    return "\n\n".join(_aligned(table) for table in tables)


def to_markdown(tables: Sequence[Table]) -> str:
    """One heading and one pipe table each."""
    return "\n".join(_pipes(table) for table in tables)


def to_csv(results: Results) -> str:
    """Long form, `configuration,stratum,metric,value`; the stratum of a whole set is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("configuration", "stratum", "metric", "value"))
    for configuration, values in results.metrics.items():
        writer.writerows((configuration, "", metric, repr(value)) for metric, value in values.items())
        for stratum, recalls in results.strata.get(configuration, {}).items():
            writer.writerows((configuration, stratum, metric, repr(value)) for metric, value in recalls.items())
    return stream.getvalue()


def to_json(results: Results, about: Mapping[str, Any]) -> str:
    """`{"about": ..., "metrics": {configuration: {metric: fraction}}, ...}` with all fields of `Results`."""
    document = {"about": dict(about), **vars(results)}
    return json_text(document, indent=2, ensure_ascii=False) + "\n"


def write_results(folder: str | Path, results: Results, about: Mapping[str, Any]) -> list[Path]:
    """Write results.json, results.csv and results.md into `folder`; return their paths."""
    facts = "".join(f"* {name}: {_fact(name, value)}\n" for name, value in about.items())
    contents = {
        "results.json": to_json(results, about),
        "results.csv": to_csv(results),
        "results.md": f"# Evaluation\n\n{facts}\n{to_markdown(result_tables(results))}",
    }
    for name, content in contents.items():
        atomic_write(Path(folder) / name, content)
    return [Path(folder) / name for name in contents]


def percent(value: float) -> str:
    """One decimal: 0.1234 -> "12.3"."""
    return f"{100 * value:.1f}"


def _metric_table(title: str, metrics: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> Table:
    shown = tuple(name for name in columns if any(name in values for values in metrics.values()))
    rows = tuple(
        (configuration, *(percent(values[name]) if name in values else "" for name in shown))
        for configuration, values in metrics.items()
        if any(name in values for name in shown)
    )
    return Table(title, ("query", *(_head(name) for name in shown)), rows)


def _strata_table(title: str, strata: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    names = sorted({stratum for by_stratum in strata.values() for stratum in by_stratum})
    rows = []
    for name in names:
        known = [by_stratum[name] for by_stratum in strata.values() if name in by_stratum]
        recalls = (percent(by_stratum[name]["t2i_R@1"]) if name in by_stratum else "" for by_stratum in strata.values())
        rows.append((name, str(known[0]["images"]), *recalls))
    return Table(title, ("stratum", "images", *strata), tuple(rows))


def _head(metric: str) -> str:
    return metric.replace("_", " ")


def _aligned(table: Table) -> str:
    cells = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in cells
    ]
    return "\n".join([table.title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _pipes(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows)]
    return f"## {table.title}\n\n" + "\n".join(lines) + "\n"


def _fact(name: str, value: Any) -> str:
    if name in _LISTED and isinstance(value, Mapping):  # one by one in the JSON, here their number
        return str(len(value))
    return value if isinstance(value, str) else json_text(value, ensure_ascii=False)
