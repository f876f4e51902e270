"""The folder of a swap run: stages -> the records of the units of work that are finished.

Role: state on disk <-> a run. Finished units of each stage lie
as records in `.swap/`, which goes when the release is complete: a killed run goes on behind the last record, and a finished
release holds nothing that depends on interruptions.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.output_folder import OutputKind, remove_leftovers
from webdataset_tools.release import COCO_FOLDER, IDENTITY_FOLDER, SPLITS
from webdataset_tools.worker_pool import Tick, run_tasks

RELEASE = OutputKind(
    "a release that was made otherwise",
    "the COCO files, the identities or the swapper's model have changed",
    note="swap_build.json",
)
WORK_FOLDER = ".swap"

Item = TypeVar("Item")
Task = tuple[int, list[Item]]
Work = Callable[[Any, Tick], tuple[int, dict[str, Any]]]


def remove_half_written(folder: Location) -> None:
    """Remove half-written files of a killed run from the folders of a release that the caller has claimed."""
    coco = folder / COCO_FOLDER
    images = [coco / files.images for files in SPLITS.values()]
    stages = [folder / WORK_FOLDER / name for name, _ in locations.list_folder(folder / WORK_FOLDER)]
    remove_leftovers(folder / IDENTITY_FOLDER, coco, coco / "annotations", *images, *stages)


def chunked(items: Sequence[Item], size: int, first: int = 0) -> list[Task[Item]]:
    """Number slices of `items`; a slice is what is either finished or made again. `first` is the first slice's number."""
    starts = range(0, len(items), size)
    return [(first + number, list(items[start : start + size])) for number, start in enumerate(starts)]


def run_stage(
    folder: Location,
    workers: int,
    distributor: str,
    stage: str,
    tasks: Sequence[Task[Any]],
    prepare: Callable[[], Work],
    title: str,
) -> list[dict[str, Any]]:
    """Return the record of every task, in order: read where it is finished, made (and kept) where it is not.

    The bar counts pictures or people, and shows how many a second.
    """
    place = folder / WORK_FOLDER / stage
    there = {name for name, _ in locations.list_folder(place)}
    names = {task[0]: f"{task[0]:06d}.json" for task in tasks}
    records = {
        number: record
        for number, name in names.items()
        if name in there and (record := _read(place / name)) is not None
    }
    todo = [task for task in tasks if task[0] not in records]
    done = sum(len(task[1]) for task in tasks if task[0] in records)
    left = sum(len(task[1]) for task in todo)
    with tqdm(total=done + left, initial=done, unit="images", desc=title, smoothing=0.1) as bar:
        for number, record in run_tasks(prepare, todo, workers, bar, distributor):
            try:
                atomic_write(place / names[number], json_text(record), PRIVATE)
            except OSError as error:
                raise IdClipError(f"cannot write to {place} ({error}); make room and run the same again") from error
            records[number] = record
    return [records[task[0]] for task in tasks]


def _read(path: Location) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a power cut may leave an empty file: its unit is made again
        return None


def clear_work(folder: Location) -> None:
    """Remove the records of finished units."""
    locations.remove_folder(folder / WORK_FOLDER)
