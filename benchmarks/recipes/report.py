"""The report: results of cells -> report.md, report.html and report.json.

Role: which sections there are and in what order. Validation says which recipe is chosen; test says what it is worth. What the
cells do not hold is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.recipes.ablation import ablation_notes, ablation_table, steps
from benchmarks.recipes.cells import TEST, VALIDATION, CellResult
from benchmarks.recipes.failure_sections import failure_sections
from benchmarks.recipes.findings import Findings
from benchmarks.recipes.goals import goal_notes, goal_table, goals
from benchmarks.recipes.pages import Section, table_section, to_html_page, to_markdown_page, write_pictures
from benchmarks.recipes.paper_tables import entity_table, general_table
from benchmarks.recipes.plots import draw_plots
from benchmarks.recipes.published import SOURCE
from benchmarks.recipes.recipes import PAPER, RECIPES
from benchmarks.recipes.stratum_tables import marked, overall_table, shown, strata_table, tuned_notes
from benchmarks.recipes.summary import BY_NAME, Compared, Summary, compare, ratio
from benchmarks.recipes.world import World
from open_clip_idplugin.evaluation.tables import Table
from open_clip_idplugin.prompts import CONFIGURATIONS
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import json_text

GENERAL = ("t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_R@50", "right_scene", "right_person")
ENTITY = (
    "entity_R@1_kmin", "entity_R@5_kmin", "entity_R@10_kmin", "entity_R@50_kmin", "mAP@10", "mAP@10_standard",
)  # fmt: skip
MARKDOWN, HTML, JSON, PICTURES = "report.md", "report.html", "report.json", "pictures"
TITLE = "Benchmark"
_NAMES = {VALIDATION: "Validation", TEST: "Test"}
_PERCENT = "Percent, mean ± standard deviation over seeds where there are several."
_BEST = f"{_PERCENT} The best of a column is bold."
_WORDINGS = (
    "Published rows ask with all eleven wordings of a caption, the one of the best template with one for all captions; ours "
    "ask with the wordings named at the top."
)
# metric -> what it is called, and the sentences below
_MATRICES = {
    "t2i_R@1": (
        "Text-to-image R@1",
        f"{_BEST} `names` and `captions` hold no face; conf1 to conf6 differ in where the token stands.",
    ),
    "mAP@10": (
        "Entity mAP@10",
        f"{_BEST} Six prompts without a caption, ensembled; the right answers are all images of the person.",
    ),
}


def write_report(folder: Path, findings: Findings, world: World | None = None) -> list[Path]:
    """Write the three files and the Markdown's pictures, for their owner alone: failures show people; return the files' paths.

    world: whose pictures the failures are shown with
    """
    sections = [*result_sections(findings, world), *recipe_sections(findings), *whole_sections(findings)]
    facts = facts_of(findings)
    contents = {
        MARKDOWN: f"# {TITLE}\n\n{to_markdown_page(facts, sections, PICTURES)}",
        HTML: to_html_page(TITLE, facts, sections),
        JSON: json_text(document(findings), indent=1) + "\n",
    }
    write_pictures(folder / PICTURES, sections, PRIVATE)
    for name, content in contents.items():
        atomic_write(folder / name, content, PRIVATE)
    return [folder / name for name in contents]


def facts_of(findings: Findings) -> dict[str, Any]:
    """What stands at the top: how the numbers were made, and what it took."""
    seeds = sorted({result.seed for result in findings.results})
    seconds = [float(result.about.get("processor_seconds", 0.0)) for result in findings.results]
    facts = dict(findings.about)
    facts["seeds"] = ", ".join(map(str, seeds))
    facts["cells"] = f"{len(findings.results)}, together {sum(seconds):,.0f} processor seconds"
    if findings.compared:
        facts["chosen on validation"] = (
            f"`{findings.chosen}`, the highest geometric mean of two ratios to `{PAPER.name}`: t2i R@1 among look-alikes, and "
            "mAP@10 of the face alone"
        )
    return facts


def result_sections(findings: Findings, world: World | None) -> list[Section]:
    """What the benchmark shows: goals, the paper's tables, contenders, strata, curves, failures."""
    on = f"{_NAMES[findings.split].lower()} people"
    judged = goals(findings)
    beside = (
        f"{_PERCENT} The columns `published` are the paper's ({SOURCE}): another data set and another CLIP, so that the ratios "
        "to the query by name are what can be compared."
    )
    untrained = "Plain CLIP and the rivals are not trained, so that they have one cell and no deviation."
    sections = [
        table_section(goal_table(judged), *goal_notes(judged)),
        table_section(general_table(f"General retrieval, {on}, beside the paper", findings), beside, _WORDINGS),
        table_section(entity_table(f"Entity retrieval, {on}, beside the paper", findings), beside),
        *(
            table_section(query_matrix(f"{name} of every recipe by query, {on}", findings.shown, metric), note)
            for metric, (name, note) in _MATRICES.items()
        ),
        table_section(
            overall_table(f"The person in a context, {on}: tokens, rivals, hybrid", findings),
            f"{_BEST} {untrained}",
            *tuned_notes(findings),
        ),
        table_section(
            strata_table(f"Text-to-image R@1 by stratum, {on}", findings), f"{_PERCENT} The best of a row is bold."
        ),
    ]
    sections = [section for section in sections if section.table and section.table.rows]
    pictures = draw_plots(findings)
    if pictures:
        bands = "Lines are means, bands one standard deviation over seeds."
        sections.append(Section(f"Curves, {on}", notes=(bands,), pictures=pictures))
    return [*sections, *failure_sections(findings, world)]


def recipe_sections(findings: Findings) -> list[Section]:
    """Which recipe is chosen and why: the ablation on validation, the choice on test, what each recipe is."""
    found = steps(findings)
    sections = [
        table_section(
            ablation_table("Validation: what each recipe adds", found), *ablation_notes(found, findings.results)
        ),
        table_section(comparison("Test: the same recipes", compare(findings.summaries[TEST], PAPER.name)), _PERCENT),
        table_section(recipe_table(findings.results)),
    ]
    return [section for section in sections if section.table and section.table.rows]


def whole_sections(findings: Findings) -> list[Section]:
    """Every recipe and query, for both splits."""
    sections = []
    for split, name in _NAMES.items():
        summaries = findings.summaries[split]
        sections += [
            table_section(
                metric_table(f"{name}: general retrieval, all recipes", summaries, GENERAL, "t2i_R@1"), _PERCENT
            ),
            table_section(
                metric_table(f"{name}: entity retrieval, all recipes", summaries, ENTITY, "mAP@10"), _PERCENT
            ),
        ]
    return [section for section in sections if section.table and section.table.rows]


def document(findings: Findings) -> dict[str, Any]:
    """Fractions in full precision: `{"about", "chosen", "goals", "splits": {split: {recipe: {query: {metric}}}}, "cells"}`."""
    spreads = {
        split: {
            recipe: {query: {name: asdict(spread) for name, spread in values.items()} for query, values in each.items()}
            for recipe, each in recipes.items()
        }
        for split, recipes in findings.summaries.items()
    }
    return {
        "about": dict(findings.about),
        "chosen": findings.chosen,
        "goals": [asdict(goal) for goal in goals(findings)],
        "splits": spreads,
        "cells": [asdict(result) for result in findings.results],
    }


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
            rows.append((recipe, query, *(shown(values.get(name)) for name in metrics), times))
    heads = (name.replace("_", " ") for name in metrics)
    return Table(title, ("recipe", "query", *heads, "× names"), tuple(rows))


def query_matrix(title: str, summaries: Mapping[str, Summary], metric: str) -> Table:
    """One metric, a row for every recipe, a column for every configuration that somebody was asked; nothing of one recipe."""
    queries = [
        query for query in CONFIGURATIONS if any(metric in summary.get(query, {}) for summary in summaries.values())
    ]
    columns = [marked([summary.get(query, {}).get(metric) for summary in summaries.values()]) for query in queries]
    rows = tuple(zip(summaries, *columns)) if len(summaries) > 1 else ()
    return Table(title, ("recipe", *queries), rows)


def recipe_table(results: Sequence[CellResult]) -> Table:
    """What each recipe is: its reason and its flags beside the common ones, and the seconds of one core that a cell took."""
    rows = []
    for name in dict.fromkeys(result.recipe for result in results):
        own = [result for result in results if result.recipe == name]
        known = RECIPES.get(name)
        flags, reason = (known.flags, known.reason) if known else ({}, own[0].reason)
        words = " ".join(f"{flag} {value}" for flag, value in flags.items())
        seconds = [float(result.about.get("processor_seconds", 0.0)) for result in own]
        rows.append((name, reason, f"`{words}`" if words else "", f"{sum(seconds) / len(seconds):.0f}"))
    return Table(
        "The recipes", ("recipe", "reason", "flags beside the common ones", "processor seconds a cell"), tuple(rows)
    )
