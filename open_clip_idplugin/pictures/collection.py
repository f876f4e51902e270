"""Which pictures there are: a folder tree, a glob or tar shards -> tasks for the workers.

Role: names only, no pixels. The tasks depend on the collection alone, so that any number of workers, and any number of
interruptions, write the same parts. Pictures of a folder are dealt in order of their paths; a shard is one task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.passed_over import PassedOver
from open_clip_idplugin.pictures.walk import FoundPictures, walk_pictures
from open_clip_idplugin.storage.locations import Location, location

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
