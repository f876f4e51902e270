"""A whole table: plan, scan in workers, put together, report.

Role: the steps in their order and the state of the folder. `build.json` says what the folder is made of; a run with other
parameters is refused, the same run again goes on where it was interrupted.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import licences
from open_clip_idplugin.faces.face_parts import PARTS_FOLDER, PartNotes, read_notes
from open_clip_idplugin.faces.face_table import METADATA_FILE
from open_clip_idplugin.faces.face_table_writing import remove_parts, write_table
from open_clip_idplugin.faces.finding import FaceFinding, load_engine
from open_clip_idplugin.pictures.collection import Collection, find_collection
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PART, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.folder_lock import locked
from open_clip_idplugin.storage.locations import Location
from webdataset_tools.collection_faces.faces_report import REPORT_FILE, FacesReport, summarise
from webdataset_tools.collection_faces.options import FacesOptions
from webdataset_tools.collection_faces.scanning import FaceScanner, ScanSettings, start_scanning
from webdataset_tools.disk_errors import told_plainly
from webdataset_tools.shard_folder import CONTENT, differences_between
from webdataset_tools.worker_pool import PROCESSES, check_reachable, run_tasks

BUILD_FILE = "build.json"


def build_face_table(options: FacesOptions) -> FacesReport:
    """Find and embed all faces of the collection, write the table and return its report.

    Raises IdClipError on bad input, and when the output folder holds something else.
    """
    with told_plainly(options.folder):
        return _build(options)


def _build(options: FacesOptions) -> FacesReport:
    collection = find_collection(options.input, options.pictures_per_part)
    check_reachable(collection.place, options.workers, options.distributor)
    settings = _settings(options)
    engine = load_engine(settings.finding)
    model_id, size = engine.model_id, engine.embedding_size
    folder = options.folder
    with locked(folder):
        if _claim(folder, _parameters(options, collection, model_id)):
            return FacesReport.from_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
        if options.workers > 1 or options.distributor != PROCESSES:
            load_engine.cache_clear()  # the workers have their own
        notes = _scan(settings, collection, options)
        report = summarise(collection, model_id, notes)
        atomic_write(folder / REPORT_FILE, report.to_json())
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


def _claim(folder: Location, parameters: Mapping[str, Any]) -> bool:
    """Note the parameters in the folder, remove what a killed run left unfinished; return whether all is finished.

    Raises IdClipError when the folder holds faces that were found otherwise, or other files.
    """
    place = folder / BUILD_FILE
    if locations.is_file(place):
        differences = differences_between(
            json.loads(place.read_text(encoding="utf-8")), parameters, "the pictures have changed"
        )
        if differences:
            raise IdClipError(
                f"{folder} holds faces that were found otherwise ({'; '.join(differences)}); "
                "choose another --output or delete that folder"
            )
    elif locations.list_folder(folder):
        raise IdClipError(f"{folder} holds files but no {BUILD_FILE}; choose an empty folder for --output")
    else:
        atomic_write(place, json_text(parameters, indent=1, ensure_ascii=False) + "\n")
    for part in (folder, folder / PARTS_FOLDER):
        for entry in locations.list_folder(part):
            if entry.name.startswith(".") and entry.name.endswith(PART):
                (part / entry.name).unlink()
    if not locations.is_file(folder / METADATA_FILE):
        return False
    remove_parts(folder)  # killed between the last two steps
    return True


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
