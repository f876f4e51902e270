"""Which pictures are embedded together, and which of these partitions are done.

Role: `ImageSource` + number of readers -> partitions, and their reports in a folder under construction. A killed run is
continued with the partitions that it began with.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from open_clip_idplugin.command_line.devices import AUTO
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.finding import FaceFinding
from open_clip_idplugin.retrieval.index.sources import ImageSource
from open_clip_idplugin.retrieval.index_folder.generations import DONE_FOLDER
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text

PICTURES_PER_PARTITION = 10_000  # of a folder; what a killed run does again at most
PICTURES_WITH_FACES = 1_000  # the same where faces are found too, which takes longer
SEQUENTIAL, PYSPARK = "sequential", "pyspark"
DISTRIBUTORS = (SEQUENTIAL, PYSPARK)
CANNOT_READ = "picture cannot be read"  # the reason of a picture that gave no row
_COUNT_FILE = "partitions.txt"


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed. `embed_captions` and `thumbnail_size` decide what is written, `batch_size` and `workers` in which order;
    the rest changes nothing."""

    batch_size: int = 256
    workers: int = 2  # processes that read, for each partition that is being embedded
    thumbnail_size: int = 256  # longest side in pixels; 0 = no thumbnails
    embed_captions: bool = False
    distributor: str = SEQUENTIAL
    spark_device: str = AUTO  # of the model in Spark's workers
    faces: FaceFinding | None = None  # also find the faces of every picture, in the same pass
    hash_files: bool = False  # note the hash of every file of a folder


@dataclass(frozen=True)
class PartitionReport:
    """What became of one partition's pictures."""

    rows: int
    skipped: list[str] = field(default_factory=list)  # keys of pictures that could not be read
    broken_shards: list[str] = field(default_factory=list)  # file names of tars that break off
    reasons: dict[str, str] = field(default_factory=dict)  # of skipped pictures, as far as they are known
    hashes: dict[str, str] = field(default_factory=dict)  # key -> SHA-256 of the file, where that was asked for


@dataclass(frozen=True)
class Partitions:
    """The partitions of one run, each a list of shards or of keys of pictures, and the folder that the run writes to."""

    folder: Path
    parts: list[list[Any]]

    def __len__(self) -> int:
        return len(self.parts)

    def report(self, number: int) -> PartitionReport | None:
        """What became of a partition; None while it is not done."""
        path = self._done_path(number)
        return PartitionReport(**json.loads(path.read_text())) if path.exists() else None

    def done(self) -> dict[int, PartitionReport]:
        """The reports there are, by partition."""
        reports = ((number, self.report(number)) for number in range(len(self)))
        return {number: report for number, report in reports if report is not None}

    def mark_done(self, number: int, report: PartitionReport) -> None:
        """Keep a report; the last thing that is written of a partition."""
        atomic_write(self._done_path(number), json_text(asdict(report)))

    def _done_path(self, number: int) -> Path:
        return self.folder / DONE_FOLDER / f"{number:06d}.json"


def open_partitions(source: ImageSource, folder: Path, options: EmbedOptions) -> Partitions:
    """The partitions with which a run began in `folder`, or else those of a new one.

    Of shards, each of `workers` reads whole ones of a partition.
    """
    path = folder / DONE_FOLDER / _COUNT_FILE
    if not path.exists():
        count = (
            -(-len(source.shards) // max(options.workers, 1))
            if source.shards
            else -(-len(source.keys) // (PICTURES_WITH_FACES if options.faces else PICTURES_PER_PARTITION))
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, str(count))
    return Partitions(folder, split(source, int(path.read_text())))


def split(source: ImageSource, count: int) -> list[list[Any]]:
    """Shards (or keys of pictures) of each of `count` partitions, split as clip-retrieval's `Sampler` splits its input."""
    items: Sequence[Any] = source.shards or source.keys
    return [list(items[number::count]) for number in range(count)]


def check_distributor(name: object) -> None:
    """Raise IdClipError for a --distributor that is not known."""
    if name not in DISTRIBUTORS:
        raise IdClipError(f"--distributor must be {' or '.join(DISTRIBUTORS)}, not {name!r}")
