"""The parts of a table: what one task leaves on disk until all are put together.

Role: rows, embeddings and notes of a task <-> three files. The notes are written last: a part without them is made again.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.faces.face_table import FaceRow, rows_to_table
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.left_out import Skip
from open_clip_idplugin.storage.locations import Location, is_file

if TYPE_CHECKING:
    import pyarrow

PARTS_FOLDER = "parts"


@dataclass(frozen=True)
class PartNotes:
    """What became of a task's pictures."""

    name: str
    pictures: int  # looked at
    faces: int
    embeddings: int
    without_faces: list[str] = field(default_factory=list)
    rejected: list[Skip] = field(default_factory=list)
    not_embedded: list[str] = field(default_factory=list)  # a picture for each such face

    def to_json(self) -> str:
        """The file's content."""
        values = {**vars(self), "rejected": [vars(skip) for skip in self.rejected]}
        return json_text(values, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "PartNotes":
        """Read what `to_json` gave."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "rejected": [Skip(**skip) for skip in values["rejected"]]})


def write_part(folder: Location, rows: Sequence[FaceRow], embeddings: np.ndarray, notes: PartNotes) -> None:
    """Write a part's files, the notes last; only the owner may read them."""
    import pyarrow.parquet as pq

    with atomic_path(folder / f"{notes.name}.npy", PRIVATE) as temporary, temporary.open("wb") as stream:
        np.save(stream, embeddings)
    with atomic_path(folder / f"{notes.name}.parquet", PRIVATE) as temporary:
        pq.write_table(rows_to_table(rows), temporary)
    atomic_write(folder / f"{notes.name}.json", notes.to_json(), PRIVATE)


def read_notes(folder: Location, name: str) -> PartNotes | None:
    """The notes of a finished part, None when it must be made."""
    place = folder / f"{name}.json"
    if not is_file(place):
        return None
    try:
        return PartNotes.from_json(place.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError):
        return None


def read_part(folder: Location, name: str) -> tuple["pyarrow.Table", np.ndarray]:
    """Rows and embeddings of a finished part."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO((folder / f"{name}.parquet").read_bytes()))
    return table, np.load(io.BytesIO((folder / f"{name}.npy").read_bytes()), allow_pickle=False)
