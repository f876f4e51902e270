"""Report of a calibration: `Calibration` -> sentences, a table of operating points, and a picture of both distributions.

Role: `Calibration` (and the scores it was fitted to) -> text and SVG. Drawn with matplotlib where that is installed.
"""

import io

import numpy as np

from open_clip_idplugin.faces.calibrating import curve, describe_genuines
from open_clip_idplugin.faces.calibration import FMR_NAMES, FMR_WARNINGS, Calibration
from open_clip_idplugin.faces.score_pairs import Scores

MARKDOWN_FILE, PLOT_FILE = "calibration.md", "calibration.svg"
_BLUE, _ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito: colour-blind people tell them apart


def summary(calibration: Calibration) -> list[str]:
    """What was measured, in a few lines."""
    impostors, genuines = calibration.impostors, calibration.genuines
    return [
        f"face model {calibration.model_id}: {calibration.source}",
        f"different people: cosine {impostors.mean:.3f} ± {impostors.deviation:.3f} ({impostors.pairs} pairs: "
        f"{calibration.facts.get('impostors', '')})",
        f"one person: cosine {genuines.mean:.3f} ± {genuines.deviation:.3f}, {describe_genuines(genuines)}",
        f"names from cosine {calibration.threshold(FMR_NAMES):.3f} on (false match rate {FMR_NAMES:g}), warnings from "
        f"{calibration.threshold(FMR_WARNINGS):.3f} ({FMR_WARNINGS:g}); a face of {calibration.neutral:.3f} says nothing",
    ]


def operating_table(calibration: Calibration) -> str:
    """Markdown: a row a false match rate."""
    lines = [
        "| false match rate | cosine | 95 % | false non-match rate | 95 % | |",
        "|---|---|---|---|---|---|",
    ]
    for point in calibration.points:
        lines.append(
            f"| {point.fmr:g} | {point.cosine:.3f} | {point.cosine_low:.3f} to {point.cosine_high:.3f} | {point.fnmr:.1%} | "
            f"{point.fnmr_low:.1%} to {point.fnmr_high:.1%} | {'measured' if point.measured else 'extrapolated'} |"
        )
    return "\n".join(lines)


def draw_scores(calibration: Calibration, scores: Scores) -> bytes | None:
    """SVG: histograms of both kinds of scores with the thresholds, and FNMR against FMR; None without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    with rc_context({"svg.hashsalt": calibration.model_id, "svg.fonttype": "none", "font.size": 9.5}):
        figure = Figure(figsize=(9.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        lowest = min(float(values.min()) for values in (scores.impostors, scores.genuines) if len(values))
        bins = np.linspace(lowest, 1, 80)
        for values, colour, label in (
            (scores.impostors, _BLUE, f"different people ({len(scores.impostors)} pairs)"),
            (scores.genuines, _ORANGE, f"one person ({len(scores.genuines)} pairs)"),
        ):
            if len(values):
                left.hist(values, bins, density=True, color=colour, alpha=0.6, label=label)
        for rate, dashes in ((FMR_NAMES, "--"), (FMR_WARNINGS, ":")):
            left.axvline(
                calibration.threshold(rate), color="black", linestyle=dashes, label=f"false match rate {rate:g}"
            )
        left.set_xlabel("cosine")
        left.set_ylabel("density")
        left.legend(frameon=False)
        rates = np.array(curve(calibration))
        right.plot(rates[:, 0], rates[:, 1], color="black")
        for point in calibration.points:
            right.errorbar(
                point.fmr, point.fnmr, [[max(0, point.fnmr - point.fnmr_low)], [max(0, point.fnmr_high - point.fnmr)]],
                marker="o", color=_BLUE if point.measured else _ORANGE, capsize=3,
            )  # fmt: skip
        right.set_xscale("log")
        right.set_xlim(1e-5, 1)
        right.set_ylim(-0.02, 1.02)
        right.set_xlabel("false match rate (orange: extrapolated)")
        right.set_ylabel("false non-match rate")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
