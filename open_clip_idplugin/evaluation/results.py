"""What an evaluation found, configuration by configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from open_clip_idplugin.evaluation.curves import Points


@dataclass
class Results:
    """Fractions in [0, 1] (sums: up to 4 and 8) by configuration, such as `metrics["conf1"]["t2i_R@1"]`.

    strata: the general protocol by the groups of the set, `strata["conf1"]["stratum=small"]["t2i_R@1"]`, with the
    numbers of `images` and `queries` beside the recalls
    curves: t2i R@1 against what is searched, `curves["gallery_size"]["conf1"]` as [x, y] pairs, see `evaluation.curves`
    failures: the worst queries, `failures["conf1"]`, see `evaluation.failures`
    tuned: rule and numbers that were chosen on other people, by configuration
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    strata: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, Points]] = field(default_factory=dict)
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tuned: dict[str, dict[str, str | float]] = field(default_factory=dict)

    def add(
        self, configuration: str, general: "General | None" = None, more: Mapping[str, float] | None = None
    ) -> None:
        """Note what a configuration found in general retrieval, and further metrics."""
        values = self.metrics.setdefault(configuration, {})
        if general is not None:
            values |= general.values
            self.strata[configuration] = general.strata
            self.failures[configuration] = general.failures
            for name, points in general.curves.items():
                self.curves.setdefault(name, {})[configuration] = points
        values |= more or {}

    def update(self, other: "Results") -> None:
        """Take the results of other configurations, or other results of the same ones."""
        for configuration, values in other.metrics.items():
            self.metrics.setdefault(configuration, {}).update(values)
        self.strata.update(other.strata)
        self.failures.update(other.failures)
        self.tuned.update(other.tuned)
        for name, lines in other.curves.items():
            self.curves.setdefault(name, {}).update(lines)


@dataclass(frozen=True)
class General:
    """What one configuration found in general retrieval; fields as in `Results`."""

    values: dict[str, float]
    strata: dict[str, dict[str, float]]
    curves: dict[str, Points]
    failures: list[dict[str, Any]]
