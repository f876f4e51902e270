"""What all cells found together: results -> means over seeds, curves, the choice, and whom to set side by side.

Role: one value that every part of the report reads. `Contender` names a row of the comparison: plain CLIP, the rivals that
need no training, the paper's recipe, the recipe chosen on validation, and the hybrid ranking with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.recipes.cells import EVALUATED, TEST, VALIDATION, WITHOUT_FACE, CellResult
from benchmarks.recipes.published import BEST_TEMPLATE
from benchmarks.recipes.recipes import PAPER, PLAIN
from benchmarks.recipes.summary import (
    BY_FACE,
    Compared,
    Curves,
    Spread,
    Summary,
    best,
    compare,
    summarise,
    summarise_curves,
)
from open_clip_idplugin.prompts import CONFIGURATIONS

HYBRID = "hybrid"
PLAIN_LABELS = {"captions": "CLIP, caption", "names": "CLIP, caption + name"}


@dataclass(frozen=True)
class Contender:
    """A row of the comparison: `label` for people; recipe and configuration say where its numbers are.

    kind: "plain", "rival", "token" or "hybrid"
    """

    label: str
    recipe: str
    configuration: str
    kind: str


@dataclass(frozen=True)
class Findings:
    """Everything that the report's parts are made of; fractions in [0, 1].

    summaries, curves: by split and recipe; compared: on validation, best first; chosen: None without validation
    """

    results: Sequence[CellResult]
    about: Mapping[str, Any]
    summaries: Mapping[str, Mapping[str, Summary]]
    curves: Mapping[str, Mapping[str, Curves]]
    compared: Sequence[Compared]
    chosen: str | None

    @property
    def split(self) -> str:
        """The split that the numbers are shown of: test where it was evaluated."""
        return TEST if self.summaries[TEST] else VALIDATION

    @property
    def shown(self) -> Mapping[str, Summary]:
        """Recipe -> summary on that split."""
        return self.summaries[self.split]

    @property
    def default(self) -> str:
        """The recipe that stands for this project: the chosen one where the split has it, else the paper's, else any."""
        asked = [recipe for recipe, summary in self.shown.items() if BY_FACE in summary]
        wanted = [recipe for recipe in (self.chosen, PAPER.name, *asked) if recipe in asked]
        return wanted[0] if wanted and wanted[0] else PAPER.name

    def cell_of(self, recipe: str) -> CellResult | None:
        """A recipe's cell with the smallest seed: for what cannot be averaged, such as its failures."""
        own = [result for result in self.results if result.recipe == recipe and self.split in result.splits]
        return min(own, key=lambda result: result.seed, default=None)

    def value(self, recipe: str, configuration: str, metric: str) -> Spread | None:
        """A number on the shown split, None where nobody asked."""
        return self.shown.get(recipe, {}).get(configuration, {}).get(metric)

    def contenders(self) -> list[Contender]:
        """Plain CLIP, rivals, the paper's recipe, the default one, the hybrid: those that were measured."""
        plain = PLAIN.name if PLAIN.name in self.shown else PAPER.name
        rows = [Contender(PLAIN_LABELS[name], plain, name, "plain") for name in WITHOUT_FACE]
        rows += self.rivals()
        for recipe in dict.fromkeys((PAPER.name, self.default)):
            rows.append(Contender(f"face token (conf1), {recipe}", recipe, BY_FACE, "token"))
        rows.append(Contender(f"hybrid, {self.default}", self.default, HYBRID, "hybrid"))
        return [row for row in rows if row.configuration in self.shown.get(row.recipe, {})]

    def rivals(self) -> list[Contender]:
        """What a practitioner builds without training: the other rows of the untrained cell."""
        known = {*CONFIGURATIONS, HYBRID}
        return [
            Contender(name, PLAIN.name, name, "rival")
            for name in self.shown.get(PLAIN.name, {})
            if name.removesuffix(f" {BEST_TEMPLATE}") not in known
        ]


def gather(results: Sequence[CellResult], about: Mapping[str, Any]) -> Findings:
    """Put the cells together."""
    summaries = {split: summarise(results, split) for split in EVALUATED}
    curves = {split: summarise_curves(results, split) for split in EVALUATED}
    compared = compare(summaries[VALIDATION], PAPER.name)
    return Findings(results, about, summaries, curves, compared, best(compared))
