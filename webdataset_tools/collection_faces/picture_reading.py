"""From a task to the bytes of its pictures, one at a time; what cannot be read comes as a Skip.

Role: files and tars, local or remote. A damaged shard gives what lies before the damage, and a Skip.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from open_clip_idplugin.faces.part_collecting import label_of
from open_clip_idplugin.locations import Location, location
from webdataset_tools.collection_faces.collection import PICTURE_MEMBERS, PictureTask, ShardTask, Task
from webdataset_tools.report import Skip

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
        yield _read_file(root / key, key)


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
    """The preferred picture of every run of members with one key, as webdataset groups them."""
    key: str | None = None
    best: PictureFile | Skip | None = None
    preference = len(PICTURE_MEMBERS)
    for entry in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        folder, _, file = entry.name.rpartition("/")
        stem, dot, member = file.partition(".")
        if not entry.isfile() or not dot or not stem:
            continue
        this = f"{folder}/{stem}" if folder else stem
        if this != key:
            if key is not None:
                yield best or Skip(label_of(shard, key), NO_PICTURE)
            key, best, preference = this, None, len(PICTURE_MEMBERS)
        rank = _preference(member)
        if rank < preference:
            best, preference = _read_member(tar, entry, shard, this), rank
    if key is not None:
        yield best or Skip(label_of(shard, key), NO_PICTURE)


def _preference(member: str) -> int:
    return PICTURE_MEMBERS.index(member.lower()) if member.lower() in PICTURE_MEMBERS else len(PICTURE_MEMBERS)


def _read_member(tar: tarfile.TarFile, entry: tarfile.TarInfo, shard: str, key: str) -> "PictureFile | Skip":
    if entry.size > _MOST_BYTES:
        return Skip(label_of(shard, key), TOO_LARGE)
    content = tar.extractfile(entry)
    return PictureFile(shard, key, entry.name, content.read() if content else b"")


def _breaks_off(stream: BinaryIO, tar: tarfile.TarFile) -> bool:
    """Whether something else than the end's zeros follows: tarfile takes a damaged header for the end."""
    stream.seek(tar.offset)
    return any(stream.read(_BLOCK))
