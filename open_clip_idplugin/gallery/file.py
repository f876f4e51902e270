"""The gallery's file: a path -> an open SQLite connection, one transaction at a time.

Role: a path -> open connections. The file is readable by its owner only from its first byte on. Whoever reads sees one state
of it, from a name to its vectors; whoever writes is alone from the first statement on.
"""

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from open_clip_idplugin.gallery.details import Details
from open_clip_idplugin.gallery.errors import GalleryBusy, GalleryError
from open_clip_idplugin.gallery.schema import CONSENT_SINCE, gallery_version, prepare
from open_clip_idplugin.storage.atomic import PRIVATE
from open_clip_idplugin.storage.locations import user_folder

_BUSY = re.compile(r"is (locked|busy)")  # SQLite's words; Python 3.10 has no error codes


def default_gallery() -> Path:
    """The gallery used when none is named: in the user's data folder."""
    return user_folder() / "gallery.sqlite"


@dataclass(frozen=True)
class GalleryHealth:
    """What a gallery file holds, and whether it is whole."""

    version: int  # of its schema
    people: int
    photos: int
    expired: int  # people whose consent's last day is over
    face_model: str | None
    private: bool  # whether only its owner may read it


def examine(path: Path) -> GalleryHealth:
    """Check every page of a gallery file and count what is in it, without changing it: opening a `Gallery` upgrades old files.

    Raises:
        GalleryError: it is not there, not a gallery, of a newer version, or damaged.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
            version = gallery_version(connection, path)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise GalleryError(f"the gallery '{path}' is damaged ({verdict}): restore it from a copy")
            people = _count(connection, "people") if version else 0
            photos = _count(connection, "photos") if version else 0
            model = connection.execute("SELECT id FROM face_model").fetchone() if version else None
            ends = connection.execute("SELECT consent_until FROM people") if version >= CONSENT_SINCE else ()
            expired = sum(Details(consent_until=end).expired for (end,) in ends)
    except sqlite3.Error as error:
        raise GalleryError(f"'{path}' cannot be used as a gallery: {error}") from None
    private = not path.stat().st_mode & 0o077
    return GalleryHealth(version, people, photos, expired, model[0] if model else None, private)


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class _Joined(threading.local):
    """The connection that all calls of this thread share at the moment, and whether it may write."""

    connection: sqlite3.Connection | None = None
    writes = False


class GalleryFile:
    """An SQLite file. Every call opens it anew: one object serves threads and sees what others write."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path`: the SQLite file (None: `default_gallery()`); it is made by the first enrolment."""
        self.path = Path(path) if path is not None else default_gallery()
        self._joined = _Joined()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """All calls of this thread inside the block are one transaction: if one raises, none has happened."""
        with self._writing(create=True) as connection, self._joining(connection, writes=True):
            yield

    @contextlib.contextmanager
    def one_state(self) -> Iterator[None]:
        """All calls of this thread inside the block read one state of the file, whatever others write meanwhile.

        Those who write wait for the end of the block, and it must not write itself: nothing slow belongs into it.
        """
        if not self.path.exists():
            yield
            return
        with self._reading() as connection, self._joining(connection, writes=False):
            yield

    @contextlib.contextmanager
    def _joining(self, connection: sqlite3.Connection, writes: bool) -> Iterator[None]:
        before = self._joined.connection, self._joined.writes
        self._joined.connection, self._joined.writes = connection, writes
        try:
            yield
        finally:
            self._joined.connection, self._joined.writes = before

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the file: the statements of the block are one read transaction."""
        if self._joined.connection is not None:
            yield self._joined.connection
            return
        self._require_file()
        with self._open() as connection:
            connection.execute("BEGIN")  # sqlite3 itself begins none for a SELECT
            try:
                yield connection
            finally:
                connection.rollback()

    @contextlib.contextmanager
    def _writing(self, create: bool = False, rebuild: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction that writes: committed if the block succeeds, else rolled back.

        The lock is taken at once, so that what the block reads holds until it has written: a reader who becomes a writer
        fails where somebody else has written in between. `rebuild`: the file is then written anew (see `_rebuild`).
        """
        if self._joined.connection is not None:
            if rebuild or not self._joined.writes:
                raise RuntimeError("this call cannot be part of a block that reads, or that is one transaction")
            yield self._joined.connection
            return
        if not create:
            self._require_file()
        elif not self.path.exists():
            self._create_private()
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
            if rebuild:
                _rebuild(connection)

    def _require_file(self) -> None:
        if not self.path.exists():
            raise GalleryError(f"there is no gallery at '{self.path}': enroll somebody first, or name another file")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file, which is there, in no transaction; always closed. What SQLite raises gets a sentence."""
        try:
            # SQLite gives its journal the permission of the database file.
            address = f"file:{quote(str(self.path.absolute()))}?mode=rw"
            connection = sqlite3.connect(address, uri=True, timeout=30)
        except sqlite3.OperationalError as error:
            raise GalleryError(f"the gallery '{self.path}' cannot be opened ({error}): name another file") from error
        with contextlib.closing(connection):
            try:
                prepare(connection, self.path)
                yield connection
            except sqlite3.DatabaseError as error:
                if _BUSY.search(str(error)):
                    raise GalleryBusy("the gallery is held by another program at this moment: try again") from error
                raise GalleryError(f"'{self.path}' cannot be used as a gallery: {error}") from error

    def _create_private(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Another process may be first; then the file is there and private as well.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))


def _rebuild(connection: sqlite3.Connection) -> None:
    """Write the file anew without the gaps in which deleted rows may have left something."""
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # where another program switched the file to a WAL
