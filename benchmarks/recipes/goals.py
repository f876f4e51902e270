"""What the benchmark set out to show, and whether it does: numbers of the test people -> met or missed.

Role: judgement as data. Every goal names its threshold and is decided by the numbers alone; what was not measured is neither
met nor missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.recipes.cells import TEST
from benchmarks.recipes.findings import HYBRID, Findings
from benchmarks.recipes.recipes import PAPER
from benchmarks.recipes.stratum_tables import FACE_MISSED, recall_name, strata_of, stratum_label
from benchmarks.recipes.summary import BY_FACE, BY_NAME, FACE_ALONE, LOOK_ALIKES, Spread, ratio
from open_clip_idplugin.evaluation.tables import Table

RECALL = "t2i_R@1"
BY_BOTH = "conf4"
TITLE = "What we set out to reach, on test people"
RECALL_TIMES_NAMES, MAP_TIMES_NAMES = 1.41, 1.68  # the paper's, with five visual prompts
LOOK_ALIKES_GAIN, FACE_ALONE_GAIN = 1.15, 1.5
TIMES_RIVAL_WITHOUT_FACE = 2.0


@dataclass(frozen=True)
class Goal:
    """A sentence, what was wanted and found as text, and whether it is met; None: not measured."""

    sentence: str
    wanted: str
    found: str
    met: bool | None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """A word for the table."""
        return "not measured" if self.met is None else "met" if self.met else "**missed**"


def goals(findings: Findings) -> list[Goal]:
    """All goals; none where the test people were not asked for."""
    if findings.split != TEST:
        return []
    return [
        *_goals_against_names(findings),
        *_goals_against_paper(findings),
        *_hybrid(findings),
        _without_face(findings),
    ]


def goal_table(judged: Sequence[Goal]) -> Table:
    """One row a goal."""
    rows = tuple((goal.sentence, goal.wanted, goal.found, goal.verdict) for goal in judged)
    return Table(TITLE, ("goal", "wanted", "found", ""), rows)


def goal_notes(judged: Sequence[Goal]) -> list[str]:
    """What was missed, first and plainly; then the details."""
    missed = [goal for goal in judged if goal.met is False]
    notes = [f"**Missed:** {goal.sentence} (wanted {goal.wanted}, found {goal.found})." for goal in missed]
    return [*notes, *(goal.detail for goal in judged if goal.detail)]


def _goals_against_names(findings: Findings) -> list[Goal]:
    paper = PAPER.name
    recall = _ratio(findings.value(paper, BY_FACE, RECALL), findings.value(paper, BY_NAME, RECALL))
    alone = _ratio(findings.value(paper, BY_FACE, FACE_ALONE), findings.value(paper, BY_NAME, FACE_ALONE))
    both = _ratio(findings.value(paper, BY_BOTH, FACE_ALONE), findings.value(paper, BY_NAME, FACE_ALONE))
    detail = "The published 1.68 is of face and name together (conf4); its face alone (conf1) reaches 1.48."
    if both is not None:
        detail += f" Here face and name together reach {both:.2f}."
    return [
        _times("the paper's recipe: R@1 beside the query by name", recall, RECALL_TIMES_NAMES),
        _times(
            "the paper's recipe: entity mAP@10 of the face alone beside the name alone", alone, MAP_TIMES_NAMES, detail
        ),
    ]


def _goals_against_paper(findings: Findings) -> list[Goal]:
    ours, paper = findings.default, PAPER.name
    alike, alone = (
        _ratio(findings.value(ours, BY_FACE, metric), findings.value(paper, BY_FACE, metric))
        for metric in (LOOK_ALIKES, FACE_ALONE)
    )
    return [
        _times(f"`{ours}`: R@1 among look-alikes beside the paper's recipe", alike, LOOK_ALIKES_GAIN),
        _times(f"`{ours}`: mAP@10 of the face alone beside the paper's recipe", alone, FACE_ALONE_GAIN),
    ]


def _ratio(ours: Spread | None, theirs: Spread | None) -> float | None:
    return ratio(ours.mean, theirs.mean) if ours and theirs else None


def _hybrid(findings: Findings) -> list[Goal]:
    """Against the best rival of each stratum, which need not be the same one."""
    overall, in_strata = (
        "hybrid ranking: R@1 beside the best rival's",
        "hybrid ranking: strata in which no rival is better",
    )
    pairs = {
        stratum: pair
        for stratum in strata_of(findings.shown)
        if (pair := _against_rivals(findings, HYBRID, recall_name(stratum))) is not None
    }
    behind = [
        f"{stratum_label(stratum)} ({_percent(ours)}; {rival} {_percent(best)})"
        for stratum, (ours, best, rival) in pairs.items()
        if ours < best
    ]
    whole = _against_rivals(findings, HYBRID, RECALL)
    if whole is None or not pairs:
        return [_not_measured(overall, "above it"), _not_measured(in_strata, "all")]
    ours, best, rival = whole
    detail = f"The hybrid ranking is behind in these strata: {', '.join(behind)}." if behind else ""
    return [
        Goal(overall, f"above {_percent(best)} ({rival})", _percent(ours), ours > best),
        Goal(in_strata, f"all {len(pairs)}", f"{len(pairs) - len(behind)}", not behind, detail),
    ]


def _without_face(findings: Findings) -> Goal:
    sentence = f"`{findings.default}`: R@1 of the face token beside the best rival's where no face is detected"
    found = _against_rivals(findings, BY_FACE, recall_name(FACE_MISSED))
    if found is None:
        return _not_measured(sentence, f"{TIMES_RIVAL_WITHOUT_FACE:.2f} ×")
    ours, best, rival = found
    detail = f"Where no face is detected the token finds {_percent(ours)}, the best rival ({rival}) {_percent(best)}."
    return _times(sentence, ratio(ours, best), TIMES_RIVAL_WITHOUT_FACE, detail)


def _against_rivals(findings: Findings, configuration: str, metric: str) -> tuple[float, float, str] | None:
    """The default recipe's mean, the best rival's and its label; None where either was not measured."""
    ours = findings.value(findings.default, configuration, metric)
    theirs = [
        (spread.mean, rival.label)
        for rival in findings.rivals()
        if (spread := findings.value(rival.recipe, rival.configuration, metric)) is not None
    ]
    return (ours.mean, *max(theirs)) if ours and theirs else None


def _times(sentence: str, found: float | None, wanted: float, detail: str = "") -> Goal:
    if found is None:
        return _not_measured(sentence, f"{wanted:.2f} ×")
    return Goal(sentence, f"{wanted:.2f} ×", f"{found:.2f} ×", found >= wanted, detail)


def _not_measured(sentence: str, wanted: str) -> Goal:
    return Goal(sentence, wanted, "", None)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
