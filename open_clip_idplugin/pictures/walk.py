"""Collection walk: a folder, a glob, tars, a brace pattern or a URL -> the pictures or shards there, exact copies once.

Role: names and sizes only, no pixels (files of one size are compared for exact copies). The same extensions in any case, links
followed once, what programs leave beside pictures passed over, and an account of everything that is not read.
"""

import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures import passed_over
from open_clip_idplugin.pictures.formats import PICTURE_EXTENSIONS
from open_clip_idplugin.pictures.keys import key_of, place_of
from open_clip_idplugin.pictures.passed_over import Account, PassedOver, is_junk, reason_against
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.locations import Location, location

if TYPE_CHECKING:
    from upath import UPath

SHARD_SUFFIX = ".tar"
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class FoundPictures:
    """What a walk found: `shards`, or else the pictures of `keys` below `root`, both with their sizes in bytes."""

    root: Location
    keys: tuple[str, ...] = ()  # sorted paths below the root, see `names`; `place_of` gives the file
    shards: tuple[Location, ...] = ()
    sizes: tuple[int, ...] = ()  # -1: a link that leads nowhere
    passed_over: tuple[PassedOver, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)  # key of an exact copy, which is left out -> the one in `keys`

    @property
    def digest(self) -> str:
        """SHA-256 of the list: relative names and sizes, whatever the root is called."""
        names = [shard.name for shard in self.shards] if self.shards else list(self.keys)
        return digest_of(names, self.sizes)

    def place(self, key: str) -> Location:
        """Where a picture lies."""
        return place_of(self.root, key)


def digest_of(names: Sequence[str], sizes: Sequence[int]) -> str:
    """SHA-256 of a list of files by their names and sizes."""
    digest = hashlib.sha256()
    for name, size in zip(names, sizes):
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()


def walk_pictures(text: str, option: str = "--input") -> FoundPictures:
    """List the pictures or shards that `text` names.

    Args:
        text: a folder of pictures (with its subfolders) or of tars, a glob such as `photos/*/*.jpg` or `shards/*.tar`, one tar,
            or brace notation (`shards/{00000..00007}.tar`); paths or URLs.
        option: the flag that `text` was given to, for messages.

    Raises:
        IdClipError: nothing there.
    """
    if not text:
        raise IdClipError(f"{option} names nothing; give a folder of pictures, a glob or tar shards")
    base, pattern = _split_glob(text)
    root = _absolute(location(base))
    if pattern is None and not locations.is_folder(root):
        if "{" in text:
            return _named_shards(_expand(text), option)
        if root.name.lower().endswith(SHARD_SUFFIX):
            return _named_shards([root], option)
    if not locations.is_folder(root):
        raise IdClipError(f"{option}: there is no folder or tar file '{base}'; give pictures, a glob or tar shards")
    files, account = _files_below(root)
    if pattern is not None:
        files, account = {key: size for key, size in files.items() if _matches(key, pattern)}, Account()
    tars = sorted(key for key in files if _is_shard(key) and (pattern is not None or "/" not in key))
    found = _shards(root, tars, files, account) if tars else _pictures(root, files, account)
    if not found.keys and not found.shards:
        told = "".join(f"; {line}" for line in passed_over.passed_over_lines(found.passed_over))
        raise IdClipError(
            f"{option}: {text} holds neither tar files nor pictures (.{', .'.join(PICTURE_EXTENSIONS)}){told}"
        )
    return found


def pictures_below(folder: Location, subfolders: bool = True, copies: bool = True) -> FoundPictures:
    """The pictures of a folder, with or without its subfolders; perhaps none. Tars count as no pictures.

    copies: look for exact copies, which are then left out of the keys.

    Raises:
        OSError: the folder itself cannot be read.
    """
    if subfolders:
        return _pictures(folder, *_files_below(folder), copies)
    account = Account()
    files: dict[str, int] = {}
    for entry in locations.list_folder(folder):
        size = None if entry.is_folder else _size(folder / entry.name) if isinstance(folder, Path) else 0
        if size is not None:
            files[entry.name] = size
        elif not entry.is_folder:
            account.add(key_of(entry.name), passed_over.NO_FILE)
    return _pictures(folder, files, account, copies)


def _pictures(root: Location, files: dict[str, int], account: Account, look_for_copies: bool = True) -> FoundPictures:
    """Sort out what is no picture, whose name is taken, and what is a copy."""
    sizes: dict[str, int] = {}
    for key, name in sorted((key_of(name), name) for name in files):
        reason = reason_against(key)
        if reason is None and key in sizes:
            reason = passed_over.SAME_KEY
        if reason is None:
            sizes[key] = files[name]
        else:
            account.add(key, reason)
    keys = list(sizes)
    copies: dict[str, str] = {}
    if look_for_copies and isinstance(root, Path):
        found = find_copies([Path(str(place_of(root, key))) for key in keys], list(sizes.values()))
        copies = {keys[copy]: keys[first] for copy, first in found.items()}
    left = tuple(key for key in keys if key not in copies)
    return FoundPictures(
        root, left, sizes=tuple(sizes[key] for key in left), passed_over=account.entries(), copies=copies
    )


def _shards(root: Location, tars: Sequence[str], files: dict[str, int], account: Account) -> FoundPictures:
    for key in files.keys() - set(tars):
        reason = reason_against(key_of(key))
        account.add(key_of(key), reason or passed_over.BESIDE_SHARDS)
    places = tuple(root / key for key in tars)
    return FoundPictures(root, shards=places, sizes=tuple(files[key] for key in tars), passed_over=account.entries())


def _named_shards(places: Sequence[Location], option: str) -> FoundPictures:
    missing = [str(place) for place in places if not locations.is_file(place)]
    if missing:
        raise IdClipError(f"{option}: there is no file or folder '{missing[0]}' ({len(missing)} missing)")
    return FoundPictures(places[0].parent, shards=tuple(places), sizes=tuple(place.stat().st_size for place in places))


def _is_shard(key: str) -> bool:
    return key.lower().endswith(SHARD_SUFFIX) and not any(map(is_junk, key.split("/")))


def _split_glob(text: str) -> tuple[str, str | None]:
    """The folder above the first wildcard and the pattern below it; a name that exists is no pattern."""
    found = _MAGIC.search(text)
    if not found or locations.is_folder(location(text)) or locations.is_file(location(text)):
        return text, None
    base, separator, _ = text[: found.start()].rpartition("/")
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


def _expand(text: str) -> list[Location]:
    return [_absolute(location(path)) for path in locations.expand_braces(text)]


def _files_below(root: Location) -> tuple[dict[str, int], Account]:
    """Path below the root (as the system gives it) -> bytes, of all files in the tree; and what is none."""
    account = Account()
    if not isinstance(root, Path):
        return _remote_files(root), account
    return dict(_local_files(root, account)), account


def _local_files(root: Path, account: Account) -> Iterator[tuple[str, int]]:
    """Every folder once, however many links lead to it: first the tree itself, then what links add to it."""
    seen = set[tuple[int, int]]()
    waiting, links = [""], list[str]()
    while waiting or links:
        below = waiting.pop() if waiting else links.pop(0)
        try:
            status = (root / below).stat()
            if (status.st_dev, status.st_ino) in seen:
                account.add(key_of(below), passed_over.LINK_SEEN)
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
        except OSError:
            if not below:
                raise
            account.add(key_of(below), passed_over.NO_ACCESS)
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                (links if entry.is_symlink() else waiting).append(path)
            elif (size := _size(Path(entry.path))) is None:
                account.add(key_of(path), passed_over.NO_FILE)
            else:
                yield path, size


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(place: Location) -> int | None:
    """Bytes of a file; -1 for a link that leads nowhere, which is reported as a picture that is missing; None for no file."""
    try:
        status = place.stat()
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _remote_files(root: "UPath") -> dict[str, int]:
    start = len(root.path.rstrip("/")) + 1
    found = root.fs.find(root.path, detail=True)
    return {name[start:]: int(entry.get("size") or 0) for name, entry in found.items()}


_ENDS = 4096  # bytes at each end that are compared first


def find_copies(paths: Sequence[Path], sizes: Sequence[int]) -> dict[int, int]:
    """Number of a file -> number of the earlier one with the same bytes; empty and unreadable files are no copies."""
    groups = [list(range(len(paths)))]
    for look in (sizes.__getitem__, lambda number: _ends(paths[number]), lambda number: file_sha256(paths[number])):
        groups = [part for group in groups for part in _alike(group, look)]
    return {number: group[0] for group in groups for number in group[1:]}


def _alike(group: list[int], look: Callable[[int], Hashable]) -> list[list[int]]:
    """The parts of a group, of two or more, for which `look` gives the same."""
    parts: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number in group:
        try:
            parts[look(number)].append(number)
        except OSError:
            continue
    return [part for seen, part in parts.items() if len(part) > 1 and seen != 0 and seen != -1]


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(_ENDS)
        file.seek(max(0, path.stat().st_size - _ENDS))
        return first + file.read(_ENDS)
