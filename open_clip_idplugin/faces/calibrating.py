"""Fitting a calibration: genuine and impostor scores, or a collection's face table -> `Calibration` with operating points.

What `score_distributions` finds, as a table of operating points after ISO/IEC 19795-1. Intervals of thresholds come from
drawing people again (bootstrap of subjects: pairs that share a person are not independent), those of shares are Wilson's. A
collection that joins an index calibrates a model that nobody has measured, and is compared with what is known of one that
somebody has.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration, OperatingPoint, assumed_genuines
from open_clip_idplugin.faces.calibration_files import FILE, load_calibration, user_file, write_calibration
from open_clip_idplugin.faces.face_table import FaceTable
from open_clip_idplugin.faces.score_distributions import (
    ASSUMED,
    FEWEST_IMPOSTORS,
    GROUPS,
    CalibrationError,
    Genuines,
    Impostors,
    Pairs,
    genuines_of,
    impostors_of,
    rates_of,
    upper_quantiles,
)
from open_clip_idplugin.faces.score_pairs import LEAST_FACE, CollectedFaces, Scores, collect_scores

RATES = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
_ASSUMED_PAIRS = 20
_DRAWS = 100  # of the bootstrap
_CONFIDENCE = 0.95
_NORMAL = NormalDist()


def calibrate_scores(scores: Scores, model_id: str, source: str, **facts: Any) -> Calibration:
    """Fit a calibration to measured scores.

    Args:
        scores: of pairs of faces.
        model_id: the face model of all of them.
        source: what was measured, in words.
        facts: counts to note beside it.

    Raises:
        CalibrationError: fewer than `FEWEST_IMPOSTORS` pairs of different people, or no spread in their scores.
    """
    impostors = impostors_of(scores.impostors)
    assumed = assumed_genuines(impostors)
    measured = genuines_of(scores.genuines, scores.origin)
    genuines = assumed if measured is None else _tempered(measured, assumed)
    counts = {"impostor_pairs": len(scores.impostors), "genuine_pairs": len(scores.genuines), "impostors": scores.how}
    found = Calibration(model_id, impostors, genuines, source=source, facts={**facts, **counts})
    return replace(found, points=_points(found, scores))


def _tempered(measured: Genuines, assumed: Genuines) -> Genuines:
    """Deviations of few pairs are too small more often than not, and then a match is called improbable: what is assumed counts
    as `_ASSUMED_PAIRS` more."""
    count = measured.pairs

    def pooled(own: float, other: float) -> float:
        variance = (count * own**2 + _ASSUMED_PAIRS * other**2) / (count + _ASSUMED_PAIRS)
        return round(float(np.sqrt(variance)), 6)

    return replace(
        measured,
        deviation=pooled(measured.deviation, assumed.deviation),
        distance_deviation=pooled(measured.distance_deviation, assumed.distance_deviation),
    )


def misfit(calibration: Calibration, impostors: np.ndarray) -> str | None:
    """A sentence where impostor scores [I] of a collection do not fit a calibration; None where they do.

    They do not where different people reach the threshold of one in a hundred more than three times as often, or the
    middle of the scores lies a whole deviation away: another kind of picture, or other weights under one name.
    """
    if len(impostors) < FEWEST_IMPOSTORS:
        return None
    threshold = calibration.threshold(0.01)
    low, _ = wilson(int((impostors >= threshold).sum()), len(impostors))
    shift = abs(float(np.median(impostors)) - calibration.impostors.mean) / calibration.impostors.deviation
    if low <= 0.03 and shift <= 1:
        return None
    share = float((impostors >= threshold).mean())
    return (
        f"the faces of this collection do not fit the calibration of '{calibration.model_id}': {share:.1%} of its different "
        f"people reach the cosine that 1 % should ({threshold:.3f}), and their middle is {np.median(impostors):.3f} in "
        f"place of {calibration.impostors.mean:.3f}; measure it with `idclip calibrate`"
    )


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a share, at 95 %; (0, 1) of nothing."""
    if count == 0:
        return 0.0, 1.0
    z = _NORMAL.inv_cdf(0.5 + _CONFIDENCE / 2)
    share = hits / count
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, float((middle - half) / (1 + z * z / count))), min(
        1.0, float((middle + half) / (1 + z * z / count))
    )


def _points(found: Calibration, scores: Scores) -> tuple[OperatingPoint, ...]:
    lows, highs = _threshold_intervals(scores)
    points, count = [], len(scores.genuines)
    for rate, low, high in zip(RATES, lows, highs, strict=True):
        cosine = found.threshold(rate)
        missed = int((scores.genuines < cosine).sum())
        share = missed / count if count else found.false_non_match_rate(cosine)
        numbers = (cosine, min(low, cosine), max(high, cosine), share, *wilson(missed, count))
        cosine, low, high, share, share_low, share_high = (round(number, 4) for number in numbers)
        measured = found.measures(rate)
        points.append(OperatingPoint(rate, cosine, low, high, share, share_low, share_high, measured))
    return tuple(points)


def _threshold_intervals(scores: Scores) -> tuple[Sequence[float], Sequence[float]]:
    """95 % of the thresholds at `RATES` when people are drawn again, with the tail fitted anew each time."""
    order = np.argsort(scores.impostors, kind="stable")
    ordered = np.asarray(scores.impostors, np.float64)[order]
    names, units = np.unique(scores.units[order], return_inverse=True)
    units = units.reshape(-1, 2)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(np.float64)
        first, second = times[units[:, 0]], times[units[:, 1]]
        weights = np.where(units[:, 0] == units[:, 1], first, first * second)
        if weights.sum() < 2:
            continue
        cosines, mean, slope = upper_quantiles(ordered, weights)
        rates = tuple(zip(rates_of(len(ordered)).tolist(), cosines.tolist(), strict=True))
        resampled = Impostors(0.0, 1.0, mean, slope, 1, rates)
        drawn.append([resampled.threshold(rate) for rate in RATES])
    edge = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(drawn), [edge, 1 - edge], axis=0)
    return low.tolist(), high.tolist()


def curve(found: Calibration) -> Pairs:
    """(FMR, FNMR) along the cosines from the impostors' middle to 1: the detection error trade-off."""
    cosines = np.linspace(found.impostors.mean, 1, 200)
    return tuple((found.false_match_rate(float(c)), found.false_non_match_rate(float(c))) for c in cosines)


def describe_genuines(genuines: Genuines) -> str:
    """How the genuine scores are known, for people."""
    if genuines.origin == ASSUMED:
        return "assumed (no two photos of one person were compared)"
    words = (
        "of groups that the model itself found: provisional, and too high" if genuines.origin == GROUPS else "of labels"
    )
    return f"{genuines.pairs} pairs {words}"


def calibrate_collection(table: FaceTable) -> tuple[Calibration | None, str | None]:
    """Measure a face model of which nothing is known on a collection without labels, or compare the collection.

    Returns:
        The new calibration, None where the model has one or the collection is too small; and a sentence for people, None where
        there is nothing to say.
    """
    known = load_calibration(table.model_id)
    try:
        faces = CollectedFaces.of_table(table)
        scores = collect_scores(faces, groups=known.assumed)
        if not known.assumed:
            return None, misfit(known, scores.impostors)
        source = f"{len(faces)} faces of '{table.info.input}', without names"
        measured = calibrate_scores(scores, table.model_id, source, faces=len(faces), least_face=LEAST_FACE)
    except CalibrationError as error:
        if not known.assumed:
            return None, None
        reason = f"nobody has measured the face model '{table.model_id}', and this collection cannot: {error}"
        return None, f"{reason}; until then {known.source}"
    return measured, (
        f"the face model '{table.model_id}' was measured on this collection: names from cosine "
        f"{measured.threshold(FMR_NAMES):.3f} on; one person: {describe_genuines(measured.genuines)}"
    )


def calibrate_beside(table: FaceTable, folder: Path) -> str | None:
    """Keep what was measured beside the faces of an index, and for this user where nothing of the model is there.

    Returns a sentence for people; None where there is nothing to say, or `folder` has a calibration already.
    """
    if (folder / FILE).exists():
        return None
    measured, said = calibrate_collection(table)
    if measured is not None:
        write_calibration(folder / FILE, measured)
        if not user_file(measured.model_id).exists():  # enrolling and grouping know as well
            write_calibration(user_file(measured.model_id), measured)
    return said
