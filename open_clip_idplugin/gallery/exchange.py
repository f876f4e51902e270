"""Export and import of people: a gallery <-> one private zip that can be carried to another gallery.

    people.json       format, schema, face model, size of its embeddings, and for each person: name, aliases, notes,
                      consent, word, photos (label, quality, row of the embedding, name of the crop's file or null)
    embeddings.npy    [N, D] float32, rows of length 1
    crops/000000.jpg  the faces' pictures

Role: a gallery -> the zip, and back. Reading trusts nothing in it: nothing is unpacked to the disk, sizes are bounded, each
embedding and crop belongs to one photo, every value goes through the gallery's own checks, and all of it happens or none.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.faces.model_identity import same_model
from open_clip_idplugin.gallery.details import Details
from open_clip_idplugin.gallery.enrolment import enroll_faces
from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.gallery.person_names import fold_name
from open_clip_idplugin.gallery.rows import Person, PhotoFace, unit_rows
from open_clip_idplugin.gallery.schema import SCHEMA_VERSION
from open_clip_idplugin.gallery.store import Gallery
from open_clip_idplugin.storage.arrays import read_array
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path
from open_clip_idplugin.storage.finite_json import json_text

FORMAT = "idclip-people-v1"
PEOPLE_FILE, EMBEDDINGS_FILE, CROPS = "people.json", "embeddings.npy", "crops"
_MOST_BYTES = {PEOPLE_FILE: 1 << 26, EMBEDDINGS_FILE: 1 << 30}
_MOST_CROP_BYTES, _MOST_CROPS_BYTES = 1 << 22, 1 << 30  # one, and all of them together
_JPEG = b"\xff\xd8"


@dataclass(frozen=True, eq=False)
class CarriedPerson:
    """A person outside a gallery."""

    name: str
    aliases: tuple[str, ...]
    details: Details
    faces: tuple[PhotoFace, ...]


def export_people(gallery: Gallery, target: Path, names: Sequence[str] = ()) -> list[Person]:
    """Write the named people (or everybody) to a zip that only its owner can read; refuses to overwrite a file."""
    if target.exists():
        raise GalleryError(f"'{target}' exists already: name another file")
    with gallery.one_state():
        people = list(dict.fromkeys(gallery.person(name) for name in names)) if names else gallery.people()
        photos_of = {person.name: gallery.photos(person.name) for person in people}
        facts = {"model_id": gallery.model_id, "embedding_size": gallery.embedding_size}
    if not people:
        raise GalleryError(f"nobody is enrolled in '{gallery.path}', so that there is nothing to export")
    entries: list[dict[str, Any]] = []
    rows: list[np.ndarray] = []
    crops: dict[str, bytes] = {}
    for person in people:
        photos = []
        for face in photos_of[person.name]:
            crop = None
            if face.crop is not None:
                crop = f"{CROPS}/{len(crops):06d}.jpg"
                crops[crop] = face.crop
            photos.append({"label": face.label, "quality": face.quality, "row": len(rows), "crop": crop})
            rows.append(face.embedding)
        entries.append({"name": person.name, "aliases": list(person.aliases), **vars(person.details), "photos": photos})
    head = {"format": FORMAT, "schema": SCHEMA_VERSION, **facts, "people": entries}
    array = io.BytesIO()
    np.save(array, np.stack(rows).astype(np.float32))
    with atomic_path(target, PRIVATE) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _put(archive, PEOPLE_FILE, json_text(head, indent=1, ensure_ascii=False).encode())
        _put(archive, EMBEDDINGS_FILE, array.getvalue())
        for name, content in crops.items():
            _put(archive, name, content)
    return people


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # without the time of day: the same people give the same bytes
    entry.external_attr = PRIVATE << 16
    entry.compress_type = zipfile.ZIP_DEFLATED if name == PEOPLE_FILE else zipfile.ZIP_STORED
    archive.writestr(entry, content)


def import_people(gallery: Gallery, source: Path) -> tuple[list[Person], list[str]]:
    """Enroll the people of a zip, all of them or, where one cannot be, none; whoever has a name or alias that the gallery
    knows is left out.

    Returns:
        who was enrolled, and a sentence for everybody who was left out.

    Raises:
        GalleryError: not such a zip, of a newer schema, or of another face model or size than the gallery's.
    """
    model_id, people = read_people(source)
    if not same_model(gallery.model_id, model_id):
        raise GalleryError(
            f"'{source}' holds embeddings of the face model '{model_id}', the gallery '{gallery.path}' ones of "
            f"'{gallery.model_id}', which cannot be mixed: import into another gallery file"
        )
    with gallery.at_once():
        return _enroll(gallery, model_id, people)


def _enroll(gallery: Gallery, model_id: str, people: Sequence[CarriedPerson]) -> tuple[list[Person], list[str]]:
    enrolled, conflicts = [], []
    for person in people:
        known = {fold_name(spelling): name for spelling, name in gallery.names_and_aliases().items()}
        taken = {spelling: known.get(fold_name(spelling)) for spelling in (person.name, *person.aliases)}
        clash = next(((spelling, name) for spelling, name in taken.items() if name), None)
        if clash is not None:
            conflicts.append(f"'{person.name}' was left out: '{clash[0]}' belongs to '{clash[1]}' in this gallery")
            continue
        enroll_faces(gallery, person.name, person.faces, model_id, vars(person.details))
        for alias in person.aliases:
            gallery.add_alias(person.name, alias)
        enrolled.append(gallery.person(person.name))
    return enrolled, conflicts


def read_people(source: Path) -> tuple[str, list[CarriedPerson]]:
    """The face model and the people of a zip."""
    try:
        with zipfile.ZipFile(source) as archive:
            head = json.loads(_get(archive, PEOPLE_FILE, _MOST_BYTES[PEOPLE_FILE]))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise GalleryError(f"'{source}' was not written by `idclip export_people`: give such a file")
            if head["schema"] > SCHEMA_VERSION:
                raise GalleryError(
                    f"'{source}' was written by a newer version of this program (schema {head['schema']}, known: "
                    f"{SCHEMA_VERSION}): update open-clip-idplugin"
                )
            rows = read_array(_get(archive, EMBEDDINGS_FILE, _MOST_BYTES[EMBEDDINGS_FILE])).astype(np.float32)
            if rows.ndim != 2 or rows.shape[1] != head.get("embedding_size", rows.shape[1]):  # not in older exports
                raise ValueError("embeddings of another size than the face model's")
            unused = _Unused(rows, archive)
            people = [_person(entry, unused) for entry in head["people"]]
            return _text(head["model_id"]), people
    except OSError as error:
        raise GalleryError(f"'{source}' cannot be read ({error.strerror or error}): name another file") from error
    except GalleryError:
        raise
    except _DAMAGE as error:
        raise GalleryError(f"'{source}' is damaged or no export of people: export them again") from error


# What zipfile, zlib, json and numpy raise on bytes that somebody made up.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, LookupError, TypeError, ValueError, AttributeError, RuntimeError,
    ArithmeticError, MemoryError,
)  # fmt: skip


class _Unused:
    """What the photos have not yet taken: a small file cannot become large by naming one crop many times."""

    def __init__(self, rows: np.ndarray, archive: zipfile.ZipFile) -> None:
        self._rows, self._archive = rows, archive
        self._taken: set[int | str] = set()
        self._left = _MOST_CROPS_BYTES

    def row(self, place: object) -> np.ndarray:
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(self._rows):
            raise ValueError("a row that is not there")
        self._take(place)
        return unit_rows(self._rows[place : place + 1])[0]

    def crop(self, name: object) -> bytes:
        self._take(_text(name))
        content = _get(self._archive, _text(name), min(_MOST_CROP_BYTES, self._left))
        self._left -= len(content)
        if not content.startswith(_JPEG):
            raise ValueError("a crop that is no JPEG")
        return content

    def _take(self, what: int | str) -> None:
        if what in self._taken:
            raise ValueError(f"two photos have {what}")
        self._taken.add(what)


def _person(entry: dict[str, Any], unused: _Unused) -> CarriedPerson:
    faces = tuple(_face(photo, unused) for photo in entry["photos"])
    if not faces:
        raise ValueError("a person without a photo")
    name, aliases = _text(entry["name"]), tuple(_text(alias) for alias in entry["aliases"])
    for spelling in (name, *aliases):
        fold_name(spelling)
    texts = {field: _text(entry[field]) for field in ("notes", "consent", "consent_date", "consent_until")}
    details = Details(**texts, word=_text(entry.get("word", "")))  # exports of before schema 4 have no word
    return CarriedPerson(name, aliases, details, faces)


def _face(photo: dict[str, Any], unused: _Unused) -> PhotoFace:
    quality = photo["quality"]
    if isinstance(quality, bool) or not isinstance(quality, int | float) or not 0 < quality < np.inf:
        raise ValueError("a quality that is none")
    crop = None if photo["crop"] is None else unused.crop(photo["crop"])
    return PhotoFace(_text(photo["label"]), unused.row(photo["row"]), float(quality), crop)


def _get(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member's bytes, unpacked no further than the bound, whatever its header says."""
    with archive.open(name) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{name} is too large")
    return content


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value
