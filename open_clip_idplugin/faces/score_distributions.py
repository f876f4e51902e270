"""Distributions of scores: cosines of different people, or of one person's photos -> robust statistics and a fitted tail.

Role: quantiles as far as `FEWEST_ABOVE` scores lie above them; beyond, a normal tail fitted to the quantiles of the highest
tenth is continued: of distances, since cosines near 1 are crowded. Medians and their deviations, since some labels are wrong
and some people have a twin.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from open_clip_idplugin.errors import IdClipError

LABELS, GROUPS, ASSUMED = "labels", "groups", "assumed"  # how it is known that two photos show one person
FEWEST_IMPOSTORS = 100
FEWEST_ABOVE = 10  # impostors above a threshold that is called measured
_TAIL = 0.1  # share of the impostors, the highest, that the tail is fitted to
FEWEST_GENUINES = 5
_SCALE = 1.4826  # of the median absolute deviation, to be a normal distribution's deviation
_DIGITS = 6
_NORMAL = NormalDist()


Pairs = tuple[tuple[float, float], ...]


class CalibrationError(IdClipError):
    """A file or a number that is no calibration, or scores that none can be made of."""


@dataclass(frozen=True)
class Impostors:
    """Scores of different people.

    Attributes:
        mean, deviation: of the cosines' body, robust (median, scaled median absolute deviation).
        distance, distance_deviation: mean and deviation of the normal distribution whose lower tail is that of the
            distances of embeddings, sqrt(2 - 2 cosine).
        pairs: how many were compared; 0 where nothing was measured.
        quantiles: (false match rate, cosine), the rate falling as far as at least ten pairs lie above.
    """

    mean: float
    deviation: float
    distance: float
    distance_deviation: float
    pairs: int
    quantiles: Pairs

    def threshold(self, fmr: float) -> float:
        """The cosine that different people reach with this false match rate; raises CalibrationError outside 0 ... 1."""
        require_rate(fmr)
        rates, cosines = columns(self.quantiles)
        if fmr > rates[0]:
            return float(max(min(cosines[0], self.mean + self.deviation * _upper(fmr)), -1.0))
        if fmr >= rates[-1]:
            return float(np.interp(-math.log(fmr), -np.log(rates), cosines))
        beyond = self.distance_deviation * (_upper(fmr) - _upper(float(rates[-1])))
        return to_cosine(max(to_distance(float(cosines[-1])) - beyond, 0.0))

    def false_match_rate(self, cosine: float) -> float:
        """Share of different people who reach this cosine."""
        rates, cosines = columns(self.quantiles)
        if cosine < cosines[0]:
            return max(float(rates[0]), 1 - _NORMAL.cdf((cosine - self.mean) / self.deviation))
        if cosine <= cosines[-1]:
            return float(np.exp(np.interp(cosine, cosines, np.log(rates))))
        beyond = (to_distance(float(cosines[-1])) - to_distance(cosine)) / self.distance_deviation
        return _NORMAL.cdf(-(_upper(float(rates[-1])) + beyond))


@dataclass(frozen=True)
class Genuines:
    """Scores of two photos of one person, in the terms of `Impostors`; `quantiles`: (false non-match rate, cosine)."""

    mean: float
    deviation: float
    distance: float
    distance_deviation: float
    pairs: int
    quantiles: Pairs
    origin: str = LABELS  # GROUPS: of people whom the model itself told apart; ASSUMED: no pair was there


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


def require_rate(fmr: float) -> float:
    """The rate itself; raises CalibrationError where it does not lie between 0 and 1."""
    if not isinstance(fmr, (int, float)) or not 0 < fmr < 1:
        raise CalibrationError(f"a false match rate lies between 0 and 1, such as 0.001; {fmr!r} does not")
    return float(fmr)


def to_distance(cosine: float) -> float:
    """Distance of unit vectors with this cosine."""
    return math.sqrt(max(2 - 2 * cosine, 0.0))


def to_cosine(distance: float) -> float:
    """Cosine of unit vectors of this distance."""
    return 1 - distance * distance / 2


def _upper(rate: float) -> float:
    """Deviations above the mean that a normal distribution passes with this rate."""
    return -_NORMAL.inv_cdf(rate)


def columns(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers of K pairs as two arrays [K]."""
    table = np.asarray(pairs, np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
