"""Results of cells as numbers to compare: mean and standard deviation over seeds, ratios, and the choice of a recipe.

Role: pure functions, `CellResult`s in, plain values out. A recipe is chosen on validation alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeAlias

from benchmarks.recipes.cells import CellResult

BY_NAME = "names"
BY_FACE = "conf1"
LOOK_ALIKES = "look_alike=yes/t2i_R@1"
FACE_ALONE = "mAP@10"


@dataclass(frozen=True)
class Spread:
    """A metric over seeds, a fraction; sd is the sample's standard deviation, None for a single seed."""

    mean: float
    sd: float | None
    seeds: int


# configuration -> metric, or stratum/metric -> spread
Summary: TypeAlias = Mapping[str, Mapping[str, Spread]]
# name of a curve -> configuration -> points (x, spread of y)
Curves: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[float, Spread]]]]


@dataclass(frozen=True)
class Compared:
    """A recipe beside the reference, on one split.

    Look-alikes: t2i R@1 of caption and face; alone: mAP@10 of the face without a caption. Ratios are of means; the score
    is their geometric mean.
    """

    recipe: str
    seeds: int
    look_alikes: Spread
    alone: Spread
    look_alikes_ratio: float
    alone_ratio: float

    @property
    def score(self) -> float:
        """What recipes are ordered by."""
        return math.sqrt(self.look_alikes_ratio * self.alone_ratio)


def summarise(results: Iterable[CellResult], split: str) -> dict[str, Summary]:
    """Recipe -> its summary, in the order of the first appearance; without those not evaluated on the split."""
    cells: dict[str, list[Mapping[str, Mapping[str, float]]]] = {}
    for result in results:
        if split in result.splits:
            cells.setdefault(result.recipe, []).append(flat(result, split))
    return {recipe: _over_seeds(values) for recipe, values in cells.items()}


def summarise_curves(results: Iterable[CellResult], split: str) -> dict[str, Curves]:
    """Recipe -> its curves, every point over the seeds that have it, x ascending; cells without curves are left out."""
    points: dict[str, dict[str, dict[str, dict[float, list[float]]]]] = {}
    for result in results:
        for name, lines in result.splits.get(split, {}).get("curves", {}).items():
            for configuration, line in lines.items():
                own = points.setdefault(result.recipe, {}).setdefault(name, {}).setdefault(configuration, {})
                for x, y in line:
                    own.setdefault(x, []).append(y)
    return {
        recipe: {
            name: {
                configuration: [(x, _spread(values)) for x, values in sorted(own.items())]
                for configuration, own in lines.items()
            }
            for name, lines in curves.items()
        }
        for recipe, curves in points.items()
    }


def flat(result: CellResult, split: str) -> dict[str, dict[str, float]]:
    """Configuration -> metric -> value; metrics of a stratum as "look_alike=yes/t2i_R@1". Words among them are left out."""
    metrics, strata = result.splits[split]["metrics"], result.splits[split]["strata"]
    values = {}
    for configuration, whole in metrics.items():
        parts = strata.get(configuration, {})
        numbers = {name: value for name, value in whole.items() if not isinstance(value, str)}
        values[configuration] = numbers | {
            f"{stratum}/{name}": value for stratum, recalls in parts.items() for name, value in recalls.items()
        }
    return values


def ratio(value: float, reference: float) -> float:
    """value / reference; nothing over nothing is 1, something over nothing is infinite."""
    if reference:
        return value / reference
    return math.inf if value else 1.0


def compare(summaries: Mapping[str, Summary], reference: str) -> list[Compared]:
    """Every recipe that was asked with a face beside the reference, best score first; nothing without the reference."""
    if BY_FACE not in summaries.get(reference, {}):
        return []
    base = summaries[reference][BY_FACE]
    rows = []
    for recipe, summary in summaries.items():
        values = summary.get(BY_FACE, {})
        if LOOK_ALIKES not in values or FACE_ALONE not in values or LOOK_ALIKES not in base:
            continue
        alike, alone = values[LOOK_ALIKES], values[FACE_ALONE]
        rows.append(
            Compared(
                recipe,
                alike.seeds,
                alike,
                alone,
                ratio(alike.mean, base[LOOK_ALIKES].mean),
                ratio(alone.mean, base[FACE_ALONE].mean),
            )
        )
    return sorted(rows, key=lambda row: -row.score)


def best(rows: Sequence[Compared]) -> str | None:
    """The recipe with the highest score among those with as many seeds as any; None without rows."""
    most = max((row.seeds for row in rows), default=0)
    return next((row.recipe for row in rows if row.seeds == most), None)


def _over_seeds(cells: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Spread]]:
    summary: dict[str, dict[str, Spread]] = {}
    for configuration in dict.fromkeys(name for cell in cells for name in cell):
        values = [cell[configuration] for cell in cells if configuration in cell]
        names = dict.fromkeys(name for value in values for name in value)
        summary[configuration] = {name: _spread([v[name] for v in values if name in v]) for name in names}
    return summary


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
