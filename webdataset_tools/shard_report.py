"""Report of packing: `Skip` entries of the release reader and of the packing workers -> totals, lists and lines.

Role: the JSON report beside the shards and the lines that the verb prints, and the reasons themselves. Nothing here depends on
time or on the number of workers, so that a resumed build writes the same report as an undisturbed one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from open_clip_idplugin.storage.reports import Skip, reason_lines, with_counts

# Why a sample is not in the shards.
BAD_KEY = "bad key"
DUPLICATE_KEY = "duplicate key"
WRONG_EMBEDDING_SIZE = "wrong embedding size"
BAD_EMBEDDING = "non-finite or zero embedding"
UNKNOWN_IDENTITY = "unknown identity"
MISSING_CAPTIONS = "missing captions"
MISSING_IMAGE = "missing image"
UNREADABLE_IMAGE = "unreadable image"
CORRUPT_IMAGE = "corrupt image"

# Why a sample that is in the shards has no face crop.
NO_PHOTO = "no photo of the identity"
NO_FACE_IN_PHOTOS = "no face found in the identity's photos"
NO_FACE_IN_IMAGE = "no face found in the swapped image"


@dataclass(frozen=True)
class BuildReport:
    """Totals of one build, and every skipped sample."""

    source: str
    split: str
    samples: int
    shards: int
    images: int  # distinct COCO images
    identities: int
    crops: Mapping[str, int]  # source of the crop -> samples
    skipped: list[Skip] = field(default_factory=list)
    without_crop: list[Skip] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: totals first, then counts per reason, then every entry."""
        values = asdict(self)
        for name in ("skipped", "without_crop"):
            del values[name]  # they come last
            values[name] = with_counts(getattr(self, name), "samples")
        return values

    def lines(self) -> list[str]:
        """Return the report for a reader: totals, then each reason with its first examples."""
        lines = [
            f"samples {self.samples:,}; people {self.identities:,}; scenes {self.images:,}; shards {self.shards:,}"
        ]
        if self.crops:
            lines.append("face crops: " + ", ".join(f"{name} {count:,}" for name, count in self.crops.items()))
        lines += reason_lines("left out", self.skipped)
        lines += reason_lines("without face crop", self.without_crop)
        return lines
