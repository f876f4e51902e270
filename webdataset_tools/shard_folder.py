"""The folder of shards: a build -> what of it is finished, and the lists beside the tars.

Role: state on disk <-> a build. A finished shard has a tar and a `<name>_stats.json`; at the end the sizes (for open_clip), the
index (for wids) and the report are written. A killed build can be run again: what is finished stays, all else is made again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from open_clip_idplugin.faces import same_model
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import PUBLIC, atomic_write
from open_clip_idplugin.storage.finite_json import json_document, json_text
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.output_folder import OutputKind
from open_clip_idplugin.storage.reports import write_report
from webdataset_tools.sample_format import INDEX_FILE, REPORT_FILE, SIZES_FILE
from webdataset_tools.shard_report import BuildReport
from webdataset_tools.shard_writer import ShardStats, ShardTask

SHARDS = OutputKind(
    "shards that were made otherwise",
    "the release or the photos have changed",
    foreign=".tar",
    same={"face_model": same_model},
)


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
    atomic_write(_stats_path(folder, stats.name), json_document(stats.to_json()))


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
    atomic_write(folder / SIZES_FILE, json_document({tar: shard.samples for tar, shard in shards}))
    atomic_write(folder / INDEX_FILE, json_document(index))
    write_report(folder / REPORT_FILE, report.to_json(), PUBLIC)


def _stats_path(folder: Location, name: str) -> Location:
    return folder / f"{name}_stats.json"
