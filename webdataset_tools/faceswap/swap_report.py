"""Report of a swap: the splits' results -> totals, lists of what was left out, and the lines that the verb prints.

Role: `report.json` of a release. Nothing here depends on time, on interruptions or on the number of workers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

from open_clip_idplugin.storage.reports import Skip, read_entries, reason_lines, with_counts
from webdataset_tools.faceswap.swapping import SplitResult
from webdataset_tools.sample_format import sample_key

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class SplitSummary:
    """Totals of one split; cosines are means over the kept swaps, contexts are kept images of an identity."""

    scenes: int
    people: int
    swaps: int
    dropped: int
    first_try: int  # kept swaps that needed one photo
    contexts: dict[str, float]  # least, median, most
    cosine_identity: float | None
    cosine_original: float | None
    scenes_with_fewer_people: int  # than asked for: not enough identities match
    pairs_refused: dict[str, int]  # reason -> people whose photos do not go onto a scene's face, as far as looked at


@dataclass(frozen=True)
class SwapReport:
    """Totals of a run, and everything that was left out."""

    splits: dict[str, SplitSummary]
    not_one_person: dict[str, int]  # reason -> COCO images, counted only
    identities_left_out: list[Skip] = field(default_factory=list)
    photos_left_out: list[Skip] = field(default_factory=list)
    images_left_out: list[Skip] = field(default_factory=list)
    swaps_dropped: list[Skip] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: totals first, then counts per reason, then every entry."""
        values = asdict(self)
        for name in _LISTS:
            del values[name]  # they come last
            values[name] = with_counts(getattr(self, name))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SwapReport":
        """Read what `to_json` gave."""
        lists = {name: read_entries(values[name]) for name in _LISTS}
        splits = {split: SplitSummary(**summary) for split, summary in values["splits"].items()}
        return cls(splits, values["not_one_person"], **lists)

    def lines(self) -> list[str]:
        """Return the report for a reader."""
        lines = []
        for split, totals in self.splits.items():
            lines.append(
                f"{split}: {totals.swaps:,} swapped images of {totals.people:,} people in {totals.scenes:,} scenes; "
                f"{totals.dropped:,} dropped"
            )
            if totals.swaps:
                lines.append(
                    f"  cosine to the identity {totals.cosine_identity:.3f}, to the original face "
                    f"{totals.cosine_original:.3f}; {totals.first_try / totals.swaps:.0%} at the first try; scenes a person: "
                    f"{totals.contexts['least']:g} to {totals.contexts['most']:g}, median {totals.contexts['median']:g}"
                )
            if totals.scenes_with_fewer_people:
                lines.append(f"  {totals.scenes_with_fewer_people:,} scenes have fewer people than asked for")
            for reason, count in totals.pairs_refused.items():
                lines.append(f"  people not paired with a scene: {count:,} x {reason}")
        lines += [f"COCO images passed over: {count:,} x {reason}" for reason, count in self.not_one_person.items()]
        for name, title in _LISTS.items():
            lines += reason_lines(title, getattr(self, name))
        return lines


_LISTS = {
    "images_left_out": "COCO images left out",
    "identities_left_out": "identities left out",
    "photos_left_out": "photos left out",
    "swaps_dropped": "swaps dropped",
}


def summarise(split: SplitResult, per_image: int) -> SplitSummary:
    """Return the totals of a split."""
    kept = [decision for _, decision in split.kept()]
    contexts = sorted(Counter(decision.identity_id for decision in kept).values()) or [0]
    scenes = {swapped.image.image_id for swapped, _ in split.kept()}
    return SplitSummary(
        scenes=len(scenes),
        people=len({decision.identity_id for decision in kept}),
        swaps=len(kept),
        dropped=sum(len(swapped.decisions) for swapped in split.images) - len(kept),
        first_try=sum(decision.tries == 1 for decision in kept),
        contexts={"least": contexts[0], "median": median(contexts), "most": contexts[-1]},
        cosine_identity=_mean([decision.similarity_identity for decision in kept]),
        cosine_original=_mean([decision.similarity_original for decision in kept]),
        scenes_with_fewer_people=sum(len(swapped.decisions) < per_image for swapped in split.images),
        pairs_refused=split.pairs_refused,
    )


def dropped_swaps(split: SplitResult) -> list[Skip]:
    """Return the swaps of a split that did not succeed."""
    return [
        Skip(sample_key(swapped.image.image_id, decision.identity_id), decision.reason, _detail(decision))
        for swapped in split.images
        for decision in swapped.decisions
        if not decision.kept
    ]


def _detail(decision: Any) -> str:
    if decision.detail or decision.similarity_identity is None:
        return decision.detail
    return (
        f"cosine {decision.similarity_identity:.3f} to the identity, {decision.similarity_original:.3f} to the original"
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(mean(known), 6) if known else None
