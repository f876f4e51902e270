"""Manifest of an index: picture folders as they are listed now, and the files that an index was made from.

Role: folders -> `Listing`, nothing being opened; index folder <-> `pictures.parquet`. The manifest lies in the index folder and
changes places with it, so that the two never disagree; what it says of a file (name, size, time of change, SHA-256) tells later
whether the file must be read again. Exact copies stay in the list: which of them is indexed depends on what was indexed before.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.keys import key_of
from open_clip_idplugin.pictures.passed_over import PassedOver
from open_clip_idplugin.pictures.walk import pictures_below
from open_clip_idplugin.storage.atomic import atomic_path

UNREACHABLE = "file that cannot be reached"


FILE_NAME = "pictures.parquet"

INDEXED = "indexed"  # has a row of this key
COPY = "copy"  # same bytes as the file that `detail` names
UNREADABLE = "unreadable"  # `detail`: why
LEAVING = "leaving"  # its row is to be removed


@dataclass(frozen=True)
class KnownPicture:
    """A file that a run has seen.

    Attributes:
        name: path below the collection's folder, with /; the key of the index's row.
        size: bytes.
        mtime_ns: time of the last change of the file, nanoseconds.
        sha256: of the bytes, hexadecimal; empty where they could not be read.
        state: one of the constants above.
        detail: see them.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str = ""
    state: str = INDEXED
    detail: str = ""


_COLUMNS = tuple(KnownPicture.__dataclass_fields__)


def write_manifest(path: Path, pictures: Iterable[KnownPicture]) -> None:
    """Write a manifest, sorted by name; names may hold what is not UTF-8."""
    import pyarrow
    import pyarrow.parquet

    ordered = sorted(pictures, key=lambda picture: picture.name)
    columns = {name: [getattr(picture, name) for picture in ordered] for name in _COLUMNS}
    types = {"size": pyarrow.int64(), "mtime_ns": pyarrow.int64()}
    fields = [pyarrow.field(name, types.get(name, pyarrow.binary())) for name in _COLUMNS]
    for name in set(_COLUMNS) - set(types):
        columns[name] = [str(value).encode("utf-8", "surrogateescape") for value in columns[name]]
    table = pyarrow.table(columns, schema=pyarrow.schema(fields))
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_manifest(path: Path) -> list[KnownPicture] | None:
    """What `write_manifest` wrote; None where there is no such file.

    Raises:
        IdClipError: it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.exists():
        return None
    try:
        columns = pyarrow.parquet.read_table(path).to_pydict()
        texts = {
            name: [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in values]
            for name, values in columns.items()
        }
        return [KnownPicture(*row) for row in zip(*(texts[name] for name in _COLUMNS), strict=True)]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise IdClipError(f"'{path}' is damaged ({error}): make the index again in another folder") from None


@dataclass(frozen=True)
class Listing:
    """The pictures of some folders, sorted by name, and what was passed over."""

    root: Path
    folders: tuple[Path, ...]
    pictures: tuple[KnownPicture, ...]
    passed_over: tuple[PassedOver, ...]


def list_pictures(folders: Sequence[str]) -> Listing:
    """List the pictures below one or more folders.

    Raises:
        IdClipError: no such folder, one inside another, or one without pictures.
    """
    places = tuple(dict.fromkeys(_existing(folder) for folder in folders))
    for place in places:
        if any(other in place.parents for other in places):
            raise IdClipError(f"'{place}' lies inside another of the folders: name the outer one alone")
    root = Path(os.path.commonpath(places))
    pictures: list[KnownPicture] = []
    passed_over: list[PassedOver] = []
    for place in places:
        before = len(pictures)
        _list_folder(place, root, pictures, passed_over)
        if len(pictures) == before:
            raise IdClipError(
                f"there are no pictures in '{place}': is it the right folder, and its disk there? Nothing was changed"
            )
    return Listing(root, places, tuple(sorted(pictures, key=lambda picture: picture.name)), tuple(passed_over))


def _existing(folder: str) -> Path:
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise IdClipError(f"there is no folder '{folder}': give a folder of pictures")
    return place.resolve()


def _list_folder(place: Path, root: Path, pictures: list[KnownPicture], passed_over: list[PassedOver]) -> None:
    found = pictures_below(place, copies=False)
    below = "" if place == root else f"{key_of(place.relative_to(root).as_posix())}/"
    passed_over += [replace(entry, example=f"{below}{entry.example}") for entry in found.passed_over]
    for key in found.keys:
        path = Path(str(found.place(key)))
        try:
            status = path.stat()
        except OSError:  # a link that leads nowhere
            passed_over.append(PassedOver(path.suffix.lower(), UNREACHABLE, 1, f"{below}{key}"))
        else:
            pictures.append(KnownPicture(f"{below}{key}", status.st_size, status.st_mtime_ns))
