"""The gallery file's tables, version by version.

Role: an open connection -> one whose tables are of this program's version. A file of an older version is upgraded in one
transaction; one of a newer version is refused.
"""

import sqlite3
from pathlib import Path

from open_clip_idplugin.atomic import PRIVATE
from open_clip_idplugin.gallery.errors import GalleryError

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
_STEPS = (_FIRST, _SECOND, _THIRD, _FOURTH)
SCHEMA_VERSION = len(_STEPS)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make an open file safe to use: overwriting deletions, its own permissions, this version's tables.

    Raises:
        GalleryError: the file is of a newer version, or a database of something else.
    """
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
        for step in _STEPS[version:]:
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
