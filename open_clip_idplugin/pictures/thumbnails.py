"""Thumbnails: small pictures of an index's rows <-> SQLite beside the index.

Role: picture -> JPEG thumbnail, and result ids -> thumbnails. They are not in the metadata, which clip-retrieval
holds in memory as a whole; one file with random access also beats a million small ones. Images that are added later
bring a file of their own, named by its first partition.
"""

import bisect
import contextlib
import io
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.pictures.decoding import xmp_of
from open_clip_idplugin.storage.atomic import atomic_path

if TYPE_CHECKING:
    from PIL import Image

_STEM = "thumbnails"
FILE_NAME = f"{_STEM}.sqlite"
_PART = ".part.sqlite"  # end of the name of one partition's file
_QUALITY = 80
_REDUCING_GAP = 2.0  # averages whole blocks of pixels first, as `PIL.Image.Image.thumbnail` does
_LONGEST_XMP = 65_000  # bytes; one JPEG segment, and a longer block cannot be written
_BLOCK = 1024  # thumbnails that are copied at a time


def make_thumbnail(picture: "Image.Image", side: int) -> bytes:
    """JPEG bytes of a decoded picture (see `load_image`), at most `side` pixels in width and height.

    An XMP block is kept, because it may say that the picture is synthetic.
    """
    from PIL import Image

    scale = side / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)
    marking = xmp_of(picture)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, xmp=marking if len(marking) <= _LONGEST_XMP else b"")
    return stream.getvalue()


class ThumbnailWriter:
    """Thumbnails of one partition of an index under construction; nothing is kept unless `commit` is reached."""

    def __init__(self, path: Path, partition: int) -> None:
        """`path`: a file of thumbnails, which may hold those of other partitions."""
        self._path = path
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


class ThumbnailPart(ThumbnailWriter):
    """Thumbnails of one partition in a file of its own, for partitions that are written on several machines at once.

    SQLite works on this machine's disk; the shared folder gets the finished file.
    """

    def __init__(self, folder: Path, partition: int) -> None:
        """`folder`: where `merge_parts` finds it."""
        super().__init__(Path(), partition)
        self._target = folder / f"{_STEM}_{partition:06d}{_PART}"

    def commit(self) -> None:
        """Keep what was added."""
        super().commit()
        if self._rows:
            with atomic_path(self._target) as path:
                shutil.copyfile(self._path, path)
            self._scratch.cleanup()

    def _open(self) -> sqlite3.Connection:
        self._scratch = tempfile.TemporaryDirectory()
        self._path = Path(self._scratch.name) / FILE_NAME
        return super()._open()


def merge_parts(folder: Path, target: Path) -> None:
    """Move every `ThumbnailPart` of `folder` into the file `target`; goes on where a killed run stopped."""
    for part in sorted(folder.glob(f"{_STEM}_*{_PART}")):
        number = int(part.name.removeprefix(f"{_STEM}_").removesuffix(_PART))
        writer = ThumbnailWriter(target, number)
        with contextlib.closing(sqlite3.connect(f"{part.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT jpeg FROM thumbnails ORDER BY id")
            while block := rows.fetchmany(_BLOCK):
                writer.add([jpeg for (jpeg,) in block])
        writer.commit()
        part.unlink()


class Thumbnails:
    """Thumbnails of a finished index by row id; safe to use from several threads.

    The files are opened once and stay open, so that pictures and rows belong together also after another index has taken
    the folder's place.
    """

    def __init__(self, folder: Path, partitions: Sequence[int]) -> None:
        """`partitions`: rows of each partition of the index, in order."""
        self._ends = np.cumsum(partitions, dtype=np.int64)
        self._files = [_ThumbnailFile(path) for path in thumbnail_files(folder)]
        self._firsts = [file.first for file in self._files]

    @property
    def empty(self) -> bool:
        """Whether the index has no thumbnails at all."""
        return not self._files

    def get(self, ids: Sequence[int]) -> list[bytes | None]:
        """JPEG bytes of each row, None where there is none."""
        return [self._get(row) for row in ids]

    def erase(self, ids: Sequence[int]) -> None:
        """Overwrite the thumbnails of rows."""
        by_file: dict[int, list[int]] = {}
        for row in ids:
            place = self._place(row)
            if place is not None:
                by_file.setdefault(place[0], []).append(place[1])
        for number, names in by_file.items():
            self._files[number].erase(names)

    def _get(self, row: int) -> bytes | None:
        place = self._place(row)
        return self._files[place[0]].get(place[1]) if place is not None else None

    def _place(self, row: int) -> tuple[int, int] | None:
        """Number of the file and id there; None where no file has that partition."""
        partition = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[partition - 1]) if partition else 0
        number = bisect.bisect_right(self._firsts, partition) - 1
        return None if number < 0 else (number, _first_id(partition - self._firsts[number]) + row - start)


class _ThumbnailFile:
    """One open file of thumbnails."""

    def __init__(self, path: Path) -> None:
        self.first = first_partition(path)
        self._path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, check_same_thread=False
        )

    def get(self, name: int) -> bytes | None:
        with self._lock:
            found = self._connection.execute("SELECT jpeg FROM thumbnails WHERE id = ?", (name,)).fetchone()
        return found[0] if found is not None else None

    def erase(self, names: Sequence[int]) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as connection, connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.executemany("DELETE FROM thumbnails WHERE id = ?", [(name,) for name in names])

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()


def thumbnail_files(folder: Path) -> list[Path]:
    """Files of thumbnails in an index folder, by the partition that they begin with."""
    return sorted(folder.glob(f"{_STEM}*.sqlite"), key=first_partition)


def file_of_partition(first: int) -> str:
    """Name of the file whose first partition is `first`, to which its ids are relative."""
    return f"{_STEM}_{first:06d}.sqlite" if first else FILE_NAME


def first_partition(path: Path) -> int:
    """The partition with which a file of thumbnails begins."""
    return int(path.stem.removeprefix(_STEM).removeprefix("_") or 0)


def _first_id(partition: int) -> int:
    return partition << 32  # a partition has fewer rows than that, so that its ids need no knowledge of the others
