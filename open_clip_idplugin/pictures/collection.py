"""Collection of pictures: a folder tree, a glob or tar shards -> tasks for workers -> the bytes of their pictures.

The tasks depend on the collection alone, so that any number of workers, and any number of interruptions, write the same parts.
Pictures of a folder are dealt in order of their paths; a shard is one task. A damaged shard gives what lies before the damage,
and a Skip; so does what cannot be read.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.keys import key_of, label_of, place_of
from open_clip_idplugin.pictures.passed_over import PassedOver
from open_clip_idplugin.pictures.tar_samples import picture_member, tar_samples
from open_clip_idplugin.pictures.walk import FoundPictures, walk_pictures
from open_clip_idplugin.storage.locations import Location, location
from open_clip_idplugin.storage.reports import Skip

PICTURES_PER_PART = 512


@dataclass(frozen=True)
class PictureTask:
    """Some pictures of a folder."""

    name: str  # of the part
    root: str
    keys: tuple[str, ...]  # paths below the root, with /


@dataclass(frozen=True)
class ShardTask:
    """One tar."""

    name: str
    place: str

    @property
    def shard(self) -> str:
        """The tar's file name."""
        return location(self.place).name


Task = PictureTask | ShardTask


@dataclass(frozen=True)
class Collection:
    """What was found: tasks, the pictures in all (None for shards, which are not read beforehand), and what is left out."""

    name: str
    tasks: Sequence[Task]
    pictures: int | None
    content: str  # hash of names and sizes
    passed_over: tuple[PassedOver, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)  # key of an exact copy -> of the picture that is read

    @property
    def place(self) -> Location:
        """Where the pictures or shards are."""
        task = self.tasks[0]
        return location(task.root if isinstance(task, PictureTask) else task.place)


def find_collection(text: str, pictures_per_part: int) -> Collection:
    """List the pictures or shards that `text` names.

    Args:
        text: a folder of pictures (with its subfolders) or of tars, a glob such as `photos/*/*.jpg` or `shards/*.tar`, one tar,
            or brace notation (`shards/{00000..00007}.tar`); paths or URLs.
        pictures_per_part: most pictures of a task.

    Raises:
        IdClipError: nothing there.
    """
    found = walk_pictures(text)
    tasks = _shard_tasks(text, found) if found.shards else _picture_tasks(found, pictures_per_part)
    pictures = None if found.shards else len(found.keys)
    name = found.shards[0].parent if found.shards else found.root
    return Collection(name.name or str(name), tasks, pictures, found.digest, found.passed_over, found.copies)


def _picture_tasks(found: FoundPictures, pictures_per_part: int) -> list[PictureTask]:
    starts = range(0, len(found.keys), pictures_per_part)
    parts = [found.keys[start : start + pictures_per_part] for start in starts]
    return [PictureTask(f"{number:06d}", str(found.root), part) for number, part in enumerate(parts)]


def _shard_tasks(text: str, found: FoundPictures) -> list[ShardTask]:
    if len({place.name for place in found.shards}) < len(found.shards):
        raise IdClipError(f"--input: {text} names several shards of one file name; give them folder by folder")
    return [ShardTask(f"{number:06d}", str(place)) for number, place in enumerate(found.shards)]


UNREADABLE = "missing or unreadable file"
TOO_LARGE = "file too large"
DAMAGED_SHARD = "damaged shard"
NO_PICTURE = "sample without a picture"
_MOST_BYTES = 1 << 29  # a file beyond is no photograph, and would fill the memory
_BLOCK = 512


@dataclass(frozen=True)
class PictureFile:
    """A picture as it is stored."""

    shard: str | None
    key: str
    path: str
    content: bytes

    @property
    def label(self) -> str:
        """Its name in reports."""
        return label_of(self.shard, self.key)


def read_pictures(task: Task) -> Iterator["PictureFile | Skip"]:
    """The pictures of a task in order."""
    return _read_files(task) if isinstance(task, PictureTask) else _read_shard(task)


def _read_files(task: PictureTask) -> Iterator["PictureFile | Skip"]:
    root = location(task.root)
    for key in task.keys:
        yield _read_file(place_of(root, key), key)


def _read_file(place: Location, key: str) -> "PictureFile | Skip":
    try:
        if place.stat().st_size > _MOST_BYTES:
            return Skip(key, TOO_LARGE)
        return PictureFile(None, key, key, place.read_bytes())
    except OSError as error:
        return Skip(key, UNREADABLE, error.strerror or type(error).__name__)


def _read_shard(task: ShardTask) -> Iterator["PictureFile | Skip"]:
    shard = task.shard
    try:
        with location(task.place).open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield from _samples(tar, shard)
            if _breaks_off(stream, tar):
                yield Skip(shard, DAMAGED_SHARD, "it breaks off")
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Skip(shard, DAMAGED_SHARD, str(error).splitlines()[0] if str(error) else type(error).__name__)


def _samples(tar: tarfile.TarFile, shard: str) -> Iterator["PictureFile | Skip"]:
    """The picture of every sample."""
    for key, members in tar_samples(tar):
        member = picture_member(members)
        yield (
            Skip(label_of(shard, key), NO_PICTURE) if member is None else _read_member(tar, members[member], shard, key)
        )


def _read_member(tar: tarfile.TarFile, entry: tarfile.TarInfo, shard: str, key: str) -> "PictureFile | Skip":
    if entry.size > _MOST_BYTES:
        return Skip(label_of(shard, key), TOO_LARGE)
    content = tar.extractfile(entry)
    return PictureFile(shard, key, key_of(entry.name), content.read() if content else b"")


def _breaks_off(stream: BinaryIO, tar: tarfile.TarFile) -> bool:
    """Whether something else than the end's zeros follows: tarfile takes a damaged header for the end."""
    stream.seek(tar.offset)
    return any(stream.read(_BLOCK))
