"""From a task to the bytes of its pictures, one at a time; what cannot be read comes as a Skip.

Role: files and tars, local or remote. A damaged shard gives what lies before the damage, and a Skip.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from open_clip_idplugin.pictures.collection import PictureTask, ShardTask, Task
from open_clip_idplugin.pictures.names import key_of, label_of, place_of
from open_clip_idplugin.pictures.tar_samples import picture_member, tar_samples
from open_clip_idplugin.storage.left_out import Skip
from open_clip_idplugin.storage.locations import Location, location

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
