"""Rows of the gallery's tables <-> values, and the few statements that several calls share.

Role: an open connection -> people and face models, or a refusal in a sentence.
"""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.model_identity import same_model
from open_clip_idplugin.gallery.details import Details
from open_clip_idplugin.gallery.erasure import Secrets
from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.gallery.person_names import fold_name, printable, written_out


@dataclass(frozen=True, eq=False)
class PhotoFace:
    """The person's face in one photo.

    Attributes:
        label: file name, for listing.
        embedding: [D] float32 of length 1.
        quality: weight in the mean, above 0.
        crop: JPEG of the aligned face; None where pictures are not kept.
    """

    label: str
    embedding: np.ndarray
    quality: float = 1.0
    crop: bytes | None = None


@dataclass(frozen=True)
class Person:
    """An enrolled person as listed: the name as it was written, how many photos stand for it, and what is known."""

    name: str
    photos: int
    aliases: tuple[str, ...] = ()
    details: Details = field(default_factory=Details)


def find_person(connection: sqlite3.Connection, name: str) -> int:
    """The id of whoever has this name or alias; refuses what nobody has."""
    row = connection.execute(
        "SELECT id FROM people WHERE folded = :name UNION SELECT person FROM aliases WHERE folded = :name",
        {"name": fold_name(name)},
    ).fetchone()
    if row is None:
        raise GalleryError(
            f"nobody named '{printable(name)}' is enrolled in this gallery: enroll the person first, "
            "or see who is there with `idclip list`"
        )
    return int(row[0])


def read_person(connection: sqlite3.Connection, person: int) -> Person:
    """The person of an id."""
    row = connection.execute(
        "SELECT name, (SELECT count(*) FROM photos WHERE person = people.id) FROM people WHERE id = ?", (person,)
    ).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("a photo in it is of nobody")
    name, photos = row
    aliases = connection.execute("SELECT alias FROM aliases WHERE person = ? ORDER BY folded", (person,)).fetchall()
    if not all(isinstance(spelling, str) for spelling in (name, *(alias for (alias,) in aliases))):
        raise sqlite3.DatabaseError("a name in it is no text")
    return Person(name, photos, tuple(alias for (alias,) in aliases), read_details(connection, person))


def read_details(connection: sqlite3.Connection, person: int) -> Details:
    """Notes, consent and word of the person of an id."""
    row = connection.execute(
        "SELECT notes, consent, consent_date, consent_until, word FROM people WHERE id = ?", (person,)
    ).fetchone()
    return Details.stored(*row)


def write_details(connection: sqlite3.Connection, person: int, details: Details) -> None:
    """Set notes, consent and word of the person of an id."""
    connection.execute(
        "UPDATE people SET notes = :notes, consent = :consent, consent_date = :consent_date, "
        "consent_until = :consent_until, word = :word WHERE id = :id",
        {**vars(details), "id": person},
    )


def read_photos(connection: sqlite3.Connection, person: int) -> list[PhotoFace]:
    """What is kept of the photos of the person of an id, in order of enrolment."""
    rows = connection.execute(
        "SELECT label, embedding, quality, crop FROM photos WHERE person = ? ORDER BY rowid", (person,)
    )
    size = read_face_model(connection)[1]
    photos = []
    for label, blob, quality, crop in rows:
        if not isinstance(label, str) or not isinstance(crop, bytes | None):
            raise sqlite3.DatabaseError("a photo in it is damaged")
        photos.append(PhotoFace(written_out(label), read_vector(blob, quality, size), quality, crop))
    return photos


def read_vector(blob: object, quality: object, size: int | None) -> npt.NDArray[np.float32]:
    """The [size] float32 embedding of a row of photos, whose weight must be one too.

    Raises sqlite3.DatabaseError, as SQLite does for a damaged file: somebody else wrote the row, or half of it.
    """
    if not isinstance(blob, bytes) or len(blob) != 4 * (size or 0):
        raise sqlite3.DatabaseError(f"an embedding in it is no {size} numbers")
    if not isinstance(quality, int | float) or not 0 < quality < np.inf:
        raise sqlite3.DatabaseError("a photo's weight in it is no number above 0")
    vector = np.frombuffer(blob, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise sqlite3.DatabaseError("an embedding in it is not finite")
    return vector


def read_secrets(connection: sqlite3.Connection, person: int | None) -> Secrets:
    """All embeddings, crops and texts of the person of an id, or of everybody (None)."""
    photos = connection.execute(
        "SELECT embedding, crop, label FROM photos WHERE :id IS NULL OR person = :id", {"id": person}
    ).fetchall()
    people = connection.execute(
        "SELECT name, folded, notes, consent, word FROM people WHERE :id IS NULL OR id = :id", {"id": person}
    ).fetchall()
    aliases = connection.execute(
        "SELECT alias, folded FROM aliases WHERE :id IS NULL OR person = :id", {"id": person}
    ).fetchall()
    blobs = [blob for embedding, crop, _ in photos for blob in (embedding, crop) if blob is not None]
    texts = [text for row in (*people, *aliases) for text in row] + [label for _, _, label in photos]
    return Secrets(tuple(blobs), tuple(texts))


def require_no_alias(connection: sqlite3.Connection, folded: str, display: str) -> None:
    """Refuse a new name that is somebody's alias."""
    row = connection.execute(
        "SELECT name FROM aliases JOIN people ON person = people.id WHERE aliases.folded = ?", (folded,)
    ).fetchone()
    if row is not None:
        raise GalleryError(f"'{display}' is an alias of '{row[0]}': choose another name")


def read_face_model(connection: sqlite3.Connection) -> tuple[str | None, int | None]:
    """The face model of all embeddings and their size; None while nobody is enrolled."""
    row = connection.execute("SELECT id, size FROM face_model").fetchone()
    if row is None:
        return None, None
    if not isinstance(row[0], str) or not isinstance(row[1], int) or row[1] < 1:
        raise sqlite3.DatabaseError("its face model is no name and number")
    return row[0], row[1]


def require_face_model(connection: sqlite3.Connection, model_id: str, size: int, path: Path) -> None:
    """Refuse embeddings of another face model than the gallery's; the first ones decide which that is."""
    known, known_size = read_face_model(connection)
    if known is None:
        connection.execute("INSERT INTO face_model (id, size) VALUES (?, ?)", (model_id, size))
    elif known_size != size or not same_model(known, model_id):
        raise GalleryError(
            f"the gallery '{path}' holds {known_size}-d embeddings of the face model '{known}', which cannot be mixed "
            f"with {size}-d ones of '{model_id}': use that face model, or another gallery file"
        )


def unit_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[K, D] float32 -> the same, rows of unit length; refuses what has no direction."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise GalleryError(f"face embeddings must have the shape [photos, size], not {list(rows.shape)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths < 1e-6).any():
        raise GalleryError(
            "a face embedding is zero or not finite, so that it stands for no face: leave that photo out"
        )
    return (rows / lengths).astype(np.float32)
