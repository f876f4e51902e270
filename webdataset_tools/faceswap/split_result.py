"""The outcome of one split, as the release's files need it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from webdataset_tools.faceswap.coco import CocoImage
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.swapping import Decision
from webdataset_tools.report import Skip


@dataclass(frozen=True)
class SwappedImage:
    """A COCO image, its face, the values it was matched by, and what became of its identities."""

    image: CocoImage
    face: FoundFace
    values: dict[str, str | None]
    decisions: list[Decision]


@dataclass(frozen=True)
class SplitResult:
    """One split, swapped: images sorted by id; names and photo faces (photo -> face) by identity id."""

    split: str
    images: list[SwappedImage]
    names: Mapping[str, str]
    photos: Mapping[str, Mapping[str, FoundFace]]
    digital_source_type: str
    skipped: list[Skip] = field(default_factory=list)
    pairs_refused: dict[str, int] = field(default_factory=dict)  # reason -> pairs of a scene and a person

    def kept(self) -> Iterator[tuple[SwappedImage, Decision]]:
        """Yield every swap that is in the release, by image and identity."""
        for swapped in self.images:
            for decision in sorted(swapped.decisions, key=lambda decision: decision.identity_id):
                if decision.kept:
                    yield swapped, decision
