"""Manifest of an index: the picture files that it was made from, as they were then.

Role: index folder <-> `pictures.parquet`. It lies in the index folder and changes places with it, so that the two never
disagree; what it says of a file (name, size, time of change, SHA-256) tells later whether the file must be read again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_path

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
