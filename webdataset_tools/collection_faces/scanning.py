"""The work of one process: a task's pictures -> their faces -> a part on disk.

Role: faces are found picture by picture and embedded in batches across pictures. A picture that fails is noted, and the
next one taken; only an output that cannot be written stops the work.
"""

from dataclasses import dataclass

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import FaceEngine, ImageRejected, load_picture
from open_clip_idplugin.faces.face_parts import MODEL_FAILED, PartCollector, PartNotes, PicturePlace
from open_clip_idplugin.faces.finding import FaceFinding, find_faces, load_engine
from open_clip_idplugin.pictures.collection import PictureFile, Task, read_pictures
from open_clip_idplugin.storage.locations import Location, location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.worker_pool import Tick


@dataclass(frozen=True)
class ScanSettings:
    """What all parts of a table share; goes to every worker once."""

    parts: str  # folder or URL
    finding: FaceFinding


def start_scanning(settings: ScanSettings) -> "FaceScanner":
    """Prepare a worker (see `worker_pool.run_tasks`)."""
    return FaceScanner(load_engine(settings.finding), settings)


class FaceScanner:
    """Scans tasks with one engine."""

    def __init__(self, engine: FaceEngine, settings: ScanSettings) -> None:
        self.engine, self.settings = engine, settings
        self.parts: Location = location(settings.parts)

    def __call__(self, task: Task, tick: Tick) -> PartNotes:
        """Write the part of `task`, calling `tick` after every picture, and return its notes.

        Raises IdClipError when the output cannot be written.
        """
        part = PartCollector(task.name, self.engine)
        for picture in read_pictures(task):
            self._look_at(picture, part)
            tick()
        try:
            return part.write(self.parts)
        except OSError as error:
            raise IdClipError(f"cannot write to {self.parts}: {error}; run the same command again to go on") from error

    def _look_at(self, picture: "PictureFile | Skip", part: PartCollector) -> None:
        """Find the faces of a picture, or note why there are none."""
        if isinstance(picture, Skip):
            part.reject(picture)
            return
        try:
            pixels = load_picture(picture.content)
            faces = find_faces(self.engine, pixels, self.settings.finding)
        except ImageRejected as error:
            part.reject(Skip(picture.label, error.kind, error.reason))
            return
        except Exception as error:  # whatever a model raises on one odd picture
            part.reject(Skip(picture.label, MODEL_FAILED, type(error).__name__))
            return
        height, width = pixels.shape[:2]
        part.add(PicturePlace(picture.shard, picture.key, picture.path), width, height, faces)
