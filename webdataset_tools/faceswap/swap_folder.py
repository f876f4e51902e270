"""The folder of a swap run: who may write there, and which units of work are finished.

Role: state on disk <-> a run. A run claims its folder with its parameters (`swap_build.json`). Finished units of each stage lie
as records in `.swap/`, which goes when the release is complete: a killed run goes on behind the last record, and a finished
release holds nothing that depends on interruptions.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from open_clip_idplugin.atomic import PRIVATE, atomic_write
from open_clip_idplugin.errors import IdClipError
from webdataset_tools.release import COCO_FOLDER, SPLITS
from webdataset_tools.shard_folder import CONTENT as CONTENT
from webdataset_tools.shard_folder import differences_between
from webdataset_tools.worker_pool import Tick, run_tasks

BUILD_FILE = "swap_build.json"
WORK_FOLDER = ".swap"

Item = TypeVar("Item")
Task = tuple[int, list[Item]]
Work = Callable[[Any, Tick], tuple[int, dict[str, Any]]]


def claim(folder: Path, parameters: Mapping[str, Any]) -> None:
    """Note the run's parameters in the folder, and remove half-written files of a killed run.

    Raises IdClipError when the folder holds something else, or a release that was made otherwise.
    """
    path = folder / BUILD_FILE
    if path.is_file():
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
    elif any(entry.name != WORK_FOLDER and not entry.name.endswith(".part") for entry in folder.iterdir()):
        raise IdClipError(f"{folder} is not empty and holds no swapped release; choose another --output")
    else:
        atomic_write(path, json.dumps(parameters, indent=1, ensure_ascii=False) + "\n")
    coco = folder / COCO_FOLDER
    images = [coco / files.images for files in SPLITS.values()]
    for place in {folder, coco, coco / "annotations", *images, *(folder / WORK_FOLDER).glob("*")}:
        for leftover in place.glob(".*.part"):
            leftover.unlink(missing_ok=True)


def chunked(items: Sequence[Item], size: int, first: int = 0) -> list[Task[Item]]:
    """Number slices of `items`; a slice is what is either finished or made again. `first` is the first slice's number."""
    starts = range(0, len(items), size)
    return [(first + number, list(items[start : start + size])) for number, start in enumerate(starts)]


def run_stage(
    folder: Path, workers: int, stage: str, tasks: Sequence[Task[Any]], prepare: Callable[[], Work], title: str
) -> list[dict[str, Any]]:
    """Return the record of every task, in order: read where it is finished, made (and kept) where it is not.

    The bar counts pictures or people, and shows how many a second.
    """
    place = folder / WORK_FOLDER / stage
    records = {task[0]: record for task in tasks if (record := _read(place / f"{task[0]:06d}.json")) is not None}
    todo = [task for task in tasks if task[0] not in records]
    done = sum(len(task[1]) for task in tasks if task[0] in records)
    left = sum(len(task[1]) for task in todo)
    with tqdm(total=done + left, initial=done, unit="images", desc=title, smoothing=0.1) as bar:
        for number, record in run_tasks(prepare, todo, workers, bar):
            try:
                atomic_write(place / f"{number:06d}.json", json.dumps(record), PRIVATE)
            except OSError as error:
                raise IdClipError(f"cannot write to {place} ({error}); make room and run the same again") from error
            records[number] = record
    return [records[task[0]] for task in tasks]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:  # a power cut may leave an empty file: its unit is made again
        return None


def clear_work(folder: Path) -> None:
    """Remove the records of finished units."""
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
