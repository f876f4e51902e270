"""Patch rows: every change to a host library, and how rows are checked, applied and undone.

Role: rows `PatchRow` -> replaced attributes of host modules. The public doors of open_clip (`add_model_config`,
subclassing) come first; a row is for what has no door. All rows of a table are checked before the first one is
applied, so that a host that has moved on is refused in a sentence and left as it was. What took whose place is known here
alone: nothing is replaced twice. The rows themselves stand in a file for each host: `open_clip_rows` and `clip_retrieval`
beside this one, open_clip's training command in `training_patches`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.errors import HostMismatchError


@dataclass(frozen=True)
class PatchRow:
    """One change to a host, or (without `replacement`) one thing a host must go on offering.

    targets: places of one object, as "module:attribute" (attributes may be dotted); the first defines it, the others
        are modules that imported it by name. Modules are imported only when the row is applied or verified.
    reason: why there is no public door.
    hosts: versions this was checked with.
    replacement: original -> what to put there. It gets the object found at the first target.
    parameters: names of parameters that the target must accept (by name, or by **kwargs).
    marker: text that the target's source must hold, for what a signature cannot tell.
    """

    targets: tuple[str, ...]
    reason: str
    hosts: str
    replacement: Callable[[Any], Any] | None = None
    parameters: tuple[str, ...] = ()
    marker: str | None = None


@dataclass(frozen=True)
class _Applied:
    before: Any  # what comes back when the row is undone
    replaced_by: Any


_applied: dict[str, _Applied] = {}  # by target


def mismatches(rows: Sequence[PatchRow]) -> Iterator[HostMismatchError]:
    """Every way in which the installed hosts are not as the rows expect, each with its sentence."""
    for row in rows:
        for target in row.targets:
            try:
                _check(row, target, _original(target))
            except HostMismatchError as error:
                yield error


def verify(rows: Sequence[PatchRow]) -> None:
    """Check that every host object is there and looks as its row expects; raises HostMismatchError."""
    for error in mismatches(rows):
        raise error


def apply(rows: Sequence[PatchRow]) -> None:
    """Verify all rows, then put the replacements in place: all of them or, where something is raised, none.

    A row that is applied already is left alone.
    """
    verify(rows)
    placed: list[str] = []
    try:
        for row in rows:
            if row.replacement is not None:
                _place(row, placed)
    except BaseException:
        for target in reversed(placed):
            _put_back(target)
        raise


def restore(rows: Sequence[PatchRow]) -> None:
    """Put the originals back, last row first; raises HostMismatchError where somebody has replaced the replacement."""
    for row in reversed(rows):
        for target in reversed(row.targets):
            if target in _applied:
                _put_back(target)


def _place(row: PatchRow, placed: list[str]) -> None:
    """Replace the targets of a row that still hold the host's object, and note them in `placed` one by one."""
    assert row.replacement is not None
    done = next((_applied[target] for target in row.targets if target in _applied), None)
    if done is None:
        original = _original(row.targets[0])
        done = _Applied(original, row.replacement(original))
    for target in row.targets:
        if target in _applied:
            continue
        owner, name = _locate(target)
        found = getattr(owner, name)
        # A module that imported the name late holds the replacement already, and is to hold the host's own in the end.
        before = done.before if found is done.replaced_by else found
        setattr(owner, name, done.replaced_by)
        _applied[target] = _Applied(before, done.replaced_by)
        placed.append(target)


def _put_back(target: str) -> None:
    owner, name = _locate(target)
    done = _applied[target]
    if getattr(owner, name) is not done.replaced_by:
        raise HostMismatchError(f"{target} was changed by something else after this plugin; undo that first.")
    setattr(owner, name, done.before)
    del _applied[target]


def is_applied(row: PatchRow) -> bool:
    """Whether every target of a row holds its replacement."""
    return all(target in _applied for target in row.targets)


def _locate(target: str) -> tuple[Any, str]:
    """ "module:a.b" -> (module.a, "b"); raises HostMismatchError if any of it is missing."""
    module_name, _, path = target.partition(":")
    try:
        owner: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise HostMismatchError(f"the plugin needs {target}, but {error.name} is not installed.") from error
    steps = path.split(".")
    for depth, step in enumerate(steps):
        if not hasattr(owner, step):
            raise HostMismatchError(
                f"the plugin needs {target}, which the installed {_version(module_name)} does not have; "
                "install a supported version."
            )
        if depth < len(steps) - 1:
            owner = getattr(owner, step)
    return owner, steps[-1]


def _original(target: str) -> Any:
    """The host's own object, also where a replacement was imported by name."""
    if target in _applied:
        return _applied[target].before
    owner, name = _locate(target)
    found = getattr(owner, name)
    return next((done.before for done in _applied.values() if done.replaced_by is found), found)


def _check(row: PatchRow, target: str, original: Any) -> None:
    module_name = target.partition(":")[0]
    if row.parameters:
        parameters = inspect.signature(original).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        missing = [name for name in row.parameters if name not in parameters and not takes_any]
        if missing:
            raise HostMismatchError(
                f"{target} of the installed {_version(module_name)} no longer takes {', '.join(missing)} "
                f"(this plugin was checked with {row.hosts})."
            )
    if row.marker is not None and row.marker not in inspect.getsource(original):
        raise HostMismatchError(
            f"{target} of the installed {_version(module_name)} no longer works as the plugin expects "
            f"({row.marker!r} is gone; checked with {row.hosts})."
        )


def _version(module_name: str) -> str:
    package = module_name.partition(".")[0]
    version = getattr(importlib.import_module(package), "__version__", None)
    return f"{package} {version}" if version else package
