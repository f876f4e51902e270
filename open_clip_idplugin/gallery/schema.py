"""Schema migration: a gallery file of any version -> one with this version's tables.

Role: an open connection -> one whose tables are of this program's version. A file of an older version is upgraded in one
transaction; one of a newer version is refused.
"""

import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path

from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.gallery.person_names import LONGEST_NAME, fold_name, written_out
from open_clip_idplugin.storage.atomic import PRIVATE

_FIRST = """
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
# From version 2: notes and consent; an empty text says that nothing is written down.
_THIRD = """
ALTER TABLE people ADD COLUMN notes TEXT NOT NULL DEFAULT '';
ALTER TABLE people ADD COLUMN consent TEXT NOT NULL DEFAULT '';
ALTER TABLE people ADD COLUMN consent_date TEXT NOT NULL DEFAULT '';
ALTER TABLE people ADD COLUMN consent_until TEXT NOT NULL DEFAULT '';
"""
# From version 3: what a person is called in a text that names nobody, such as "a woman".
_FOURTH = """
ALTER TABLE people ADD COLUMN word TEXT NOT NULL DEFAULT '';
"""
# From version 4: an id is never given twice, and names are compared without what nobody sees.
_FIFTH = """
CREATE TABLE people_of_five (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    folded TEXT NOT NULL UNIQUE,
    notes TEXT NOT NULL DEFAULT '',
    consent TEXT NOT NULL DEFAULT '',
    consent_date TEXT NOT NULL DEFAULT '',
    consent_until TEXT NOT NULL DEFAULT '',
    word TEXT NOT NULL DEFAULT ''
);
INSERT INTO people_of_five SELECT id, name, folded, notes, consent, consent_date, consent_until, word FROM people;
DROP TABLE people;
ALTER TABLE people_of_five RENAME TO people;
"""
_STEPS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH)
SCHEMA_VERSION = len(_STEPS)
CONSENT_SINCE = 3
_FOLDED_SINCE = 5  # names of older files are folded again
# What every version's tables have: other programs number their files too.
_ALWAYS_THERE = {
    "face_model": {"id", "size"},
    "people": {"id", "name", "folded"},
    "photos": {"person", "label", "embedding"},
}


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make an open file safe to use: overwriting deletions, its own permissions, this version's tables.

    Nothing is changed, its permissions included, before the file is known to be a gallery, or empty.

    Raises:
        GalleryError: the file is of a newer version, or a database of something else.
    """
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = OFF")  # while tables are made anew; it cannot be changed in a transaction
    connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM would write a temporary copy beside the file
    connection.execute("BEGIN")  # another process may be making the tables
    try:
        version = gallery_version(connection, path)
    finally:
        connection.rollback()
    if path.stat().st_mode & 0o077:
        path.chmod(PRIVATE)
    if version < SCHEMA_VERSION:
        _upgrade(connection, path)
    connection.execute("PRAGMA foreign_keys = ON")


def gallery_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of an open file, 0 where it is empty; raises GalleryError for what is no gallery, or a newer one."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not tables:
        return 0
    if version < 1 or not all(
        columns <= {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for table, columns in _ALWAYS_THERE.items()
    ):
        raise GalleryError(f"'{path}' is a database of something else: name another file for the gallery")
    if version > SCHEMA_VERSION:
        raise GalleryError(
            f"the gallery '{path}' was made by a newer version of this program (schema {version}, known: "
            f"{SCHEMA_VERSION}): update open-clip-idplugin"
        )
    return version


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file to this schema in one transaction; another process may have done so while this one waited."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = gallery_version(connection, path)
        for step in _STEPS[version:]:
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
        if version < _FOLDED_SINCE:
            _fold_again(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _fold_again(connection: sqlite3.Connection) -> None:
    """Fold names and aliases by today's rule; people before aliases, the earlier entry keeps its name.

    Nobody is lost: a name with characters that are no longer taken gets them written out, and of two people whose names have
    become one the later one gets a number.
    """
    taken: set[str] = set()
    for table, column in (("people", "name"), ("aliases", "alias")):
        entries = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid").fetchall()
        connection.execute(f"UPDATE {table} SET folded = char(1) || rowid")  # no two alike on the way
        for row, name in entries:
            if not isinstance(name, str):
                raise sqlite3.DatabaseError("a name in it is no text")
            free, folded = _free_name(name, taken.__contains__)
            taken.add(folded)
            connection.execute(
                f"UPDATE {table} SET {column} = ?, folded = ? WHERE rowid = ?",
                (free, folded, row),
            )


def _free_name(name: str, is_taken: Callable[[str], bool]) -> tuple[str, str]:
    """The name, or the most similar one that can be taken, and its folded form."""
    try:
        folded = fold_name(name)
    except GalleryError:
        name = written_out(name)[:LONGEST_NAME] or "unnamed"
        folded = fold_name(name)
    if not is_taken(folded):
        return name, folded
    numbered = (f"{name[: LONGEST_NAME - 10]} ({number})" for number in count(2))
    return next((one, fold_name(one)) for one in numbered if not is_taken(fold_name(one)))
