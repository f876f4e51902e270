"""Curves with bands over seeds: `Findings` -> SVG pictures.

Role: drawing with matplotlib's SVG backend, without a display. Colours are those of Okabe and Ito, which colour-blind people tell
apart; markers and dashes say the same once more. A picture is the same bytes for the same numbers.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.recipes.findings import Contender, Findings
from benchmarks.recipes.pages import Picture
from benchmarks.recipes.summary import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points: TypeAlias = Sequence[tuple[float, Spread]]

RECALL_KS = (1, 5, 10, 50)
_SIZE = (7.6, 5.0)  # inches
_STYLES: Mapping[str, Sequence[tuple[str, str, str]]] = {  # kind -> colour, marker, dashes in turn
    "plain": (("#7f7f7f", "x", ":"), ("#000000", "+", "--")),
    "rival": (("#0072B2", "s", "-"), ("#56B4E9", "^", "-"), ("#009E73", "v", "-"), ("#999933", "P", "-.")),
    "token": (("#E69F00", "o", "--"), ("#D55E00", "o", "-")),
    "hybrid": (("#CC79A7", "D", "-"),),
}


@dataclass(frozen=True)
class Plot:
    """How a curve is drawn: its name in the cells, the horizontal axis, and a sentence."""

    name: str
    x_label: str
    caption: str
    logarithmic: bool = False


RECALLS = Plot(
    "recall_at_k", "k, images looked at", "Recall at k: how often the right image is among the first k.", True
)
CURVES = (
    Plot(
        "people_per_scene", "people who appear in the same scene",
        "R@1 against the number of people that a scene is shown with; with one, words alone tell it apart.",
    ),
    Plot("gallery_size", "images searched", "R@1 against the number of images that are searched.", True),
    Plot("face_pixels", "height of the face, pixels", "R@1 against the size of the face in the image."),
    Plot(
        "enrolment_photos", "enrolment photos a person",
        "R@1 against the number of photos that a person is enrolled with.",
    ),
)  # fmt: skip


def draw_plots(findings: Findings) -> list[Picture]:
    """The plots that there are numbers for."""
    contenders = findings.contenders()
    drawn = [draw(RECALLS, {row: _recalls(findings, row) for row in contenders}, "R@k, percent")]
    curves = findings.curves[findings.split]
    for plot in CURVES:
        own = {row: curves.get(row.recipe, {}).get(plot.name, {}).get(row.configuration, ()) for row in contenders}
        drawn.append(draw(plot, own, "R@1, percent"))
    return [picture for picture in drawn if picture is not None]


def draw(plot: Plot, lines: Mapping[Contender, Points], y_label: str) -> Picture | None:
    """One plot; None where no line has a point. Bands are one standard deviation over seeds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = {row: points for row, points in lines.items() if points}
    if not lines:
        return None
    # Text stays text: a third of the size, and machines can read it.
    with rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 9.5}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for row, style in _styled(list(lines)):
            _draw_line(axes, lines[row], row.label, style)
        _label_axes(axes, plot, y_label, sorted({x for points in lines.values() for x, _ in points}))
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(f"{plot.name}.svg", svg.getvalue(), _in_words(plot, lines, y_label), plot.caption)


def _recalls(findings: Findings, row: Contender) -> Points:
    values = ((k, findings.value(row.recipe, row.configuration, f"t2i_R@{k}")) for k in RECALL_KS)
    return [(k, value) for k, value in values if value is not None]


def _styled(rows: Sequence[Contender]) -> list[tuple[Contender, tuple[str, str, str]]]:
    """A line's style depends on what it is, not on which others there are of another kind."""
    styled = []
    for kind, styles in _STYLES.items():
        own = [row for row in rows if row.kind == kind]
        styled += [(row, styles[number % len(styles)]) for number, row in enumerate(own)]
    return styled


def _draw_line(axes: "Axes", points: Points, label: str, style: tuple[str, str, str]) -> None:
    colour, marker, dashes = style
    x = [x for x, _ in points]
    means = [100 * spread.mean for _, spread in points]
    deviations = [100 * (spread.sd or 0.0) for _, spread in points]
    axes.plot(x, means, color=colour, marker=marker, linestyle=dashes, markersize=5, linewidth=1.6, label=label)
    if any(deviations):
        low, high = ([mean + sign * sd for mean, sd in zip(means, deviations)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _label_axes(axes: "Axes", plot: Plot, y_label: str, ticks: Sequence[float]) -> None:
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(y_label)
    if plot.logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    if all(tick == int(tick) for tick in ticks):  # counts; sizes of faces are means of bins
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _in_words(plot: Plot, lines: Mapping[Contender, Points], y_label: str) -> str:
    """For those who cannot see the picture: where every line begins and ends."""
    ends = (
        f"{row.label} from {100 * points[0][1].mean:.0f} to {100 * points[-1][1].mean:.0f}"
        for row, points in lines.items()
    )
    low, high = (f"{edge:g}" for edge in _span(lines))
    return f"{y_label}, by {plot.x_label} ({low} to {high}): {'; '.join(ends)}"


def _span(lines: Mapping[Contender, Points]) -> tuple[float, float]:
    xs = [x for points in lines.values() for x, _ in points]
    return min(xs), max(xs)
