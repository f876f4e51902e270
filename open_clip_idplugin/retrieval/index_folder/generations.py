"""Atomic folder swap: an index folder, a new one made beside it -> the new one in its place, at once.

Role: index folders are never changed where they lie. Whoever has the old index open keeps its files until they are closed. Where
the new one is made, and what a killed run leaves there, is `storage.output_folder`'s.
"""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.storage.output_folder import flush_folder, locked

DONE_FOLDER = "done"  # of a folder under construction: the reports, and what else nobody needs at the end
_NEXT = "next"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Final(IdClipError):
    """A refusal that the same run would meet again; what it has embedded is of no use to anybody."""


class FolderHandle:
    """A folder that is kept open, to tell later whether its path still leads to it."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`. While it is open, no other folder gets its inode number."""
        self.path = folder
        self._descriptor: int | None = os.open(folder, os.O_RDONLY)

    def is_current(self) -> bool:
        """False once another folder lies there, or none."""
        try:
            return self._descriptor is not None and os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def __del__(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is not None:
            os.close(descriptor)


def can_go_on(error: BaseException, building: Path) -> bool:
    """Whether the next run has a use for a failed one's hidden folder: it holds a partition, and no refusal is sure to return."""
    return not isinstance(error, Final) and any(building.rglob(f"{DONE_FOLDER}/*.json"))


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold an index folder alone, so that nothing else changes or replaces it meanwhile.

    Raises:
        IndexMismatch: no index there.
        IdClipError: another process is changing it.
    """
    if not folder.is_dir():
        raise IndexMismatch(f"there is no index folder '{folder}': make one with `idclip index`")
    with locked(folder):
        yield


@contextlib.contextmanager
def replacing(folder: Path, building: Path) -> Iterator[Path]:
    """An empty folder in `building` that takes the place of `folder` when the block succeeds; then `building` goes."""
    new = building / _NEXT
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    shutil.copymode(folder, new)
    try:
        yield new
        flush_folder(new)
        exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # half made, or the old one
    shutil.rmtree(building)


@contextlib.contextmanager
def replacing_part(target: Path) -> Iterator[Path]:
    """A new name beside a folder of an index; what the block makes there takes that folder's place, or none's.

    Whoever has the old one open keeps it.
    """
    new = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        yield new
        if target.is_dir():
            exchange(new, target)
        else:
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # half made, or the old one


def exchange(new: Path, old: Path) -> None:
    """Let two folders change places in one step, where the system can; else in two renames.

    Between two renames there is no folder: a reader that opens one of its files all the time misses it at 4 to 5 of 10 openings,
    while the folder is swapped again and again, and never with one step (`benchmarks/system_calls.py`). Readers are other
    programs too, so that they cannot be told to try again; and a symbolic link in the folder's place would be what its owner
    copies, moves and removes.

    Raises OSError; then both are where they were.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        names = os.fsencode(new), os.fsencode(old)
        if library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def link_tree(source: Path, target: Path) -> None:
    """Make `target` hold the same files as `source`, by hard links where the file system has them."""
    if source.is_dir():
        target.mkdir(exist_ok=True)
        shutil.copymode(source, target)
        for entry in source.iterdir():
            link_tree(entry, target / entry.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
