"""A whole table: plan, scan in workers, put together, report.

Role: the steps in their order; the same run again goes on where it was interrupted.
"""

from functools import partial
from typing import Any

from tqdm import tqdm

from open_clip_idplugin.faces import licences, same_model
from open_clip_idplugin.faces.face_parts import PARTS_FOLDER, PartNotes, read_notes
from open_clip_idplugin.faces.face_table import METADATA_FILE
from open_clip_idplugin.faces.face_table_writing import remove_parts, write_table
from open_clip_idplugin.faces.finding import FaceFinding, load_engine
from open_clip_idplugin.pictures.collection import Collection, find_collection
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.output_folder import CONTENT, OutputKind, claimed_folder, remove_leftovers
from webdataset_tools.collection_faces.faces_report import REPORT_FILE, FacesReport, summarise
from webdataset_tools.collection_faces.options import FacesOptions
from webdataset_tools.collection_faces.scanning import FaceScanner, ScanSettings, start_scanning
from webdataset_tools.disk_errors import told_plainly
from webdataset_tools.worker_pool import PROCESSES, check_reachable, run_tasks

FACES = OutputKind("faces that were found otherwise", "the pictures have changed", same={"model_id": same_model})


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
    with claimed_folder(folder, _parameters(options, collection, model_id), FACES):
        if locations.is_file(folder / METADATA_FILE):
            remove_parts(folder)  # killed between the last two steps
            return FacesReport.from_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
        remove_leftovers(folder / PARTS_FOLDER)
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
