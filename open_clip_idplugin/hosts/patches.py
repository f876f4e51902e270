"""Patch rows: every change to a host library, and how rows are checked, applied and undone.

Role: rows `PatchRow` -> replaced attributes of host modules. The public doors of open_clip (`add_model_config`,
subclassing) come first; a row is for what has no door. All rows of a table are checked before the first one is
applied, so that a host that has moved on is refused in a sentence and left as it was. The rows themselves stand in a file
for each host: `open_clip_rows` and `clip_retrieval` beside this one, open_clip's training command in `training_patches`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
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
    original: Any
    replaced_by: Any


_applied: dict[str, _Applied] = {}


def verify(rows: Sequence[PatchRow]) -> None:
    """Check that every host object is there and looks as its row expects; raises HostMismatchError."""
    for row in rows:
        for target in row.targets:
            _check(row, target, _original(target))


def apply(rows: Sequence[PatchRow]) -> None:
    """Verify all rows, then put the replacements in place; a row that is applied already is left alone."""
    verify(rows)
    for row in rows:
        if row.replacement is None:
            continue
        missing = [target for target in row.targets if target not in _applied]
        if not missing:
            continue
        done = next((_applied[target] for target in row.targets if target in _applied), None)
        replaced_by = done.replaced_by if done else row.replacement(_original(row.targets[0]))
        for target in missing:
            owner, name = _locate(target)
            _applied[target] = _Applied(getattr(owner, name), replaced_by)
            setattr(owner, name, replaced_by)


def restore(rows: Sequence[PatchRow]) -> None:
    """Put the originals back, last row first; raises HostMismatchError where somebody has replaced the replacement."""
    for row in reversed(rows):
        for target in reversed(row.targets):
            done = _applied.get(target)
            if done is None:
                continue
            owner, name = _locate(target)
            if getattr(owner, name) is not done.replaced_by:
                raise HostMismatchError(f"{target} was changed by something else after this plugin; undo that first.")
            setattr(owner, name, done.original)
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
    if target in _applied:
        return _applied[target].original
    owner, name = _locate(target)
    return getattr(owner, name)


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
