"""Report of looking for faces: the parts' notes -> counts, what could not be used, and the lines that the verb prints.

Role: `report.json` beside a face table; nothing depends on time or on the number of workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_clip_idplugin.faces.face_parts import PartNotes
from open_clip_idplugin.pictures.collection import Collection
from open_clip_idplugin.pictures.passed_over import PassedOver, passed_over_lines, to_json
from open_clip_idplugin.storage.reports import Skip, read_entries, reason_lines, with_counts

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class FacesReport:
    """Totals, the pictures without faces, and the pictures that could not be used by reason."""

    input: str
    model_id: str
    pictures: int
    faces: int
    embeddings: int
    without_faces: list[str]
    rejected: list[Skip]
    not_embedded: list[str]
    passed_over: list[PassedOver] = field(default_factory=list)
    exact_copies: dict[str, str] = field(default_factory=dict)  # key of a copy -> of the picture that was read

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "input": self.input,
            "model_id": self.model_id,
            "pictures": self.pictures,
            "faces": self.faces,
            "embeddings": self.embeddings,
            "without_faces": {"count": len(self.without_faces), "pictures": self.without_faces},
            "rejected": with_counts(self.rejected, "pictures"),
            "not_embedded": {"count": len(self.not_embedded), "pictures": self.not_embedded},
            "passed_over": to_json(self.passed_over),
            "exact_copies": self.exact_copies,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FacesReport":
        """Read what `to_json` gave."""
        return cls(
            **{
                **values,
                "without_faces": values["without_faces"]["pictures"],
                "rejected": read_entries(values["rejected"], "pictures"),
                "not_embedded": values["not_embedded"]["pictures"],
                "passed_over": [PassedOver(**entry) for entry in values.get("passed_over", ())],
            }
        )

    def lines(self) -> list[str]:
        """The report for a reader."""
        lines = [
            f"pictures {self.pictures:,}; faces {self.faces:,}; embeddings {self.embeddings:,}; "
            f"pictures without faces {len(self.without_faces):,}; face model {self.model_id}"
        ]
        lines += reason_lines("left out", self.rejected)
        if self.not_embedded:
            lines.append(f"without embedding: {len(self.not_embedded):,} faces whose landmarks cannot be aligned")
        lines += passed_over_lines(self.passed_over)
        if self.exact_copies:
            lines.append(f"exact copies: {len(self.exact_copies):,} files, each picture looked at once")
        return lines


def summarise(collection: Collection, model_id: str, notes: Sequence[PartNotes]) -> FacesReport:
    """The report of all parts."""
    return FacesReport(
        input=collection.name,
        model_id=model_id,
        pictures=sum(part.pictures for part in notes),
        faces=sum(part.faces for part in notes),
        embeddings=sum(part.embeddings for part in notes),
        without_faces=[label for part in notes for label in part.without_faces],
        rejected=[skip for part in notes for skip in part.rejected],
        not_embedded=[label for part in notes for label in part.not_embedded],
        passed_over=list(collection.passed_over),
        exact_copies=collection.copies,
    )
