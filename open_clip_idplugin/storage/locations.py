"""Locations: a path or a URL (s3://, hf://, memory:// and whatever fsspec knows) -> what behaves like `pathlib.Path`.

Role: text of an option -> something that behaves like `pathlib.Path`. Local places, file:// too, become plain paths, so that
nothing changes for them and no package is needed; all others are universal_pathlib's `UPath`. Write through `atomic`.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, Union, cast

from open_clip_idplugin.errors import IdClipError

if TYPE_CHECKING:
    from upath import UPath

Location = Union[Path, "UPath"]
Place = Union[str, "os.PathLike[str]", Location]  # what functions take
Answer = TypeVar("Answer")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::)")  # two letters at least: C:\ is a drive
_LOCAL = ("file", "local")
_MEMORY = "memory"
# Stores without folders, in which an object appears whole when its upload ends.
_OBJECT_STORES = frozenset(
    {"s3", "s3a", "gs", "gcs", "r2", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "swift", "hf"}
)


class Entry(NamedTuple):
    """One name inside a folder."""

    name: str
    is_folder: bool


def location(text: Place) -> Location:
    """Return the place that a path or a URL names; places that are already locations stay as they are.

    Raises IdClipError when the URL's protocol is unknown or its package is missing.
    """
    if not isinstance(text, str):
        return cast("Location", text) if hasattr(text, "read_bytes") else Path(text)
    match = _URL.match(text)
    if match is None:
        return Path(text)
    protocol = match[1].lower()
    if protocol in _LOCAL:
        return Path(re.sub("^localhost/", "/", text[match.end() :]))
    return _remote(text, protocol)


def _remote(text: str, protocol: str) -> "UPath":
    try:
        import fsspec
        from upath import UPath

        fsspec.get_filesystem_class(protocol)
        return UPath(text)
    except ImportError as error:
        raise IdClipError(f"{text} cannot be used: {error}; install the package that fsspec needs for it") from None
    except ValueError as error:
        raise IdClipError(
            f"{text} cannot be used ({error}); give a path or a URL of a protocol that fsspec knows"
        ) from None


def expand_braces(text: str) -> list[str]:
    """'d/{00..07}.tar' -> what it stands for, as shells write it; raises IdClipError where a brace is not closed."""
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]  # untyped

    try:
        return list(braceexpand(text))
    except UnbalancedBracesError:
        raise IdClipError(f"a brace of '{text}' is not closed: write 'folder/{{00000..00007}}.tar'") from None


def is_local(place: Location) -> bool:
    """Whether the place is on a file system of this machine."""
    return isinstance(place, Path)


def is_private_to_process(place: Location) -> bool:
    """Whether other processes cannot see the place (memory://)."""
    return not isinstance(place, Path) and place.protocol == _MEMORY


def is_object_store(place: Location) -> bool:
    """Whether the place is in a store without folders, in which objects appear whole."""
    return not isinstance(place, Path) and place.protocol in _OBJECT_STORES


def is_folder(place: Location) -> bool:
    """Whether there is a folder (in a store without folders: anything below that name).

    Raises IdClipError when the place cannot be reached.
    """
    return _reached(place, place.is_dir)


def is_file(place: Location) -> bool:
    """Whether there is a file; raises IdClipError when the place cannot be reached."""
    return _reached(place, place.is_file)


def _reached(place: Location, ask: Callable[[], Answer]) -> Answer:
    if isinstance(place, Path):
        return ask()
    try:
        return ask()
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # every store has its own errors for missing credentials and networks
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise IdClipError(f"cannot reach {place} ({reason}); check the address, the network and your access") from error


def read_bytes(place: Location) -> bytes:
    """Return a file's content.

    Raises OSError when that file is missing or cannot be read; IdClipError when its store cannot be reached, which says
    nothing about the file.
    """
    return _reached(place, place.read_bytes)


def list_folder(place: Location) -> list[Entry]:
    """Return what lies in a folder, sorted by name, asked for at once; nothing for a folder that is not there."""
    if isinstance(place, Path):
        if not place.is_dir():
            return []
        with os.scandir(place) as entries:
            return sorted(Entry(entry.name, entry.is_dir()) for entry in entries)
    return _reached(place, lambda: _list_remote(place))


def _list_remote(place: "UPath") -> list[Entry]:
    place.fs.invalidate_cache(place.path)  # another process may have written there
    try:
        found = place.fs.ls(place.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    own = place.path.rstrip("/")
    names = {info["name"].rstrip("/"): info["type"] == "directory" for info in found}
    return sorted(Entry(name.rpartition("/")[2], folder) for name, folder in names.items() if name not in ("", own))


def make_folder(place: Location) -> None:
    """Make a folder and those above it; stores without folders need none."""
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
    elif not is_object_store(place):
        place.fs.makedirs(place.path, exist_ok=True)


def remove_folder(place: Location) -> None:
    """Remove a folder and everything in it; nothing happens when it is not there."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
    elif place.exists():
        place.fs.rm(place.path, recursive=True)


def user_folder() -> Path:
    """`$XDG_DATA_HOME/open_clip_idplugin`, by default `~/.local/share/open_clip_idplugin`; it need not exist."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "open_clip_idplugin"
