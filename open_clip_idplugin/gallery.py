"""The gallery: enrolled people and the face embeddings that stand for them, in one SQLite file that only its owner
can read.

Role: name + face embeddings of a few photos -> a unit mean embedding under that name, for queries by name. The file
holds biometric data: permission 0600, overwritten on deletion (`secure_delete`, VACUUM), and no embedding is ever
printed or logged. All embeddings of a gallery come from one face model, because vectors of different models must
never be compared.
"""

import contextlib
import os
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.atomic import PRIVATE
from open_clip_idplugin.errors import IdClipError

SCHEMA_VERSION = 2
LONGEST_NAME = 200  # characters
_SCHEMA = """
CREATE TABLE IF NOT EXISTS face_model (id TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, folded TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS photos (
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    embedding BLOB NOT NULL,
    UNIQUE (person, embedding)
);
"""
# From version 1: aliases, and a weight and a picture for every photo.
_SECOND = """
CREATE TABLE aliases (
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    folded TEXT NOT NULL UNIQUE
);
ALTER TABLE photos ADD COLUMN quality REAL NOT NULL DEFAULT 1;
ALTER TABLE photos ADD COLUMN crop BLOB;
"""


class GalleryError(IdClipError):
    """An unusable gallery file, a name that is not (or already) enrolled, or an embedding that does not fit."""


@dataclass(frozen=True)
class Person:
    """An enrolled person as listed: the name as it was written, and how many photos stand for it."""

    name: str
    photos: int


def default_gallery() -> Path:
    """The gallery used when none is named: in the user's data folder (XDG base directory specification)."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "open_clip_idplugin" / "gallery.sqlite"


def fold_name(name: str) -> str:
    """The form under which names are compared: compatibility-normalised, caseless, single spaces.

    Raises:
        GalleryError: the name is empty, too long or holds control characters.
    """
    folded = " ".join(unicodedata.normalize("NFKC", name).split())
    if not folded or len(folded) > LONGEST_NAME or any(unicodedata.category(letter) == "Cc" for letter in folded):
        raise GalleryError(
            f"'{_printable(name)}' cannot be a person's name: use 1 to {LONGEST_NAME} printable characters"
        )
    # Case folding may undo the normalisation, so that normalising again makes it stable.
    return unicodedata.normalize("NFKC", folded.casefold())


class Gallery:
    """People by name. Every call opens the file anew: one object serves threads and sees what others enroll."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path`: the SQLite file (None: `default_gallery()`); it is made by the first enrolment."""
        self.path = Path(path) if path is not None else default_gallery()

    @property
    def model_id(self) -> str | None:
        """The face model that every embedding comes from; None while nobody has been enrolled."""
        if not self.path.exists():
            return None
        with self._open() as connection:
            return _face_model(connection)[0]

    def enroll(
        self,
        name: str,
        embeddings: npt.ArrayLike,
        model_id: str,
        photos: Sequence[str] | None = None,
        qualities: Sequence[float] | None = None,
        crops: Sequence[bytes | None] | None = None,
    ) -> Person:
        """Add photos to a person, who is created if the name is new. A photo that is already there is not counted
        twice.

        Args:
            name: compared without regard to case, Unicode form and spacing.
            embeddings: [K, D] (or [D]) float, face embeddings of K photos; each is scaled to unit length.
            model_id: face model of the embeddings; must be the gallery's.
            photos: K labels for listing, e.g. file names.
            qualities: K weights above 0 for the mean; all 1 where missing.
            crops: K JPEGs of the faces (or None each), kept for `cover`.

        Raises:
            GalleryError: wrong shape, not finite, another face model or size than the gallery's, or a bad name.
        """
        rows = _unit_rows(np.atleast_2d(np.asarray(embeddings, dtype=np.float32)))
        labels = list(photos) if photos is not None else [""] * len(rows)
        if len(labels) != len(rows):
            raise GalleryError(f"{len(labels)} photo labels were given for {len(rows)} embeddings; give one for each")
        weights = [float(weight) for weight in qualities] if qualities is not None else [1.0] * len(rows)
        pictures = list(crops) if crops is not None else [None] * len(rows)
        if not len(weights) == len(pictures) == len(rows) or not all(0 < weight < np.inf for weight in weights):
            raise GalleryError(f"give one quality above 0 and one crop for each of the {len(rows)} embeddings")
        folded, display = fold_name(name), " ".join(unicodedata.normalize("NFC", name).split())
        with self._open(create=True) as connection:
            _require_face_model(connection, model_id, rows.shape[1], self.path)
            _require_no_alias(connection, folded, display)
            connection.execute("INSERT OR IGNORE INTO people (name, folded) VALUES (?, ?)", (display, folded))
            person = _person_id(connection, folded)
            connection.executemany(
                "INSERT OR IGNORE INTO photos (person, label, embedding, quality, crop) VALUES (?, ?, ?, ?, ?)",
                [
                    (person, label, row.astype("<f4").tobytes(), weight, picture)
                    for label, row, weight, picture in zip(labels, rows, weights, pictures)
                ],
            )
            return _read_person(connection, person)

    def people(self) -> list[Person]:
        """Everybody enrolled, in order of name."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute("SELECT id FROM people ORDER BY folded").fetchall()
            return [_read_person(connection, person) for (person,) in rows]

    def names(self) -> list[str]:
        """Names of everybody enrolled, in order."""
        return [person.name for person in self.people()]

    def names_and_aliases(self) -> dict[str, str]:
        """Every name and alias -> the person's name, as `named_people.find_people` takes them."""
        if not self.path.exists():
            return {}
        with self._open() as connection:
            rows = connection.execute(
                "SELECT name, name FROM people UNION ALL SELECT alias, name FROM aliases JOIN people ON person = people.id"
            ).fetchall()
        return dict(rows)

    def add_alias(self, name: str, alias: str) -> None:
        """Let a person be called something else as well; refuses what is somebody's name or alias."""
        folded, display = fold_name(alias), " ".join(unicodedata.normalize("NFC", alias).split())
        with self._existing() as connection:
            person = self._find(connection, name)
            _require_no_alias(connection, folded, display)
            if connection.execute("SELECT 1 FROM people WHERE folded = ?", (folded,)).fetchone():
                raise GalleryError(f"'{display}' is already enrolled: choose another alias")
            connection.execute(
                "INSERT INTO aliases (person, alias, folded) VALUES (?, ?, ?)", (person, display, folded)
            )

    def embedding(self, name: str) -> npt.NDArray[np.float32]:
        """The person's [D] float32 unit vector: the quality-weighted mean of the photos', scaled to unit length."""
        rows, qualities = self._photos(name)
        return _unit_rows((rows * qualities[:, None]).sum(axis=0, keepdims=True) / qualities.sum())[0]

    def embeddings(self, name: str) -> npt.NDArray[np.float32]:
        """[K, D] float32 unit rows, one for each of the person's photos."""
        return self._photos(name)[0]

    def cover(self, name: str) -> bytes | None:
        """JPEG of the person's best face; None where no crop was kept."""
        with self._existing() as connection:
            row = connection.execute(
                "SELECT crop FROM photos WHERE person = ? AND crop IS NOT NULL ORDER BY quality DESC, rowid LIMIT 1",
                (self._find(connection, name),),
            ).fetchone()
        return row[0] if row is not None else None

    def _photos(self, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Unit embeddings [K, D] and qualities [K], float32."""
        with self._existing() as connection:
            person = self._find(connection, name)
            photos = connection.execute(
                "SELECT embedding, quality FROM photos WHERE person = ? ORDER BY rowid", (person,)
            ).fetchall()
        rows = np.stack([np.frombuffer(blob, dtype="<f4") for blob, _ in photos]).astype(np.float32)
        return rows, np.array([quality for _, quality in photos], dtype=np.float32)

    def rename(self, old: str, new: str) -> Person:
        """Give a person another name; refuses a name that somebody else has."""
        folded, display = fold_name(new), " ".join(unicodedata.normalize("NFC", new).split())
        with self._existing() as connection:
            person = self._find(connection, old)
            _require_no_alias(connection, folded, display)
            taken = connection.execute("SELECT id FROM people WHERE folded = ?", (folded,)).fetchone()
            if taken is not None and taken[0] != person:
                raise GalleryError(f"'{display}' is already enrolled: choose another name or forget that person first")
            connection.execute("UPDATE people SET name = ?, folded = ? WHERE id = ?", (display, folded, person))
            return _read_person(connection, person)

    def merge(self, name: str, into: str) -> Person:
        """Give all photos and aliases of `name` to the person `into`; the name itself becomes an alias."""
        with self._existing() as connection:
            gone, person = self._find(connection, name), self._find(connection, into)
            if gone == person:
                raise GalleryError(f"'{_printable(name)}' and '{_printable(into)}' are the same person already")
            connection.execute("UPDATE OR IGNORE photos SET person = ? WHERE person = ?", (person, gone))
            connection.execute("UPDATE aliases SET person = ? WHERE person = ?", (person, gone))
            connection.execute(
                "INSERT INTO aliases (person, alias, folded) SELECT ?, name, folded FROM people WHERE id = ?",
                (person, gone),
            )
            connection.execute("DELETE FROM people WHERE id = ?", (gone,))
            return _read_person(connection, person)

    def forget(self, name: str) -> Person:
        """Erase a person: rows are overwritten and the file is rebuilt, so that no byte of them stays in it."""
        with self._existing() as connection:
            person = self._find(connection, name)
            gone = _read_person(connection, person)
            connection.execute("DELETE FROM people WHERE id = ?", (person,))
            # An empty gallery may start again with another face model.
            connection.execute("DELETE FROM face_model WHERE NOT EXISTS (SELECT 1 FROM people)")
            connection.commit()
            connection.execute("VACUUM")
        return gone

    def _find(self, connection: sqlite3.Connection, name: str) -> int:
        row = connection.execute(
            "SELECT id FROM people WHERE folded = :name UNION SELECT person FROM aliases WHERE folded = :name",
            {"name": fold_name(name)},
        ).fetchone()
        if row is None:
            raise GalleryError(
                f"nobody named '{_printable(name)}' is enrolled in this gallery: enroll the person first, "
                "or see who is there with `idclip list`"
            )
        return int(row[0])

    def _existing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        if not self.path.exists():
            raise GalleryError(f"there is no gallery at '{self.path}': enroll somebody first, or name another file")
        return self._open()

    @contextlib.contextmanager
    def _open(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction: committed if the block succeeds, else rolled back; always closed."""
        if create and not self.path.exists():
            self._create_private()
        try:
            # SQLite gives its journal the permission of the database file.
            connection = sqlite3.connect(f"file:{_uri_quote(self.path)}?mode=rw", uri=True, timeout=30)
        except sqlite3.OperationalError as error:
            raise GalleryError(f"the gallery '{self.path}' cannot be opened ({error}): name another file") from error
        with contextlib.closing(connection):
            try:
                _prepare(connection, self.path)
                with connection:
                    yield connection
            except sqlite3.DatabaseError as error:
                raise GalleryError(f"'{self.path}' cannot be used as a gallery: {error}") from error

    def _create_private(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Another process may be first; then the file is there and private as well.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM would write a temporary copy beside the file
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise GalleryError(
            f"the gallery '{path}' was made by a newer version of this program (schema {version}, known: "
            f"{SCHEMA_VERSION}): update open-clip-idplugin"
        )
    if path.stat().st_mode & 0o077:
        path.chmod(PRIVATE)
    if version < SCHEMA_VERSION:
        _upgrade(connection, path)


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file to this schema in one transaction; another process may have done so while this one waited."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise GalleryError(f"'{path}' is a database of something else: name another file for the gallery")
        for step in (_SCHEMA, _SECOND)[version:]:
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _require_no_alias(connection: sqlite3.Connection, folded: str, display: str) -> None:
    row = connection.execute(
        "SELECT name FROM aliases JOIN people ON person = people.id WHERE aliases.folded = ?", (folded,)
    ).fetchone()
    if row is not None:
        raise GalleryError(f"'{display}' is an alias of '{row[0]}': choose another name")


def _face_model(connection: sqlite3.Connection) -> tuple[str | None, int | None]:
    row = connection.execute("SELECT id, size FROM face_model").fetchone()
    return (row[0], row[1]) if row is not None else (None, None)


def _require_face_model(connection: sqlite3.Connection, model_id: str, size: int, path: Path) -> None:
    known, known_size = _face_model(connection)
    if known is None:
        connection.execute("INSERT INTO face_model (id, size) VALUES (?, ?)", (model_id, size))
    elif (known, known_size) != (model_id, size):
        raise GalleryError(
            f"the gallery '{path}' holds {known_size}-d embeddings of the face model '{known}', which cannot be mixed "
            f"with {size}-d ones of '{model_id}': use that face model, or another gallery file"
        )


def _person_id(connection: sqlite3.Connection, folded: str) -> int:
    return int(connection.execute("SELECT id FROM people WHERE folded = ?", (folded,)).fetchone()[0])


def _read_person(connection: sqlite3.Connection, person: int) -> Person:
    name, photos = connection.execute(
        "SELECT name, (SELECT count(*) FROM photos WHERE person = people.id) FROM people WHERE id = ?", (person,)
    ).fetchone()
    return Person(name, photos)


def _unit_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[K, D] float32 -> the same, rows of unit length; refuses what has no direction."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise GalleryError(f"face embeddings must have the shape [photos, size], not {list(rows.shape)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths < 1e-6).any():
        raise GalleryError(
            "a face embedding is zero or not finite, so that it stands for no face: leave that photo out"
        )
    return (rows / lengths).astype(np.float32)


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:LONGEST_NAME])


def _uri_quote(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.absolute()))
