"""Distributions of scores: cosines of different people, or of one person's photos -> robust statistics and a fitted tail.

Role: quantiles as far as `FEWEST_ABOVE` scores lie above them; beyond, a normal tail fitted to the quantiles of the highest
tenth is continued: of distances, since cosines near 1 are crowded. Medians and their deviations, since some labels are wrong
and some people have a twin.
"""

from statistics import NormalDist

import numpy as np

from open_clip_idplugin.faces.calibration import GROUPS, CalibrationError, Genuines, Impostors, to_cosine

FEWEST_IMPOSTORS = 100
FEWEST_ABOVE = 10  # impostors above a threshold that is called measured
_TAIL = 0.1  # share of the impostors, the highest, that the tail is fitted to
FEWEST_GENUINES = 5
_SCALE = 1.4826  # of the median absolute deviation, to be a normal distribution's deviation
_DIGITS = 6
_NORMAL = NormalDist()


def impostors_of(scores: np.ndarray) -> Impostors:
    """The distribution of [I] scores of different people; raises CalibrationError where they are too few, or all equal."""
    require_enough(len(scores))
    ordered = np.sort(np.asarray(scores, np.float64))
    middle = float(np.median(ordered))
    deviation = _SCALE * float(np.median(np.abs(ordered - middle)))
    if deviation < 1e-5:
        raise CalibrationError("all pairs of faces have the same score: these embeddings are no face model's")
    cosines, mean, slope = upper_quantiles(ordered, None)
    rates = rates_of(len(ordered))
    kept = tuple((round(rate, 9), round(cosine, _DIGITS)) for rate, cosine in zip(rates, cosines, strict=True))
    return Impostors(round(middle, _DIGITS), round(deviation, _DIGITS), mean, slope, len(ordered), kept)


def body_threshold(scores: np.ndarray, fmr: float) -> float:
    """A first threshold from [I] scores of which some are of one person: the upper side of the body, continued as normal.

    Raises CalibrationError where there are too few.
    """
    require_enough(len(scores))
    middle, upper = np.sqrt(2 - 2 * np.minimum(np.quantile(scores, [0.5, 0.85]), 1))
    slope = (middle - upper) / _NORMAL.inv_cdf(0.85)
    return to_cosine(max(float(middle - slope * _NORMAL.inv_cdf(1 - fmr)), 0.0))


def require_enough(count: int) -> None:
    """Refuse to fit anything to so few impostors."""
    if count < FEWEST_IMPOSTORS:
        raise CalibrationError(
            f"only {count} pairs of different people could be compared, and a calibration needs "
            f"{FEWEST_IMPOSTORS}: give a larger collection, or more people"
        )


def genuines_of(scores: np.ndarray, origin: str) -> Genuines | None:
    """None where too few pairs were there. Pairs of groups lack their low scores, which formed no group: the upper half
    alone gives the deviation."""
    ordered = np.sort(np.asarray(scores, np.float64))
    if len(ordered) < FEWEST_GENUINES:
        return None
    upper = ordered[ordered >= np.median(ordered)] if origin == GROUPS else ordered
    mean, deviation = _robust(ordered, upper)
    distance, distance_deviation = _robust(*(np.sqrt(np.maximum(2 - 2 * part, 0)) for part in (ordered, upper)))
    shares = np.unique(np.concatenate([np.linspace(0, 1, min(len(ordered), 101))]))
    curve = tuple((round(float(s), 6), round(float(np.quantile(ordered, s)), _DIGITS)) for s in shares)
    return Genuines(mean, deviation, distance, distance_deviation, len(ordered), curve, origin)


def _robust(scores: np.ndarray, side: np.ndarray) -> tuple[float, float]:
    """Median of the scores, and the deviation of one side or of all: the smaller one of two estimates, since the median's is
    too wide where scores have two peaks, and the mean square's where labels are wrong."""
    middle = float(np.median(scores))
    spread = _SCALE * float(np.median(np.abs(side - middle)))
    deviation = max(min(spread, float(np.sqrt(np.mean((side - middle) ** 2)))), 1e-3)
    return round(middle, _DIGITS), round(deviation, _DIGITS)


def rates_of(count: int) -> np.ndarray:
    """False match rates of the curve, falling: evenly in logarithms, as far as they are measured."""
    last = min(FEWEST_ABOVE / count, 0.1)
    return np.concatenate([[0.5, 0.3], np.geomspace(0.2, last, max(4, int(np.log10(0.2 / last) * 8)))])


def upper_quantiles(ordered: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, float, float]:
    """Cosines at `rates_of`, and mean and deviation of the fitted tail of distances; weights: [I] of ascending scores."""
    rates = rates_of(len(ordered))
    if weights is None:
        cosines = np.quantile(ordered, 1 - rates)
    else:
        above = np.cumsum(weights[::-1])[::-1]  # weight of the scores from each one on
        places = np.searchsorted(-above, -rates * above[0], side="right") - 1
        cosines = ordered[np.clip(places, 0, len(ordered) - 1)]
    cosines = np.maximum.accumulate(cosines)
    tail = rates <= _TAIL + 1e-12
    places = np.array([-_NORMAL.inv_cdf(rate) for rate in rates[tail]])
    distances = np.sqrt(np.maximum(2 - 2 * cosines[tail], 0))
    slope, mean = np.polyfit(places, distances, 1) if tail.sum() > 1 else (0.0, distances[-1])
    return cosines, round(float(mean), _DIGITS), round(max(-float(slope), 1e-5), _DIGITS)
