"""The comparison of contenders: overall, and split by stratum, which is where rankings differ most.

Role: `Findings` -> tables. A stratum is a column of notes on the images and one of its labels, such as "face=missed".
"""

from collections.abc import Mapping, Sequence

from benchmarks.recipes.findings import Contender, Findings
from benchmarks.recipes.recipes import PLAIN
from benchmarks.recipes.summary import BY_NAME, Spread, Summary, ratio
from open_clip_idplugin.evaluation.tables import Table

FACE_MISSED = "face=missed"
OVERALL = {
    "t2i_R@1": "R@1", "t2i_R@5": "R@5", "t2i_R@10": "R@10", "t2i_R@50": "R@50", "right_scene": "right scene",
    "right_person": "right person in it", "mAP@10": "mAP@10, person alone",
}  # fmt: skip
_RECALL = "/t2i_R@1"
_FIRST = ("face", "face_pixels", "look_alike", "facing", "stratum")  # columns in this order, others behind
_LABELS = {"look_alike=yes": "look-alikes", "look_alike=no": "no look-alikes"}
_UNNAMED = ("stratum",)  # whose labels say enough


def recall_name(stratum: str) -> str:
    """The name of its t2i R@1 in a summary."""
    return stratum + _RECALL


def strata_of(summaries: Mapping[str, Summary]) -> list[str]:
    """All strata that somebody was measured in; within a column as the cells have them."""
    names = {
        name.removesuffix(_RECALL): None
        for summary in summaries.values()
        for values in summary.values()
        for name in values
        if name.endswith(_RECALL)
    }
    columns = [*_FIRST, *dict.fromkeys(name.partition("=")[0] for name in names)]
    return sorted(names, key=lambda name: columns.index(name.partition("=")[0]))


def stratum_label(stratum: str) -> str:
    """For people: "look_alike=yes" -> "look-alikes", "face=missed" -> "face missed"."""
    column, _, label = stratum.partition("=")
    if stratum in _LABELS or column in _UNNAMED:
        return _LABELS.get(stratum, label)
    return f"{column.replace('_', ' ')} {label}"


def overall_table(title: str, findings: Findings) -> Table:
    """A row for every contender; the last column is R@1 as a multiple of CLIP's query by name."""
    contenders = findings.contenders()
    metrics = [name for name in OVERALL if any(_value(findings, row, name) for row in contenders)]
    named = next((_value(findings, row, "t2i_R@1") for row in contenders if row.configuration == BY_NAME), None)
    times = []
    for row in contenders:
        recall = _value(findings, row, "t2i_R@1")
        times.append(f"{ratio(recall.mean, named.mean):.2f}" if recall and named else "")
    columns = (marked([_value(findings, row, name) for row in contenders]) for name in metrics)
    rows = zip((row.label for row in contenders), *columns, times)
    return Table(title, ("query", *(OVERALL[name] for name in metrics), "R@1 × name"), tuple(rows))


def strata_table(title: str, findings: Findings) -> Table:
    """t2i R@1: a row for every stratum, a column for every contender; the best of a row is bold."""
    contenders = findings.contenders()
    rows = []
    for stratum in strata_of(findings.shown):
        values = [_value(findings, row, recall_name(stratum)) for row in contenders]
        if not any(values):
            continue
        counts = [_value(findings, row, f"{stratum}/images") for row in contenders]
        images = next((f"{count.mean:.0f}" for count in counts if count), "")
        rows.append((stratum_label(stratum), images, *marked(values)))
    return Table(title, ("stratum", "images", *(row.label for row in contenders)), tuple(rows))


def tuned_notes(findings: Findings) -> list[str]:
    """What was chosen on validation for these rows: rules of fusion, and the one best template."""
    cells = [findings.cell_of(PLAIN.name), findings.cell_of(findings.default)]
    parts = [cell.splits[findings.split] for cell in cells if cell]
    rules = [
        f"{row}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rule.items())
        for part in parts
        for row, rule in part.get("tuned", {}).items()
    ]
    templates = [f"best template: `{part['best_template']['text']}`" for part in parts if "best_template" in part]
    chosen = "; ".join([*rules, *templates])
    return [f"Chosen on validation (of several seeds the first): {chosen}."] if chosen else []


def shown(spread: Spread | None) -> str:
    """In percent: "12.3 ± 0.4"; nothing for None."""
    if spread is None:
        return ""
    return f"{100 * spread.mean:.1f}" + (f" ± {100 * spread.sd:.1f}" if spread.sd is not None else "")


def marked(values: Sequence[Spread | None]) -> list[str]:
    """The values as `shown` gives them, the first of the best in bold."""
    best = max((value.mean for value in values if value is not None), default=None)
    first = next((number for number, value in enumerate(values) if value is not None and value.mean == best), None)
    return [f"**{shown(value)}**" if number == first else shown(value) for number, value in enumerate(values)]


def _value(findings: Findings, row: Contender, metric: str) -> Spread | None:
    return findings.value(row.recipe, row.configuration, metric)
