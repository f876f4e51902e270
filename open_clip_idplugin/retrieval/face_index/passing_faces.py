"""Faces in the same pass: what the processes that decode pictures for embedding find and embed beside.

Role: decoded picture -> its faces, packed as bytes (the form in which a collated batch takes them along); batches ->
`face_table/` of the folder under construction, part by part. A picture on which the face model fails keeps its vector.
"""

import os
import pickle
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import Face, FaceEngine, ImageRejected
from open_clip_idplugin.faces.face_parts import (
    MODEL_FAILED,
    PARTS_FOLDER,
    PartCollector,
    PartNotes,
    PicturePlace,
    read_notes,
)
from open_clip_idplugin.faces.face_table import METADATA_FILE, FaceTableInfo, load_face_table
from open_clip_idplugin.faces.face_table_writing import remove_parts, write_table
from open_clip_idplugin.faces.finding import FaceFinding, find_faces, load_engine
from open_clip_idplugin.retrieval.face_index.kept_face_table import FOLDER
from open_clip_idplugin.storage.reports import Skip

if TYPE_CHECKING:
    from PIL import Image

_CPU = ("CPUExecutionProvider",)  # readers are forked, and a GPU cannot be used from a forked process


@dataclass(frozen=True)
class _Found:
    """The faces of one picture, or why there are none."""

    width: int = 0
    height: int = 0
    faces: tuple[Face, ...] = ()
    reason: str = ""
    detail: str = ""


class FaceReader:
    """Finds and embeds the faces of decoded pictures, in whichever process it is called."""

    def __init__(self, finding: FaceFinding) -> None:
        self._finding = on_cpu(finding)

    def __call__(self, picture: "Image.Image") -> bytes:
        """Decoded RGB picture -> its faces, for `PartFaces.add`; never raises."""
        try:
            engine = _engine_of(os.getpid(), self._finding)
            pixels = np.asarray(picture)
            faces = engine.embed(find_faces(engine, pixels, self._finding))
            found = _Found(pixels.shape[1], pixels.shape[0], tuple(_small(face) for face in faces))
        except ImageRejected as error:
            found = _Found(reason=error.kind, detail=error.reason)
        except Exception as error:  # whatever a model raises on one odd picture
            found = _Found(reason=MODEL_FAILED, detail=type(error).__name__)
        return pickle.dumps(found)  # read by this very program, in `PartFaces.add`


def on_cpu(finding: FaceFinding) -> FaceFinding:
    """The same on the CPU, with one thread: there are as many readers as cores are wanted for them."""
    return replace(finding, providers=finding.providers or _CPU, threads=1)


def passing_engine(finding: FaceFinding) -> FaceEngine:
    """The engine of this process; it tells the model's name and size, and embeds where the readers did not."""
    before = sys.modules.get("torch")
    threads = before.get_num_threads() if before is not None else os.cpu_count() or 1
    engine = load_engine(on_cpu(finding))
    torch = sys.modules.get("torch")
    if torch is not None:  # engines that run in it share its number of threads with the image tower
        torch.set_num_threads(threads)
    return engine


@lru_cache(maxsize=1)
def _engine_of(process: int, finding: FaceFinding) -> FaceEngine:
    """An engine that this very process opened: what is inherited by a fork may hold threads that are not there."""
    return load_engine.__wrapped__(finding)


_NO_CROP = np.zeros((0, 0, 3), np.uint8)


def _small(face: Face) -> Face:
    """Without its crop, which nobody reads after the recogniser; it is larger than all the rest."""
    return replace(face, crop=_NO_CROP, aligned=face.embedding is not None)


class PartFaces:
    """The faces of one partition in the making."""

    def __init__(self, folder: Path, partition: int, engine: FaceEngine) -> None:
        """`folder`: under construction; its face table gets this part."""
        self._folder = folder / FOLDER / PARTS_FOLDER
        self._part = PartCollector(part_name(partition), engine)

    def add(self, place: PicturePlace, packed: bytes) -> None:
        """Take what `FaceReader` found in a picture."""
        found: _Found = pickle.loads(packed)
        if found.reason:
            self.reject(place, found.reason, found.detail)
        else:
            self._part.add(place, found.width, found.height, list(found.faces))

    def reject(self, place: PicturePlace, reason: str, detail: str = "") -> None:
        """Note a picture that could not be used."""
        self._part.reject(Skip(place.label, reason, detail))

    def write(self) -> PartNotes:
        """Write the part."""
        return self._part.write(self._folder)


def part_name(partition: int) -> str:
    """Name of a partition's part."""
    return f"{partition:06d}"


def finish_faces(folder: Path, partitions: int, engine: FaceEngine, name: str) -> FaceTableInfo:
    """Put the parts of all partitions together to the face table of `folder`; `name` is the collection's.

    Raises:
        IdClipError: a part is missing.
    """
    place = folder / FOLDER
    if not (place / METADATA_FILE).exists():  # else a killed run came this far
        names = [part_name(number) for number in range(partitions)]
        notes = [part for name in names if (part := read_notes(place / PARTS_FOLDER, name)) is not None]
        if len(notes) < partitions:
            raise IdClipError(f"the faces of some pictures are missing in '{place}': delete '{folder}' and run again")
        write_table(place, notes, engine.model_id, engine.embedding_size, name)
    remove_parts(place)
    return load_face_table(place).info
