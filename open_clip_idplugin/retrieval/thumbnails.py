"""Small pictures for showing results, kept beside the index in one SQLite file.

Role: picture -> JPEG thumbnail, and result ids -> thumbnails. They are not in the metadata, which clip-retrieval
holds in memory as a whole; one file with random access also beats a million small ones.
"""

import contextlib
import io
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FILE_NAME = "thumbnails.sqlite"
_QUALITY = 80


def make_thumbnail(picture: "Image.Image", side: int) -> bytes:
    """JPEG bytes of the picture turned upright, at most `side` pixels in width and height.

    An XMP block is kept, because it may say that the picture is synthetic.
    """
    from PIL import ImageOps

    marking = picture.info.get("xmp")
    small = ImageOps.exif_transpose(picture).convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY, **({"xmp": marking} if isinstance(marking, bytes) else {}))
    return stream.getvalue()


class ThumbnailWriter:
    """Thumbnails of one partition of an index under construction; nothing is kept unless `commit` is reached."""

    def __init__(self, folder: Path, partition: int) -> None:
        self._path = folder / FILE_NAME
        self._ids = range(_first_id(partition), _first_id(partition + 1))
        self._connection: sqlite3.Connection | None = None
        self._rows = 0

    def add(self, thumbnails: Sequence[bytes]) -> None:
        """Append the thumbnails of the partition's next rows."""
        if self._connection is None:
            # Opened this late, because an open connection must not be carried into the reader's forked processes.
            self._connection = self._open()
        first = self._ids.start + self._rows
        self._connection.executemany("INSERT INTO thumbnails (id, jpeg) VALUES (?, ?)", enumerate(thumbnails, first))
        self._rows += len(thumbnails)

    def commit(self) -> None:
        """Keep what was added."""
        if self._connection is not None:
            self._connection.commit()
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path)
        connection.execute("CREATE TABLE IF NOT EXISTS thumbnails (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL)")
        connection.execute("DELETE FROM thumbnails WHERE id >= ? AND id < ?", (self._ids.start, self._ids.stop))
        return connection


class Thumbnails:
    """Thumbnails of a finished index by row id; safe to use from several threads."""

    def __init__(self, folder: Path, partitions: Sequence[int]) -> None:
        """`partitions`: rows of each partition of the index, in order."""
        self._path = folder / FILE_NAME
        self._ends = np.cumsum(partitions, dtype=np.int64)

    def get(self, ids: Sequence[int]) -> list[bytes | None]:
        """JPEG bytes of each row, None where there is none."""
        if not self._path.exists() or not ids:
            return [None] * len(ids)
        with contextlib.closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [self._get(connection, row) for row in ids]

    def erase(self, ids: Sequence[int]) -> None:
        """Overwrite the thumbnails of rows."""
        if not self._path.exists():
            return
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as connection, connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.executemany("DELETE FROM thumbnails WHERE id = ?", [(self._id(row),) for row in ids])

    def _get(self, connection: sqlite3.Connection, row: int) -> bytes | None:
        found = connection.execute("SELECT jpeg FROM thumbnails WHERE id = ?", (self._id(row),)).fetchone()
        return found[0] if found is not None else None

    def _id(self, row: int) -> int:
        partition = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[partition - 1]) if partition else 0
        return _first_id(partition) + row - start


def _first_id(partition: int) -> int:
    return partition << 32  # a partition has fewer rows than that, so that its ids need no knowledge of the others
