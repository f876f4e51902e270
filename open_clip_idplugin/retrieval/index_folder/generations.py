"""Index folders are never changed where they lie: a new one is made beside the old one and takes its place at once.

Role: output folder -> the hidden folder in which it is made, which a killed run leaves for the next one; and the exchange
of two folders. Whoever has the old index open keeps its files until they are closed.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.folder_lock import locked

PLAN_FILE = "plan.json"
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


@contextlib.contextmanager
def building_folder(output: Path, plan: str) -> Iterator[Path]:
    """The hidden folder of the run, locked; what an earlier run with the same plan left there is kept.

    A run that fails leaves its folder where the next one can go on with it: where a partition is done, and the refusal is not
    `Final`.

    Raises:
        IdClipError: another run is at work there.
    """
    building = _hidden(output)
    building.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(building, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IdClipError(f"another run is building '{output}' at this moment: wait for it to end") from None
        _keep_only_same_plan(building, plan)
        try:
            yield building
        except BaseException as error:
            if isinstance(error, Final) or not any(building.rglob(f"{DONE_FOLDER}/*.json")):
                shutil.rmtree(building, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold an index folder alone, so that nothing else changes or replaces it meanwhile.

    Raises:
        IndexMismatch: no index there.
        IdClipError: another process is changing it.
    """
    if not folder.is_dir():
        raise IndexMismatch(f"there is no index folder '{folder}': make one with `idclip index`")
    handle = FolderHandle(folder)
    with locked(folder):
        if not handle.is_current():
            raise IdClipError(f"'{folder}' was replaced at this moment: run the command again")
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
        _flush(new)
        exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # half made, or the old one
    shutil.rmtree(building)


def discard_building(folder: Path) -> None:
    """Remove what a killed run left beside an index, the replaced index for example."""
    if _hidden(folder).exists():
        with building_folder(folder, "") as building:
            shutil.rmtree(building)


def exchange(new: Path, old: Path) -> None:
    """Let two folders change places in one step, where the system can; else in two renames.

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


def _hidden(output: Path) -> Path:
    return output.absolute().parent / f".{output.absolute().name}.building"


def _keep_only_same_plan(building: Path, plan: str) -> None:
    plan_file = building / PLAN_FILE
    if plan_file.exists() and plan_file.read_text() == plan:
        return
    for left in building.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    atomic_write(plan_file, plan)


def _flush(folder: Path) -> None:
    """Have every file on the disk before the exchange is."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
