"""Parts of a face table: the faces of one task, collected picture by picture -> files on the disk, until all are put together.

Found faces are embedded in batches across pictures. The notes of a part are written last: a part without them is made again.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.faces.engine import FaceEngine
from open_clip_idplugin.faces.face import Face
from open_clip_idplugin.faces.face_table import FaceRow, rows_to_table
from open_clip_idplugin.pictures.keys import label_of
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location, is_file
from open_clip_idplugin.storage.reports import Skip

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


MODEL_FAILED = "face model failed"
_WAITING = 128  # faces that wait for the recogniser, some 5 MB


@dataclass(frozen=True)
class PicturePlace:
    """Where a picture is in its collection; as in `FaceRow`."""

    shard: str | None
    key: str
    path: str

    @property
    def label(self) -> str:
        """Its name in reports."""
        return label_of(self.shard, self.key)


@dataclass(frozen=True, eq=False)
class _Found:
    """A face that waits for its embedding, and where it was found."""

    place: PicturePlace
    number: int
    width: int
    height: int
    face: Face


@dataclass
class PartCollector:
    """A part in the making; faces that come with an embedding keep it."""

    name: str
    engine: FaceEngine
    _pictures: int = 0
    _waiting: list[_Found] = field(default_factory=list)
    _rows: list[FaceRow] = field(default_factory=list)
    _embeddings: list[np.ndarray] = field(default_factory=list)
    _without_faces: list[str] = field(default_factory=list)
    _rejected: list[Skip] = field(default_factory=list)
    _not_embedded: list[str] = field(default_factory=list)

    def add(self, place: PicturePlace, width: int, height: int, faces: list[Face]) -> None:
        """Take the faces of one picture of `width` x `height` pixels, best first."""
        self._pictures += 1
        self._waiting += [_Found(place, number, width, height, face) for number, face in enumerate(faces)]
        if not faces:
            self._without_faces.append(place.label)
        if len(self._waiting) >= _WAITING:
            self._embed()

    def reject(self, skip: Skip) -> None:
        """Note a picture that could not be used."""
        self._pictures += 1
        self._rejected.append(skip)

    def write(self, folder: Location) -> PartNotes:
        """Write the part to `folder` and return its notes; raises OSError where that fails."""
        self._embed()
        size = self.engine.embedding_size
        embeddings = np.stack(self._embeddings) if self._embeddings else np.zeros((0, size), np.float32)
        notes = PartNotes(
            self.name,
            self._pictures,
            len(self._rows),
            len(embeddings),
            self._without_faces,
            self._rejected,
            self._not_embedded,
        )
        write_part(folder, self._rows, embeddings, notes)
        return notes

    def _embed(self) -> None:
        """One recogniser run over the faces that wait."""
        bare = [found.face for found in self._waiting if found.face.embedding is None]
        embedded = iter(self.engine.embed(bare))
        for found in self._waiting:
            face = next(embedded) if found.face.embedding is None else found.face
            self._rows.append(self._row(found, None if face.embedding is None else len(self._embeddings)))
            if face.embedding is None:
                self._not_embedded.append(found.place.label)
            else:
                self._embeddings.append(face.embedding)
        self._waiting.clear()

    def _row(self, found: _Found, embedding_row: int | None) -> FaceRow:
        face = found.face
        return FaceRow(
            shard=found.place.shard,
            key=found.place.key,
            path=found.place.path,
            face=found.number,
            box=face.box,
            landmarks=face.landmarks,
            score=face.score,
            width=found.width,
            height=found.height,
            model_id=self.engine.model_id,
            embedding_row=embedding_row,
            gender=face.gender,
            age=face.age,
        )
