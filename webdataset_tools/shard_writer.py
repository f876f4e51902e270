"""Shard writer: the samples of one shard -> read, checked, cropped, in one tar.

Role: `ShardTask` -> a tar and its `ShardStats`. Input: slices of a release; output: `<name>.tar` under its final name
only when it is complete. The same task gives the same bytes on any machine: member order, times, owners and modes are
fixed. webdataset's own TarWriter would bring torch (seconds, hundreds of MB) into every worker process.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, BinaryIO

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools import face_crops, shard_report
from webdataset_tools.face_crops import Cropper, FaceCrop
from webdataset_tools.image_check import find_damage
from webdataset_tools.release import ReleaseSample
from webdataset_tools.sample_format import Sample, SampleRecord, sample_to_members
from webdataset_tools.tar_writing import TarWriter
from webdataset_tools.worker_pool import Tick


@dataclass(frozen=True)
class PackSettings:
    """What all shards of a build share; goes to every worker once."""

    output: Location
    images: Location
    source: str
    split: str
    face_model: str | None
    crops: str  # photo, image or none
    verify: str  # how images are checked; one of image_check.CHECKS
    load_engine: partial[Any]  # picklable; () -> FaceFinder
    photo_folder: Location | None
    photos: dict[str, tuple[str, ...]]  # identity id -> candidates inside photo_folder


@dataclass(frozen=True)
class ShardTask:
    """The samples of one shard, in their order."""

    name: str  # such as 00003
    samples: list[ReleaseSample]

    @property
    def file_name(self) -> str:
        """Name of the tar."""
        return f"{self.name}.tar"


@dataclass(frozen=True)
class ShardStats:
    """What became of a task; stored beside the shard."""

    name: str
    samples: int
    bytes: int  # of the tar
    crops: dict[str, int] = field(default_factory=dict)  # source -> samples
    skipped: list[Skip] = field(default_factory=list)
    without_crop: list[Skip] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ShardStats":
        """Read what `to_json` gave."""
        skips = {name: [Skip(**entry) for entry in values[name]] for name in ("skipped", "without_crop")}
        return cls(**{**values, **skips})


@dataclass
class _Tally:
    crops: Counter[str] = field(default_factory=Counter)
    skipped: list[Skip] = field(default_factory=list)
    without_crop: list[Skip] = field(default_factory=list)


class ShardPacker:
    """The work of one process: holds the cropper, packs task after task."""

    def __init__(self, settings: PackSettings) -> None:
        self.settings = settings
        self.crop = _create_cropper(settings)

    def __call__(self, task: ShardTask, tick: Tick) -> ShardStats:
        """Write the shard of `task`, calling `tick` after every sample.

        Unusable images are left out and listed. Raises IdClipError when the output cannot be written.
        """
        tally = _Tally()
        target = self.settings.output / task.file_name
        try:
            with atomic_path(target, PRIVATE) as temporary:
                with temporary.open("wb") as stream:
                    count = _write_tar(stream, self._samples(task, tick, tally))
                size = temporary.stat().st_size
        except OSError as error:
            raise IdClipError(f"cannot write {target}: {error}; run the same command again to go on") from error
        return ShardStats(task.name, count, size, dict(sorted(tally.crops.items())), tally.skipped, tally.without_crop)

    def _samples(self, task: ShardTask, tick: Tick, tally: "_Tally") -> Iterator[Sample]:
        for sample in task.samples:
            image = _read_image(self.settings.images / sample.file_name, sample.key, self.settings.verify)
            if isinstance(image, Skip):
                tally.skipped.append(image)
            else:
                crop = self.crop(sample.identity_id, image)
                if crop.source:
                    tally.crops[crop.source] += 1
                elif crop.reason:
                    tally.without_crop.append(Skip(sample.key, crop.reason, crop.detail))
                yield self._assemble(sample, image, crop)
            tick()

    def _assemble(self, sample: ReleaseSample, image: bytes, crop: FaceCrop) -> Sample:
        record = SampleRecord(
            image_id=sample.image_id,
            identity_id=sample.identity_id,
            identity_name=sample.identity_name,
            captions=sample.captions,
            split=self.settings.split,
            file_name=sample.file_name,
            source=self.settings.source,
            face_crop_source=crop.source,
            face_photo=crop.photo,
            face_model=self.settings.face_model,
            attributes=sample.attributes,
        )
        return Sample(sample.key, image, sample.captions[0], sample.face, crop.content, record)


def start_packing(settings: PackSettings) -> ShardPacker:
    """Prepare a worker (see `worker_pool.run_tasks`)."""
    return ShardPacker(settings)


def _create_cropper(settings: PackSettings) -> Cropper:
    if settings.crops == "none":
        return face_crops.no_crop
    engine = settings.load_engine()
    if settings.photo_folder is None:
        return face_crops.ImageCropper(engine)
    return face_crops.PhotoCropper(engine, settings.photo_folder, settings.photos)


def _write_tar(stream: BinaryIO, samples: Iterator[Sample]) -> int:
    count = 0
    with TarWriter(stream) as tar:
        for sample in samples:
            for name, content in sample_to_members(sample).items():
                tar.add(f"{sample.key}.{name}", content)
            count += 1
    return count


def _read_image(path: Location, key: str, check: str) -> bytes | Skip:
    """Return the file's bytes when they are a whole image, else the reason."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Skip(key, shard_report.MISSING_IMAGE, path.name)
    except OSError as error:
        return Skip(key, shard_report.UNREADABLE_IMAGE, f"{path.name}: {error.strerror or error}")
    damage = find_damage(content, check)
    return Skip(key, shard_report.CORRUPT_IMAGE, f"{path.name}: {damage}") if damage else content
