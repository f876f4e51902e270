"""The folder of a swap run: who may write there, and which units of work are finished.

Role: state on disk <-> a run. A run claims its folder with its parameters (`swap_build.json`). Finished units of each stage lie
as records in `.swap/`, which goes when the release is complete: a killed run goes on behind the last record, and a finished
release holds nothing that depends on interruptions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PART, PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from webdataset_tools.release import COCO_FOLDER, IDENTITY_FOLDER, SPLITS
from webdataset_tools.shard_folder import CONTENT as CONTENT
from webdataset_tools.shard_folder import differences_between
from webdataset_tools.worker_pool import Tick, run_tasks

BUILD_FILE = "swap_build.json"
WORK_FOLDER = ".swap"

Item = TypeVar("Item")
Task = tuple[int, list[Item]]
Work = Callable[[Any, Tick], tuple[int, dict[str, Any]]]


def claim(folder: Location, parameters: Mapping[str, Any]) -> None:
    """Note the run's parameters in the folder, and remove half-written files of a killed run.

    Raises IdClipError when the folder holds something else, or a release that was made otherwise.
    """
    path = folder / BUILD_FILE
    if locations.is_file(path):
        differences = differences_between(
            json.loads(path.read_text()),
            parameters,
            "the COCO files, the identities or the swapper's model have changed",
        )
        if differences:
            raise IdClipError(
                f"{folder} holds a release that was made otherwise ({'; '.join(differences)}); "
                "choose another --output or delete that folder"
            )
    elif any(name != WORK_FOLDER and not name.endswith(PART) for name, _ in locations.list_folder(folder)):
        raise IdClipError(f"{folder} is not empty and holds no swapped release; choose another --output")
    else:
        atomic_write(path, json_text(parameters, indent=1, ensure_ascii=False) + "\n")
    coco = folder / COCO_FOLDER
    images = [coco / files.images for files in SPLITS.values()]
    stages = [folder / WORK_FOLDER / name for name, _ in locations.list_folder(folder / WORK_FOLDER)]
    for place in {folder, folder / IDENTITY_FOLDER, coco, coco / "annotations", *images, *stages}:
        for name, _ in locations.list_folder(place):
            if name.startswith(".") and name.endswith(PART):
                (place / name).unlink(missing_ok=True)


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
