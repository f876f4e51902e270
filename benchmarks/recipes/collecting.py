"""Which finished cells a report is made of: those that the command asked for, and those that may stand beside them.

Role: files of `cells/` -> results. An ablation on validation and a run of few recipes on test are two commands; cells of the
same weights, world and questions belong together whichever command made them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.recipes.cells import EVALUATED, VALIDATION, Bench, Cell, CellResult, read_result
from benchmarks.recipes.recipes import RECIPES

_FILE = re.compile(r"(?P<recipe>.+?)(?:-seed(?P<seed>\d+))?-[0-9a-f]{12}")


@dataclass(frozen=True)
class Collected:
    """Results in the order of the recipes; asked: how many of them the command asked for."""

    results: Sequence[CellResult]
    asked: int


def collect(bench: Bench, cells: Sequence[Cell]) -> Collected:
    """Read what is finished; one result for a recipe and seed, the one with more splits."""
    found: dict[str, CellResult] = {}
    for version in _versions(bench):
        for cell in (*cells, *_noticed(bench)):
            if cell.label not in found and (result := read_result(cell.result_file(version))) is not None:
                found[cell.label] = result
    order = {name: number for number, name in enumerate(RECIPES)}
    results = sorted(found.values(), key=lambda result: (order.get(result.recipe, len(order)), result.seed))
    return Collected(results, sum(cell.label in found for cell in cells))


def _versions(bench: Bench) -> list[Bench]:
    """The bench as it is, then with fewer splits or more."""
    choices = [bench.splits, EVALUATED, (VALIDATION,)]
    return [replace(bench, splits=splits) for splits in dict.fromkeys(choices)]


def _noticed(bench: Bench) -> Iterator[Cell]:
    """Cells that there are files of, by their names alone."""
    for path in sorted((bench.output / "cells").glob("*.json")):
        match = _FILE.fullmatch(path.stem)
        if match and match["recipe"] in RECIPES:
            yield Cell(RECIPES[match["recipe"]], int(match["seed"] or 0))
