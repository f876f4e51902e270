"""The report: results of cells -> report.md and report.json.

Role: tables for people, everything for programs. Validation says which recipe is chosen; test says what it is worth.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from open_clip_idplugin.atomic import atomic_write
from open_clip_idplugin.evaluation.tables import Table, to_markdown
from webdataset_tools.benchmark.cells import EVALUATED, TEST, VALIDATION, CellResult
from webdataset_tools.benchmark.recipes import PAPER, RECIPES
from webdataset_tools.benchmark.summary import (
    BY_FACE,
    BY_NAME,
    Compared,
    Spread,
    Summary,
    best,
    compare,
    ratio,
    summarise,
)

GENERAL = ("t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_R@50", "right_scene", "right_person")
ENTITY = (
    "entity_R@1_kmin", "entity_R@5_kmin", "entity_R@10_kmin", "entity_R@50_kmin", "mAP@10", "mAP@10_standard",
)  # fmt: skip
MARKDOWN, JSON = "report.md", "report.json"


def write_report(folder: Path, results: Sequence[CellResult], about: Mapping[str, Any]) -> list[Path]:
    """Write both files; return their paths."""
    summaries = {split: summarise(results, split) for split in EVALUATED}
    contents = {
        MARKDOWN: markdown(results, summaries, about),
        JSON: json.dumps(document(results, summaries, about), indent=1) + "\n",
    }
    for name, content in contents.items():
        atomic_write(folder / name, content)
    return [folder / name for name in contents]


def markdown(
    results: Sequence[CellResult], summaries: Mapping[str, Mapping[str, Summary]], about: Mapping[str, Any]
) -> str:
    """The tables, most important first."""
    val, test = summaries[VALIDATION], summaries[TEST]
    lines = ["# Benchmark", "", *(f"* {name}: {value}" for name, value in about.items()), ""]
    lines += ["Percent; mean ± standard deviation over seeds, where there are several. `× names` is the ratio to the"]
    lines += ["same recipe's query by name.", ""]
    chosen = compare(val, PAPER.name)
    if chosen:
        lines += [_choice(chosen), ""]
    tables = [
        comparison("Validation: what recipes are chosen by", chosen),
        comparison("Test: the same", compare(test, PAPER.name)),
        metric_table("Validation: general retrieval", val, GENERAL, "t2i_R@1"),
        metric_table("Validation: entity retrieval", val, ENTITY, "mAP@10"),
        metric_table("Test: general retrieval", test, GENERAL, "t2i_R@1"),
        metric_table("Test: entity retrieval", test, ENTITY, "mAP@10"),
        strata_table("Test: text-to-image R@1 by stratum, caption and face (conf1)", test, BY_FACE),
        recipe_table(results),
    ]
    return "\n".join([*lines, ""]) + to_markdown([table for table in tables if table.rows])


def document(
    results: Sequence[CellResult], summaries: Mapping[str, Mapping[str, Summary]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Fractions in full precision: `{"about", "chosen", "splits": {split: {recipe: {query: {metric: ...}}}}, "cells"}`."""
    spreads = {
        split: {
            recipe: {query: {name: asdict(spread) for name, spread in values.items()} for query, values in each.items()}
            for recipe, each in recipes.items()
        }
        for split, recipes in summaries.items()
    }
    chosen = best(compare(summaries[VALIDATION], PAPER.name))
    return {"about": dict(about), "chosen": chosen, "splits": spreads, "cells": [asdict(result) for result in results]}


def comparison(title: str, rows: Sequence[Compared]) -> Table:
    """Look-alikes and face alone beside the paper's recipe."""
    columns = (
        "recipe", "seeds", "look-alikes R@1 (conf1)", f"× {PAPER.name}", "mAP@10, face alone", f"× {PAPER.name}", "score",
    )  # fmt: skip
    cells = (
        (
            row.recipe, str(row.seeds), shown(row.look_alikes), f"{row.look_alikes_ratio:.2f}", shown(row.alone),
            f"{row.alone_ratio:.2f}", f"{row.score:.2f}",
        )
        for row in rows
    )  # fmt: skip
    return Table(title, columns, tuple(cells))


def metric_table(title: str, summaries: Mapping[str, Summary], metrics: Sequence[str], by_name: str) -> Table:
    """A row for every recipe and query; `by_name` is the metric whose ratio to the query by name stands at the end."""
    rows = []
    known = {name for summary in summaries.values() for values in summary.values() for name in values}
    metrics = [name for name in metrics if name in known]
    for recipe, summary in summaries.items():
        named = summary.get(BY_NAME, {}).get(by_name)
        for query, values in summary.items():
            if not any(name in values for name in metrics):
                continue
            times = f"{ratio(values[by_name].mean, named.mean):.2f}" if named and by_name in values else ""
            cells = (shown(values[name]) if name in values else "" for name in metrics)
            rows.append((recipe, query, *cells, times))
    heads = (name.replace("_", " ") for name in metrics)
    return Table(title, ("recipe", "query", *heads, "× names"), tuple(rows))


def strata_table(title: str, summaries: Mapping[str, Summary], query: str) -> Table:
    """A row for every recipe, a column for every stratum."""
    end = "/t2i_R@1"
    asked = {recipe: summary[query] for recipe, summary in summaries.items() if query in summary}
    names = sorted({name for values in asked.values() for name in values if name.endswith(end)})
    heads = (name.removesuffix(end).replace("=", ": ").replace("_", "-") for name in names)
    rows = (
        (recipe, *(shown(values[name]) if name in values else "" for name in names))
        for recipe, values in asked.items()
        if names
    )
    return Table(title, ("recipe", *heads), tuple(rows))


def recipe_table(results: Sequence[CellResult]) -> Table:
    """What each recipe is: its reason and its flags beside the common ones, and the seconds of one core that a cell took."""
    rows = []
    for name in dict.fromkeys(result.recipe for result in results):
        own = [result for result in results if result.recipe == name]
        flags = RECIPES[name].flags if name in RECIPES else {}
        words = " ".join(f"{flag} {value}" for flag, value in flags.items())
        seconds = [float(result.about.get("processor_seconds", 0.0)) for result in own]
        rows.append((name, own[0].reason, f"`{words}`" if words else "", f"{sum(seconds) / len(seconds):.0f}"))
    return Table(
        "The recipes", ("recipe", "reason", "flags beside the common ones", "processor seconds a cell"), tuple(rows)
    )


def shown(spread: Spread) -> str:
    """In percent: "12.3 ± 0.4"."""
    return f"{100 * spread.mean:.1f}" + (f" ± {100 * spread.sd:.1f}" if spread.sd is not None else "")


def _choice(rows: Sequence[Compared]) -> str:
    chosen = best(rows)
    return (
        f"**Chosen on validation: {chosen}**, the highest geometric mean of two ratios to `{PAPER.name}`: t2i R@1 among "
        "look-alikes, and mAP@10 of the face alone."
    )
