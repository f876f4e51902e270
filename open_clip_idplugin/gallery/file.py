"""The gallery's file: where it is, how it is made, and one transaction at a time.

Role: a path -> open connections. The file is readable by its owner only from its first byte on.
"""

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from open_clip_idplugin.atomic import PRIVATE
from open_clip_idplugin.gallery.errors import GalleryBusy, GalleryError
from open_clip_idplugin.gallery.schema import prepare
from open_clip_idplugin.user_folder import user_folder

_BUSY = re.compile(r"is (locked|busy)")  # SQLite's words; Python 3.10 has no error codes


def default_gallery() -> Path:
    """The gallery used when none is named: in the user's data folder."""
    return user_folder() / "gallery.sqlite"


class GalleryFile:
    """An SQLite file. Every call opens it anew: one object serves threads and sees what others write."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path`: the SQLite file (None: `default_gallery()`); it is made by the first enrolment."""
        self.path = Path(path) if path is not None else default_gallery()
        self._joined = threading.local()  # the connection of `at_once`

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """All calls of this thread inside the block are one transaction: if one raises, none has happened."""
        with self._open(create=True) as connection:
            self._joined.connection = connection
            try:
                yield
            finally:
                self._joined.connection = None

    def _existing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        if not self.path.exists():
            raise GalleryError(f"there is no gallery at '{self.path}': enroll somebody first, or name another file")
        return self._open()

    @contextlib.contextmanager
    def _open(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction: committed if the block succeeds, else rolled back; always closed."""
        joined = getattr(self._joined, "connection", None)
        if joined is not None:
            yield joined
            return
        if create and not self.path.exists():
            self._create_private()
        try:
            # SQLite gives its journal the permission of the database file.
            address = f"file:{quote(str(self.path.absolute()))}?mode=rw"
            connection = sqlite3.connect(address, uri=True, timeout=30)
        except sqlite3.OperationalError as error:
            raise GalleryError(f"the gallery '{self.path}' cannot be opened ({error}): name another file") from error
        with contextlib.closing(connection):
            try:
                prepare(connection, self.path)
                with connection:
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


def rebuild(connection: sqlite3.Connection) -> None:
    """Commit, and write the file anew without the gaps in which deleted rows may have left something."""
    connection.commit()
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # where another program switched the file to a WAL
