"""Score calibration: what a face model's cosines mean, from its impostor and genuine scores (ISO/IEC 19795-1).

Role: a frozen description of both distributions -> thresholds for a false match rate, standardised scores, probabilities.
Impostor scores are cosines of different people, genuine ones of different photos of one person. Every face model has a
scale of its own: different people have cosines around 0 with ArcFace's nets and around 0.86 with dlib's, so that no cosine
is a threshold by itself. `calibrating` measures one, `calibration_files` finds the one of a model.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from open_clip_idplugin.faces.score_distributions import (
    ASSUMED,
    CalibrationError,
    Genuines,
    Impostors,
    Pairs,
    columns,
    to_cosine,
    to_distance,
)

FORMAT = "face-calibration-v1"
FMR_NAMES = 1e-3  # of whatever says who somebody is: names at faces, filters, clauses of a query
FMR_WARNINGS = 1e-4  # of whatever is compared with everybody unasked: warnings, groups
REFERENCE_DEVIATION = 0.19  # of the drawn world's pack, for which weights were tuned: `fusion` scales the others' to it
_NORMAL = NormalDist()
_GRID = np.linspace(-1, 1, 2001)
_LEAST = 1e-300
_UNSEEN_RATE = 0.1
_MOST_POINTS = 1000  # of a curve


@dataclass(frozen=True)
class OperatingPoint:
    """A false match rate, the cosine that gives it and what it costs; intervals hold 95 of 100 times.

    measured: whether enough impostors lie above the cosine; else it follows from the fitted tail.
    """

    fmr: float
    cosine: float
    cosine_low: float
    cosine_high: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float
    measured: bool


@dataclass(frozen=True)
class Calibration:
    """What the cosines of one face model mean.

    Attributes:
        model_id: of the face model.
        impostors, genuines: its two distributions.
        points: with their intervals, for people; thresholds come from the distributions.
        source: what was measured, in words.
        expected_images, highest_prior: a person is expected in so many images of a collection, but in no more than this
            share of them, before any face is compared.
    """

    model_id: str
    impostors: Impostors
    genuines: Genuines
    points: tuple[OperatingPoint, ...] = ()
    source: str = ""
    expected_images: float = 10.0
    highest_prior: float = 0.01
    facts: Mapping[str, Any] = field(default_factory=dict)  # counts of what was measured

    @property
    def assumed(self) -> bool:
        """Whether nobody has measured this model: the numbers are those of ArcFace's nets."""
        return self.impostors.pairs == 0

    def threshold(self, fmr: float) -> float:
        """The cosine that different people reach with this false match rate; raises CalibrationError outside 0 ... 1."""
        return self.impostors.threshold(fmr)

    def measures(self, fmr: float) -> bool:
        """Whether the threshold of this rate was measured; else it is extrapolated with the fitted tail."""
        return bool(not self.assumed and fmr >= self.impostors.quantiles[-1][0])

    def false_match_rate(self, cosine: float) -> float:
        """Share of different people who reach this cosine: what `threshold` turns round."""
        return self.impostors.false_match_rate(cosine)

    def false_non_match_rate(self, cosine: float) -> float:
        """Share of photos of one person that stay below this cosine; from a normal distribution where none were measured."""
        if not self.genuines.quantiles:
            return _NORMAL.cdf((self.genuines.distance - to_distance(cosine)) / -self.genuines.distance_deviation)
        rates, cosines = columns(self.genuines.quantiles)
        return float(np.interp(cosine, cosines, rates, left=0.0, right=1.0))

    def standardise(self, cosines: Any) -> Any:
        """Cosines of numpy or torch -> deviations above the mean of different people."""
        return (cosines - self.impostors.mean) / self.impostors.deviation

    @cached_property
    def neutral(self) -> float:
        """The cosine that is as likely between different people as between photos of one: it says nothing."""
        return float(np.interp(0.0, self._log_ratio(1), _GRID))

    @cached_property
    def unseen(self) -> float:
        """The cosine that stands for an image in which no face was found: the neutral one, but no more than one stranger in ten
        reaches.

        A model that tells people apart well is neutral far above nearly all strangers, where pictures without a face would rank
        before weak matches.
        """
        return min(self.neutral, self.threshold(_UNSEEN_RATE))

    def prior(self, images: int) -> float:
        """Probability that an image shows a person of whom nothing is known, among so many images."""
        return min(self.highest_prior, self.expected_images / max(images, 1))

    def probability(self, cosines: np.ndarray, faces: np.ndarray, images: int) -> np.ndarray:
        """Probability that a person is in each of R images.

        Of the faces of an image the most similar one counts, so that many faces need a higher cosine: with n faces the
        likelihood ratio is f1/(n f0) + (n - 1)/n F1/F0, f and F being density and distribution of genuine (1) and impostor
        (0) scores. It never falls with the cosine. Where no face was found nothing is known, and the prior stays.

        Args:
            cosines: [R] of the person and the best face.
            faces: [R] int, compared in each image.
            images: that were searched, for `prior`.

        Returns:
            [R] float64 in [0, 1].
        """
        cosines, faces = np.asarray(cosines, np.float64), np.asarray(faces)
        ratios = np.zeros(len(cosines))
        for count in np.unique(faces[faces > 0]):
            chosen = faces == count
            ratios[chosen] = np.interp(cosines[chosen], _GRID, self._log_ratio(int(count)))
        prior = self.prior(images)
        odds = np.exp(np.clip(ratios, -700, 700)) * prior / (1 - prior)
        return odds / (1 + odds)

    def to_json(self) -> str:
        """The file's content."""
        values = {"format": FORMAT, **asdict(self)}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        return re.sub(r"\[\s+([-+.\de]+),\s+([-+.\de]+)\s+\]", r"[\1, \2]", text) + "\n"  # a pair a line

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Read what `to_json` wrote; raises CalibrationError for anything else."""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            impostors, genuines = values.pop("impostors"), values.pop("genuines")
            points = tuple(OperatingPoint(**point) for point in values.pop("points"))
            read = cls(
                impostors=Impostors(**{**impostors, "quantiles": _pairs(impostors["quantiles"])}),
                genuines=Genuines(**{**genuines, "quantiles": _pairs(genuines["quantiles"])}),
                points=points,
                **values,
            )
            read._require_sense()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CalibrationError(f"it is no calibration of a face model ({error})") from None
        return read

    def with_prior(self, expected_images: float, highest_prior: float) -> "Calibration":
        """The same with another prior."""
        changed = replace(self, expected_images=expected_images, highest_prior=highest_prior)
        try:
            changed._require_sense()
        except (ValueError, TypeError) as error:
            raise CalibrationError(f"this prior has no sense ({error})") from None
        return changed

    def _require_sense(self) -> None:
        both = (self.impostors, self.genuines)
        deviations = [value for part in both for value in (part.deviation, part.distance_deviation)]
        means = [value for part in both for value in (part.mean, part.distance)]
        if not all(1e-6 < float(value) <= 2 for value in deviations) or not all(-1 <= float(v) <= 2 for v in means):
            raise ValueError("means and deviations of cosines out of range")
        rates, cosines = columns(self.impostors.quantiles)
        if not len(rates):
            raise ValueError("there is no curve of false match rates")
        if not (np.diff(rates) < 0).all() or not (np.diff(cosines) >= 0).all() or not 0 < rates[-1] <= rates[0] < 1:
            raise ValueError("false match rates must fall while the cosine rises")
        if not isinstance(self.model_id, str) or not isinstance(self.source, str):
            raise ValueError("model_id and source must be texts")
        if not 0 < self.highest_prior < 1 or not 0 < self.expected_images < 1e12:
            raise ValueError("a prior lies between 0 and 1")

    @cached_property
    def _likelihoods(self) -> tuple[np.ndarray, np.ndarray]:
        """f1/f0 and F1/F0 along the grid; beyond the impostors' mean distance both are what they are there.

        Taken of distances, which are closer to a normal distribution than cosines near 1; a ratio of densities is the same.
        """
        distances = np.minimum(np.sqrt(2 - 2 * _GRID), self.impostors.distance)
        genuine = (self.genuines.distance - distances) / self.genuines.distance_deviation
        impostor = (self.impostors.distance - distances) / self.impostors.distance_deviation
        widths = self.impostors.distance_deviation / self.genuines.distance_deviation
        densities = np.exp(np.clip((impostor**2 - genuine**2) / 2, -700, 700)) * widths
        return densities, np.maximum(_cdf(genuine), _LEAST) / np.maximum(_cdf(impostor), _LEAST)

    def _log_ratio(self, faces: int) -> np.ndarray:
        """Logarithm of the likelihood ratio along the grid, made to rise without a step back and, at last, strictly."""
        densities, distributions = self._likelihoods
        ratio = densities / faces + distributions * (faces - 1) / faces
        return np.maximum.accumulate(np.log(np.maximum(ratio, _LEAST))) + 1e-9 * _GRID


def assumed_genuines(impostors: Impostors) -> Genuines:
    """Where nobody's photos could be compared: three quarters of the distance that one impostor in 10,000 comes to.

    The models that were measured have 0.7 to 0.8 of it (docs/faces.md).
    """
    distance = max(0.75 * to_distance(impostors.threshold(FMR_WARNINGS)), 0.01)
    deviation = distance / 5
    return Genuines(to_cosine(distance), distance * deviation, distance, deviation, 0, (), ASSUMED)


def assumed_calibration(model_id: str) -> Calibration:
    """What is taken for a model that nobody has measured: the thresholds of ArcFace's nets, and cosines added as they are."""
    impostors = Impostors(
        0.0, REFERENCE_DEVIATION, math.sqrt(2), 0.09, 0, ((0.5, 0.0), (0.1, 0.14), (0.01, 0.26), (0.001, 0.35))
    )
    words = "nothing was measured: the scale of ArcFace's nets on photographs is assumed"
    return Calibration(model_id, impostors, assumed_genuines(impostors), source=words)


def _cdf(values: np.ndarray) -> np.ndarray:
    """Share of a normal distribution below each value."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values])


def _pairs(values: Any) -> Pairs:
    pairs = tuple((float(first), float(second)) for first, second in values)
    if len(pairs) > _MOST_POINTS or not np.isfinite(np.asarray(pairs)).all():
        raise ValueError("its curve has too many points, or numbers that are not finite")
    return pairs
