"""The folder of shards: who may write there, what is finished, and the lists beside the tars.

Role: state on disk <-> a build. A build claims its folder with its parameters (`build.json`); a finished shard has a
tar and a `<name>_stats.json`; at the end the sizes (for open_clip), the index (for wids) and the report are written.
A killed build can therefore be run again: what is finished stays, everything else is made again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import same_model
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PART, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from webdataset_tools.report import BuildReport
from webdataset_tools.sample_format import INDEX_FILE, REPORT_FILE, SIZES_FILE
from webdataset_tools.shard_writer import ShardStats, ShardTask

BUILD_FILE = "build.json"
_FACE_MODELS = ("model_id", "face_model")  # parameters that are ids of face models
CONTENT = "content"  # the parameter that stands for the release itself


def claim(folder: Location, parameters: Mapping[str, Any]) -> None:
    """Note the build's parameters in the folder, and remove what a killed build left unfinished.

    Raises IdClipError when the folder holds shards that were made with other parameters.
    """
    path = folder / BUILD_FILE
    there = [entry.name for entry in locations.list_folder(folder)]
    if BUILD_FILE in there:
        differences = differences_between(
            json.loads(path.read_text()), parameters, "the release or the photos have changed"
        )
        if differences:
            raise IdClipError(
                f"{folder} holds shards that were made otherwise ({'; '.join(differences)}); "
                "choose another --output or delete that folder"
            )
    elif any(name.endswith(".tar") for name in there):
        raise IdClipError(f"{folder} holds tars but no {BUILD_FILE}; choose an empty folder for --output")
    else:
        atomic_write(path, _dump(parameters))
    for name in there:
        if name.startswith(".") and name.endswith(PART):
            (folder / name).unlink(missing_ok=True)


def differences_between(before: Mapping[str, Any], now: Mapping[str, Any], content_changed: str) -> list[str]:
    """What differs between two runs' parameters, in words; `content_changed` is said where only the input's hash does."""
    names = [name for name in {**before, **now} if not _equal(name, before.get(name), now.get(name))]
    if names == [CONTENT]:
        return [content_changed]
    return [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if name != CONTENT]


def _equal(name: str, before: Any, now: Any) -> bool:
    if name in _FACE_MODELS and isinstance(before, str) and isinstance(now, str):
        return same_model(before, now)
    return bool(before == now)


def fingerprint(tasks: Iterable[ShardTask], photos: Mapping[str, Sequence[str]]) -> str:
    """Return a hash of everything that shapes the shards, except the images' bytes."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(task.name.encode())
        for sample in task.samples:
            record = [sample.key, sample.identity_name, sample.captions, sample.file_name, sample.attributes]
            digest.update(json_text(record, sort_keys=True).encode())
            digest.update(sample.face.tobytes())
    digest.update(json_text(photos, sort_keys=True).encode())
    return digest.hexdigest()


def write_stats(folder: Location, stats: ShardStats) -> None:
    """Mark a shard as finished."""
    atomic_write(_stats_path(folder, stats.name), _dump(stats.to_json()))


def read_stats(folder: Location, task: ShardTask) -> ShardStats | None:
    """Return what is known about a finished shard, or None when it must be made."""
    path, tar = _stats_path(folder, task.name), folder / task.file_name
    if not locations.is_file(path) or not locations.is_file(tar):
        return None
    stats = ShardStats.from_json(json.loads(path.read_text()))
    return stats if tar.stat().st_size == stats.bytes else None


def write_lists(folder: Location, name: str, stats: Sequence[ShardStats], report: BuildReport) -> None:
    """Write `sizes.json` (tar -> samples), `index.json` (wids) and `report.json`; `name` is the data set's."""
    shards = [(f"{shard.name}.tar", shard) for shard in stats]
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name,
        "shardlist": [{"url": tar, "nsamples": shard.samples, "filesize": shard.bytes} for tar, shard in shards],
    }
    atomic_write(folder / SIZES_FILE, _dump({tar: shard.samples for tar, shard in shards}))
    atomic_write(folder / INDEX_FILE, _dump(index))
    atomic_write(folder / REPORT_FILE, _dump(report.to_json()))


def _stats_path(folder: Location, name: str) -> Location:
    return folder / f"{name}_stats.json"


def _dump(values: Any) -> str:
    return json_text(values, indent=1, ensure_ascii=False) + "\n"
