"""Recipes side by side on validation: what each adds to another one, and whether that helped.

Role: `Findings` -> the ablation's table and sentences. A recipe is set beside the measured recipe that it adds to: the one with
the most of its flags and no others. Differences below twice the scatter over seeds say nothing, and are not called a gain.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from benchmarks.recipes.cells import VALIDATION, CellResult
from benchmarks.recipes.findings import Findings
from benchmarks.recipes.recipes import RECIPES, STEPS
from benchmarks.recipes.stratum_tables import shown
from benchmarks.recipes.summary import BY_FACE, FACE_ALONE, LOOK_ALIKES, Compared, flat
from open_clip_idplugin.evaluation.tables import Table

NOISE_UNKNOWN = 0.05  # relative; where no recipe has two seeds


@dataclass(frozen=True)
class Step:
    """A recipe beside the one it adds to; gain: ratio of scores, margin: how far from 1 it must be to say something."""

    compared: Compared
    base: str | None
    gain: float = 1.0
    margin: float = 0.0

    @property
    def verdict(self) -> str:
        """A word for the table."""
        if self.base is None:
            return ""
        if abs(self.gain - 1) <= self.margin:
            return "no clear difference"
        return "helped" if self.gain > 1 else "harmed"


def steps(findings: Findings) -> list[Step]:
    """Every measured recipe, best score first."""
    by_name = {row.recipe: row for row in findings.compared}
    noise = seed_noise(findings.results)
    found = []
    for row in findings.compared:
        base = base_of(row.recipe, by_name)
        if base is None:
            found.append(Step(row, None))
            continue
        theirs = by_name[base]
        margin = 2 * noise * math.sqrt(1 / row.seeds + 1 / theirs.seeds)
        gain = row.score / theirs.score if theirs.score else math.inf
        found.append(Step(row, base, gain, margin))
    return found


def base_of(recipe: str, measured: Mapping[str, Compared]) -> str | None:
    """The measured recipe whose flags are the largest proper subset of this one's, the better one of two."""
    if recipe not in RECIPES:
        return None
    own = _parts(recipe)
    smaller = [name for name in measured if name in RECIPES and _parts(name) < own]
    return max(smaller, key=lambda name: (len(_parts(name)), measured[name].score), default=None)


def seed_noise(results: Iterable[CellResult]) -> float:
    """Relative standard deviation of a recipe's score over seeds, pooled over the recipes that have several."""
    logs: dict[str, list[float]] = {}
    for result in results:
        if VALIDATION in result.splits:
            values = flat(result, VALIDATION).get(BY_FACE, {})
            product = values.get(LOOK_ALIKES, 0.0) * values.get(FACE_ALONE, 0.0)
            if product > 0:
                logs.setdefault(result.recipe, []).append(math.log(product) / 2)
    variances = [variance(values) for values in logs.values() if len(values) > 1]
    return math.sqrt(fmean(variances)) if variances else NOISE_UNKNOWN


def ablation_table(title: str, found: Sequence[Step]) -> Table:
    """A row for every recipe."""
    columns = (
        "recipe", "seeds", "look-alikes R@1", "× paper", "mAP@10, face alone", "× paper", "score", "adds to", "× it", "",
        "what it is",
    )  # fmt: skip
    rows = []
    for step in found:
        row = step.compared
        reason = RECIPES[row.recipe].reason if row.recipe in RECIPES else ""
        rows.append(
            (
                row.recipe, str(row.seeds), shown(row.look_alikes), f"{row.look_alikes_ratio:.2f}", shown(row.alone),
                f"{row.alone_ratio:.2f}", f"{row.score:.2f}", step.base or "", f"{step.gain:.2f}" if step.base else "",
                step.verdict, reason,
            )
        )  # fmt: skip
    return Table(title, columns, tuple(rows))


def ablation_notes(found: Sequence[Step], results: Sequence[CellResult]) -> list[str]:
    """How the table was made, then what did not help."""
    several = any(step.compared.seeds > 1 for step in found)
    noise = f"{100 * seed_noise(results):.1f} %"
    source = "over seeds, pooled over the recipes with several" if several else "assumed, for no recipe has two seeds"
    notes = [
        "Percent, mean ± standard deviation over seeds. The score is the geometric mean of two ratios to the paper's recipe: "
        "t2i R@1 of caption and face (conf1) among look-alikes, and mAP@10 of the face alone. A recipe adds to the one that has "
        f"the most of its flags and no others. The score scatters by {noise} ({source}); within twice that, times the "
        "square root of 1/seeds + 1/seeds of the other, there is no clear difference."
    ]
    for verdict, start in (("harmed", "What did harm"), ("no clear difference", "What made no clear difference")):
        chosen = [
            f"`{step.compared.recipe}` ({step.gain:.2f} × `{step.base}`)" for step in found if step.verdict == verdict
        ]
        if chosen:
            notes.append(f"**{start}:** {', '.join(chosen)}.")
    return notes


def _parts(recipe: str) -> frozenset[tuple[str, str]]:
    """Flags with their values, and steps other than the common ones."""
    known = RECIPES[recipe]
    parts = {(name, str(value)) for name, value in known.flags.items()}
    if known.steps != STEPS:
        parts.add(("steps", str(known.steps)))
    return frozenset(parts)
