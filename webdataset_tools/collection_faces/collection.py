"""Which pictures there are: a folder tree, a glob or tar shards -> tasks for the workers.

Role: names only, no pixels. The tasks depend on the collection alone, so that any number of workers, and any number of
interruptions, write the same parts. Pictures of a folder are dealt in order of their paths; a shard is one task.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin import locations
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.locations import Location, location
from webdataset_tools.report import Skip

if TYPE_CHECKING:
    from upath import UPath

PICTURE_MEMBERS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif")  # in order of preference
SHARD_SUFFIX = ".tar"
BAD_NAME = "name that is not UTF-8"
_MAGIC = re.compile(r"[*?\[]")


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
    """What was found: tasks, the pictures in all (None for shards, which are not read beforehand), names refused."""

    name: str
    tasks: Sequence[Task]
    pictures: int | None
    content: str  # hash of names and sizes
    skipped: tuple[Skip, ...] = ()

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
    if not text:
        raise IdClipError("--input names nothing; give a folder of pictures, a glob or tar shards")
    base, pattern = _split_glob(text)
    root = _absolute(location(base))
    if pattern is None and "{" in text and not locations.is_folder(root):
        return _shards_of(text, _expand(text))
    if pattern is None and root.name.endswith(SHARD_SUFFIX) and not locations.is_folder(root):
        return _shards_of(text, [root])
    if not locations.is_folder(root):
        raise IdClipError(f"--input: there is no folder {base}; give a folder of pictures, a glob or tar shards")
    files = _files_below(root)
    chosen = {key: size for key, size in files.items() if pattern is None or _matches(key, pattern)}
    tars = sorted(key for key in chosen if key.endswith(SHARD_SUFFIX) and (pattern is not None or "/" not in key))
    if tars:
        return _shards(text, [root / key for key in tars], [chosen[key] for key in tars])
    return _pictures(text, root, chosen, pictures_per_part)


def _split_glob(text: str) -> tuple[str, str | None]:
    """The folder above the first wildcard and the pattern below it; a name that exists is no pattern."""
    if not _MAGIC.search(text) or locations.is_folder(location(text)) or locations.is_file(location(text)):
        return text, None
    fixed = text[: _MAGIC.search(text).start()]  # type: ignore[union-attr]
    base, separator, _ = fixed.rpartition("/")
    return (base or separator or "."), text[len(base) + len(separator) :]


def _matches(key: str, pattern: str) -> bool:
    """Whether a path fits, folder by folder; `**` stands for any number of folders."""
    return _fits(key.split("/"), pattern.split("/"))


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def _absolute(place: Location) -> Location:
    return place.absolute() if locations.is_local(place) else place


def _files_below(root: Location) -> dict[str, int]:
    """Path below the root -> bytes, of all files in the tree."""
    if not isinstance(root, Path):
        return _remote_files(root)
    found = {}
    for folder, _, names in os.walk(root):
        below = Path(folder).relative_to(root)
        for name in names:
            path = Path(folder, name)
            try:
                found[(below / name).as_posix()] = path.stat().st_size
            except OSError:
                found[(below / name).as_posix()] = -1  # a dangling link: the worker says what is wrong
    return found


def _remote_files(root: "UPath") -> dict[str, int]:
    start = len(root.path.rstrip("/")) + 1
    found = root.fs.find(root.path, detail=True)
    return {name[start:]: int(entry.get("size") or 0) for name, entry in found.items()}


def _pictures(text: str, root: Location, files: dict[str, int], pictures_per_part: int) -> Collection:
    keys = sorted(key for key in files if key.rpartition(".")[2].lower() in PICTURE_MEMBERS)
    if not keys:
        raise IdClipError(f"--input: {text} holds neither tars nor pictures (.{', .'.join(PICTURE_MEMBERS)})")
    bad = [key for key in keys if not _is_text(key)]
    good = [key for key in keys if _is_text(key)]
    skipped = tuple(Skip(key.encode(errors="surrogateescape").decode(errors="replace"), BAD_NAME) for key in bad)
    starts = range(0, len(good), pictures_per_part)
    parts = [tuple(good[start : start + pictures_per_part]) for start in starts]
    tasks = [PictureTask(f"{number:06d}", str(root), part) for number, part in enumerate(parts)]
    if not tasks:
        raise IdClipError(f"--input: no picture of {text} has a name in UTF-8; rename them")
    content = _content((key, files[key]) for key in good)
    return Collection(_name(root), tasks, len(good), content, skipped)


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expand(text: str) -> list[Location]:
    from braceexpand import braceexpand

    return [_absolute(location(path)) for path in braceexpand(text)]


def _shards_of(text: str, places: Sequence[Location]) -> Collection:
    missing = [str(place) for place in places if not locations.is_file(place)]
    if missing:
        raise IdClipError(f"--input: there is no file {missing[0]} ({len(missing)} missing)")
    return _shards(text, places, [place.stat().st_size for place in places])


def _shards(text: str, places: Sequence[Location], sizes: Sequence[int]) -> Collection:
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        raise IdClipError(f"--input: {text} names several shards of one file name; give them folder by folder")
    tasks = [ShardTask(f"{number:06d}", str(place)) for number, place in enumerate(places)]
    return Collection(_name(places[0].parent), tasks, None, _content(zip(names, sizes)))


def _name(root: Location) -> str:
    return root.name or str(root)


def _content(files: Iterable[tuple[str, int]]) -> str:
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()
