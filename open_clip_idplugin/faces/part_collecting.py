"""The faces of one part of a collection, collected picture by picture.

Role: found faces -> embeddings, in batches across pictures -> a part on disk (see `face_parts`).
"""

from dataclasses import dataclass, field

import numpy as np

from open_clip_idplugin.faces.engine import FaceEngine
from open_clip_idplugin.faces.face import Face
from open_clip_idplugin.faces.face_parts import PartNotes, write_part
from open_clip_idplugin.faces.face_table import FaceRow
from open_clip_idplugin.pictures.names import label_of
from open_clip_idplugin.storage.left_out import Skip
from open_clip_idplugin.storage.locations import Location

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
