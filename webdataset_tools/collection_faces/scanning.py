"""The work of one process: a task's pictures -> their faces -> a part on disk.

Role: faces are found picture by picture and embedded in batches across pictures. A picture that fails is noted, and the
next one taken; only an output that cannot be written stops the work.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import Face, FaceEngine, ImageRejected, load_face_engine, load_picture
from open_clip_idplugin.faces.face_parts import PartNotes, write_part
from open_clip_idplugin.faces.face_table import FaceRow
from open_clip_idplugin.locations import Location, location
from webdataset_tools.collection_faces.collection import Task
from webdataset_tools.collection_faces.picture_reading import PictureFile, read_pictures
from webdataset_tools.report import Skip
from webdataset_tools.worker_pool import Tick

MODEL_FAILED = "face model failed"
_WAITING = 128  # faces that wait for the recogniser, some 5 MB


@dataclass(frozen=True)
class ScanSettings:
    """What all parts of a table share; goes to every worker once."""

    parts: str  # folder or URL
    spec: str
    det_size: int | None
    providers: tuple[str, ...] | None
    threads: int
    min_face: int
    min_score: float


@lru_cache(maxsize=1)
def load_engine(settings: ScanSettings) -> FaceEngine:
    """The engine of `settings`, once a process."""
    return load_face_engine(settings.spec, settings.det_size, settings.providers, settings.threads)


def start_scanning(settings: ScanSettings) -> "FaceScanner":
    """Prepare a worker (see `worker_pool.run_tasks`)."""
    return FaceScanner(load_engine(settings), settings)


@dataclass(frozen=True, eq=False)
class _Found:
    """A face that waits for its embedding, and where it was found."""

    picture: PictureFile
    number: int
    width: int
    height: int
    face: Face


@dataclass
class _Part:
    """A part in the making."""

    name: str
    pictures: int = 0
    waiting: list[_Found] = field(default_factory=list)
    rows: list[FaceRow] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    without_faces: list[str] = field(default_factory=list)
    rejected: list[Skip] = field(default_factory=list)
    not_embedded: list[str] = field(default_factory=list)

    def notes(self) -> PartNotes:
        """What to remember of it."""
        return PartNotes(
            self.name,
            self.pictures,
            len(self.rows),
            len(self.embeddings),
            self.without_faces,
            self.rejected,
            self.not_embedded,
        )


class FaceScanner:
    """Scans tasks with one engine."""

    def __init__(self, engine: FaceEngine, settings: ScanSettings) -> None:
        self.engine, self.settings = engine, settings
        self.parts: Location = location(settings.parts)

    def __call__(self, task: Task, tick: Tick) -> PartNotes:
        """Write the part of `task`, calling `tick` after every picture, and return its notes.

        Raises IdClipError when the output cannot be written.
        """
        part = _Part(task.name)
        for picture in read_pictures(task):
            self._look_at(picture, part)
            if len(part.waiting) >= _WAITING:
                self._embed(part)
            tick()
        self._embed(part)
        notes = part.notes()
        size = self.engine.embedding_size
        embeddings = np.stack(part.embeddings) if part.embeddings else np.zeros((0, size), np.float32)
        try:
            write_part(self.parts, part.rows, embeddings, notes)
        except OSError as error:
            raise IdClipError(f"cannot write to {self.parts}: {error}; run the same command again to go on") from error
        return notes

    def _look_at(self, picture: "PictureFile | Skip", part: _Part) -> None:
        """Find the faces of a picture, or note why there are none."""
        part.pictures += 1
        if isinstance(picture, Skip):
            part.rejected.append(picture)
            return
        try:
            pixels = load_picture(picture.content)
            faces = [face for face in self.engine.find(pixels) if self._counts(face)]
        except ImageRejected as error:
            part.rejected.append(Skip(picture.label, error.kind, error.reason))
            return
        except Exception as error:  # whatever a model raises on one odd picture
            part.rejected.append(Skip(picture.label, MODEL_FAILED, type(error).__name__))
            return
        height, width = pixels.shape[:2]
        source = replace(picture, content=b"")  # the bytes would fill the memory while faces wait
        part.waiting += [_Found(source, number, width, height, face) for number, face in enumerate(faces)]
        if not faces:
            part.without_faces.append(picture.label)

    def _counts(self, face: Face) -> bool:
        sides = face.box[2:] - face.box[:2]
        return face.score >= self.settings.min_score and float(sides.min()) >= self.settings.min_face

    def _embed(self, part: _Part) -> None:
        """One recogniser run over the faces that wait."""
        faces = self.engine.embed([found.face for found in part.waiting])
        for found, face in zip(part.waiting, faces):
            part.rows.append(self._row(found, None if face.embedding is None else len(part.embeddings)))
            if face.embedding is None:
                part.not_embedded.append(found.picture.label)
            else:
                part.embeddings.append(face.embedding)
        part.waiting.clear()

    def _row(self, found: _Found, embedding_row: int | None) -> FaceRow:
        face = found.face
        return FaceRow(
            shard=found.picture.shard,
            key=found.picture.key,
            path=found.picture.path,
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
