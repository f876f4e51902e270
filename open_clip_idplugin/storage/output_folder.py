"""Resumable claim of an output folder: folder, parameters -> the folder, one process's alone, with what an earlier run finished.

Role: the one rule of who may write where. An output that grows where it lies (shards, a release, a face table) is claimed with
its parameters: the same run again goes on, another one is refused, and so is a folder of something else. An output that has to
appear whole (an index, a model) is made in a hidden folder beside its place, which is claimed likewise, and gets its name at the
end. Locks end with the process, however that ends; only local folders can be locked, whoever writes to a URL takes care.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import PART, atomic_write
from open_clip_idplugin.storage.finite_json import json_document, json_text
from open_clip_idplugin.storage.locations import Location, list_folder, make_folder

CONTENT = "content"  # the parameter that stands for the input's content: a hash, which says nothing to a reader
PLAN_FILE = "plan.json"  # in a hidden folder


@dataclass(frozen=True)
class OutputKind:
    """What a verb writes into its output folder, and how that is told from anything else.

    Attributes:
        holds: with how it was made, as in "shards that were made otherwise".
        changed: what is said where only the input's content is another.
        note: name of the file that keeps the parameters.
        foreign: end of the names that are somebody else's where there is no note; by default every name is.
        same: parameter -> whether two values mean the same; by default they have to be equal.
    """

    holds: str
    changed: str = "the input has changed"
    note: str = "build.json"
    foreign: str = ""
    same: Mapping[str, Callable[[Any, Any], bool]] = field(default_factory=dict)


@contextmanager
def locked(folder: Location, refusal: str | None = None) -> Iterator[None]:
    """Make the folder and hold it alone; `refusal` is said where another process holds it.

    Raises IdClipError when the folder cannot be made, another process holds it, or has just put another in its place.
    """
    try:
        make_folder(folder)
        handle = os.open(folder, os.O_RDONLY) if isinstance(folder, Path) else None
    except OSError as error:
        reason = error.strerror or error
        raise IdClipError(f"cannot make the folder {folder} ({reason}); choose a folder that can be made") from None
    if handle is None or not isinstance(folder, Path):
        yield
        return
    try:
        if not _try_lock(handle):
            wait = f"another process is writing to {folder}; wait until it has ended, or choose another folder"
            raise IdClipError(refusal or wait)
        if not folder.exists() or not os.path.samestat(folder.stat(), os.fstat(handle)):
            raise IdClipError(f"'{folder}' was replaced at this moment: run the command again")
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def disk_errors_explained(folder: Location) -> Iterator[None]:
    """Turn what no closer place has explained, an OSError such as of a full disk, into IdClipError; `folder` is the output.

    Whatever is finished there stays.
    """
    try:
        yield
    except OSError as error:
        place, reason = error.filename or folder, error.strerror or str(error) or type(error).__name__
        raise IdClipError(
            f"cannot read or write {place} ({reason}); put that right and run the same command again to go on"
        ) from error


@contextmanager
def claimed_folder(folder: Location, parameters: Mapping[str, Any], kind: OutputKind) -> Iterator[None]:
    """Hold an output folder that is new, empty, or an earlier run's with the same parameters, half done or whole.

    The parameters (plain JSON values) are noted there first, and half-written files of a killed run go from it (not from
    folders in it: see `remove_leftovers`).

    Raises:
        IdClipError: another process is at work there, what is there was made with other parameters, or is something else.
    """
    with locked(folder):
        note = folder / kind.note
        names = [entry.name for entry in list_folder(folder) if not _is_leftover(entry.name)]
        if kind.note in names:
            differences = _differences(_read_note(note), parameters, kind)
            if differences:
                raise IdClipError(
                    f"{folder} holds {kind.holds} ({'; '.join(differences)}); choose another --output or delete that folder"
                )
        elif any(name.endswith(kind.foreign) for name in names):
            found = f"{kind.foreign.removeprefix('.') or 'file'}s"
            raise IdClipError(
                f"{folder} is not empty: it holds {found} but no {kind.note}; choose an empty folder for --output"
            )
        else:
            atomic_write(note, json_document(parameters))
        remove_leftovers(folder)
        yield


def remove_leftovers(*folders: Location) -> None:
    """Remove what killed runs left half written in these folders; the caller holds them."""
    for folder in folders:
        for entry in list_folder(folder):
            if _is_leftover(entry.name) and not entry.is_folder:
                (folder / entry.name).unlink(missing_ok=True)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith(PART)


def _read_note(note: Location) -> dict[str, Any]:
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise IdClipError(f"{note} is damaged ({error}); choose another --output or delete that folder") from None
    return values


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], kind: OutputKind) -> list[str]:
    """What differs between two runs' parameters, in words."""
    before, now = _flat(before), _flat(json.loads(json_text(now)))
    names = [name for name in {**before, **now} if not _equal(before.get(name), now.get(name), kind.same.get(name))]
    if names == [CONTENT]:
        return [kind.changed]
    return [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names if name != CONTENT]


def _equal(before: Any, now: Any, same: Callable[[Any, Any], bool] | None) -> bool:
    if same is not None and isinstance(before, str) and isinstance(now, str):
        return same(before, now)
    return bool(before == now)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Objects in objects, named by their path: {"size": {"people": 3}} -> {"size.people": 3}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, Mapping) and value else None
        flat |= {name: value} if inner is None else {f"{name}.{key}": part for key, part in inner.items()}
    return flat


@contextmanager
def building_folder(
    output: Path, plan: str = "", keep: Callable[[BaseException, Path], bool] = lambda *_: False
) -> Iterator[Path]:
    """The hidden folder in which `output` is made, held alone; what an earlier run with the same plan left there is kept.

    keep: error, folder -> whether a run that failed leaves its folder, as a killed one does, for the next one to go on with.

    Raises:
        IdClipError: another run is at work there.
    """
    building = _hidden(output)
    with locked(building, f"another run is building '{output}' at this moment: wait for it to end"):
        _keep_only_same_plan(building, plan)
        try:
            yield building
        except BaseException as error:
            if not keep(error, building):
                shutil.rmtree(building, ignore_errors=True)
            raise


def discard_building(output: Path) -> None:
    """Remove what a killed run left beside `output`."""
    if _hidden(output).exists():
        with building_folder(output) as building:
            shutil.rmtree(building)


def require_free(output: Path) -> None:
    """Raise IdClipError unless a folder can be put there."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise IdClipError(f"{output} is there already; name a folder that is new or empty.")


def put_in_place(building: Path, output: Path) -> None:
    """Give a folder that is whole its name; raises IdClipError where something else has come there meanwhile."""
    require_free(output)
    (building / PLAN_FILE).unlink(missing_ok=True)
    flush_folder(building)
    if output.is_dir():
        output.rmdir()
    building.rename(output)


def flush_folder(folder: Path) -> None:
    """Have every file below a folder on the disk, before the folder gets its name."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _hidden(output: Path) -> Path:
    return output.absolute().parent / f".{output.absolute().name}.building"


def _keep_only_same_plan(building: Path, plan: str) -> None:
    plan_file = building / PLAN_FILE
    if plan_file.exists() and plan_file.read_text() == plan:
        return
    for left in building.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    atomic_write(plan_file, plan)
