"""Face table of a collection: options -> pictures planned, scanned in workers, put together, reported.

Role: the steps in their order, and the options that they hang on; the same run again goes on where it was interrupted.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from open_clip_idplugin.command_line.verb_arguments import require_whole_number
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import licences, same_model
from open_clip_idplugin.faces.face_parts import PARTS_FOLDER, PartNotes, read_notes
from open_clip_idplugin.faces.face_table import METADATA_FILE
from open_clip_idplugin.faces.face_table_writing import remove_parts, write_table
from open_clip_idplugin.faces.finding import FaceFinding, load_engine
from open_clip_idplugin.pictures.collection import PICTURES_PER_PART, Collection, find_collection
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PUBLIC
from open_clip_idplugin.storage.locations import Location, Place, is_local, location
from open_clip_idplugin.storage.output_folder import (
    CONTENT,
    OutputKind,
    claimed_folder,
    disk_errors_explained,
    remove_leftovers,
)
from open_clip_idplugin.storage.reports import write_report
from webdataset_tools.collection_faces.faces_report import REPORT_FILE, FacesReport, summarise
from webdataset_tools.collection_faces.scanning import FaceScanner, ScanSettings, start_scanning
from webdataset_tools.worker_pool import PROCESSES, check_distributor, check_reachable, run_tasks

FACES = OutputKind("faces that were found otherwise", "the pictures have changed", same={"model_id": same_model})


@dataclass(frozen=True)
class FacesOptions:
    """See `command.faces`; raises IdClipError when a value is not allowed."""

    input: str
    output: Place
    faces: str = "insightface:buffalo_l"
    det_size: int | None = None
    min_face: int = 0
    min_score: float = 0.0
    providers: str | None = None
    threads: int = 1
    pictures_per_part: int = PICTURES_PER_PART
    workers: int = 2
    distributor: str = PROCESSES
    sheet: bool = False

    def __post_init__(self) -> None:
        for name, least in (("min_face", 0), ("threads", 1), ("pictures_per_part", 1), ("workers", 1)):
            require_whole_number(f"--{name}", getattr(self, name), least)
        if not isinstance(self.min_score, (int, float)) or not 0 <= self.min_score <= 1:
            raise IdClipError(f"--min_score must be a number from 0 to 1, not {self.min_score!r}")
        if self.sheet and not is_local(self.folder):
            raise IdClipError("--sheet reads the written table and needs a local --output")
        check_distributor(self.distributor)
        check_reachable(self.folder, self.workers, self.distributor)

    @property
    def folder(self) -> Location:
        """The output folder, independent of the working directory of workers."""
        place = location(self.output)
        return place.absolute() if is_local(place) else place

    @property
    def provider_names(self) -> tuple[str, ...] | None:
        """onnxruntime's execution providers, None for the best there is."""
        if self.providers is None:
            return None
        return tuple(name.strip() for name in self.providers.split(",") if name.strip())


def build_face_table(options: FacesOptions) -> FacesReport:
    """Find and embed all faces of the collection, write the table and return its report.

    Raises IdClipError on bad input, and when the output folder holds something else.
    """
    with disk_errors_explained(options.folder):
        return _build(options)


def _build(options: FacesOptions) -> FacesReport:
    collection = find_collection(options.input, options.pictures_per_part)
    check_reachable(collection.place, options.workers, options.distributor)
    settings = _settings(options)
    engine = load_engine(settings.finding)
    model_id, size = engine.model_id, engine.embedding_size
    folder = options.folder
    with claimed_folder(folder, _parameters(options, collection, model_id), FACES):
        if locations.is_file(folder / METADATA_FILE):
            remove_parts(folder)  # killed between the last two steps
            return FacesReport.from_json(json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))
        remove_leftovers(folder / PARTS_FOLDER)
        if options.workers > 1 or options.distributor != PROCESSES:
            load_engine.cache_clear()  # the workers have their own
        notes = _scan(settings, collection, options)
        report = summarise(collection, model_id, notes)
        write_report(folder / REPORT_FILE, report.to_json(), PUBLIC)
        write_table(folder, notes, model_id, size, collection.name)
        remove_parts(folder)
    return report


def _settings(options: FacesOptions) -> ScanSettings:
    finding = FaceFinding(
        options.faces,
        options.det_size,
        options.provider_names,
        options.threads,
        options.min_face,
        options.min_score,
    )
    return ScanSettings(str(options.folder / PARTS_FOLDER), finding)


def _parameters(options: FacesOptions, collection: Collection, model_id: str) -> dict[str, Any]:
    names = ("faces", "det_size", "min_face", "min_score", "pictures_per_part")
    values = {name: getattr(options, name) for name in names}
    return {"input": collection.name, "model_id": model_id, **values, CONTENT: collection.content}


def _scan(settings: ScanSettings, collection: Collection, options: FacesOptions) -> list[PartNotes]:
    """Make the parts that are not finished yet and return the notes of all, in order."""
    parts = options.folder / PARTS_FOLDER
    finished = {notes.name: notes for task in collection.tasks if (notes := read_notes(parts, task.name)) is not None}
    todo = [task for task in collection.tasks if task.name not in finished]
    done = sum(notes.pictures for notes in finished.values())
    spread = options.workers > 1 or options.distributor != PROCESSES
    prepare = partial(_start_quietly if spread else start_scanning, settings)
    with tqdm(total=collection.pictures, initial=done, unit="pictures", desc="finding faces", smoothing=0.1) as bar:
        for notes in run_tasks(prepare, todo, options.workers, bar, options.distributor):
            finished[notes.name] = notes
            faces = sum(each.faces for each in finished.values())
            bar.set_postfix_str(f"{faces:,} faces, {len(finished)}/{len(collection.tasks)} parts")
    return [finished[task.name] for task in collection.tasks]


def _start_quietly(settings: ScanSettings) -> FaceScanner:
    """Prepare a worker process; the licences were said by the first one."""
    licences.keep_quiet()
    return start_scanning(settings)
