"""A folder of identity photos (VGGFace2's layout) -> identities with names, photos and known attributes.

Role: reads `DIR/<identity id>/*.jpg`, `identity_meta.csv` (in DIR or beside it) and an optional CSV of attributes. No
photo is opened here. Attribute values are compared in lower case; genders are spelled female and male.
"""

import csv
import json
from dataclasses import dataclass, field
from typing import Any

from open_clip_idplugin.pictures.walk import pictures_below
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.csv_dialect import delimiter_of
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap import reasons
from webdataset_tools.release import IDENTITY_FILE
from webdataset_tools.release_files import ReleaseError, encodable, read_identity_names
from webdataset_tools.sample_format import parse_key, sample_key

GENDER = "gender"
SPLIT = "split"  # a column that says to which split somebody belongs
_GENDERS = {
    **dict.fromkeys(("f", "female", "woman", "girl"), "female"),
    **dict.fromkeys(("m", "male", "man", "boy"), "male"),
}
_KEY_COLUMNS = ("identity_id", "class_id", "image_id", "id")


@dataclass(frozen=True)
class Identity:
    """One person whose face is lent.

    name    with spaces; the id where no name is known
    photos  file names inside the identity's folder, sorted
    """

    identity_id: str
    name: str
    photos: tuple[str, ...]
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IdentityFolder:
    """All identities with photos, sorted by id, and why others (and single photos) are not there."""

    folder: Location
    identities: list[Identity]
    skipped: list[Skip] = field(default_factory=list)
    skipped_photos: list[Skip] = field(default_factory=list)


def load_identities(folder: Location, attributes: Location | None = None) -> IdentityFolder:
    """Read the identities below `folder`.

    Raises ReleaseError when there is none, or when a CSV has another form.
    """
    places = (folder / IDENTITY_FILE, folder.resolve().parent / IDENTITY_FILE)
    meta = next((place for place in places if locations.is_file(place)), None)
    names = read_identity_names(meta) if meta else {}
    known = _read_genders(meta) if meta else {}
    for identity_id, values in (read_attribute_table(attributes) if attributes else {}).items():
        known[identity_id] = {**known.get(identity_id, {}), **values}
    identities, skipped = [], []
    skipped_photos: list[Skip] = []
    for entry in locations.list_folder(folder):
        identity_id = entry.name
        if not entry.is_folder or identity_id.startswith("."):
            continue
        if parse_key(sample_key(0, identity_id)) != (0, identity_id):
            detail = "use letters, digits, _ and - of ASCII, at most 64; a name belongs into identity_meta.csv"
            skipped.append(Skip(encodable(identity_id), reasons.BAD_IDENTITY_ID, detail))
            continue
        try:
            photos = _photos(folder / identity_id, skipped_photos)
        except OSError as error:
            skipped.append(Skip(identity_id, reasons.UNREADABLE_FOLDER, error.strerror or type(error).__name__))
            continue
        if not photos:
            skipped.append(Skip(identity_id, reasons.NO_PHOTOS))
        else:
            name = names.get(identity_id, identity_id)
            identities.append(Identity(identity_id, name, photos, known.get(identity_id, {})))
    if not identities:
        raise ReleaseError(f"{folder} holds no identity with photos; it must be laid out as <identity id>/*.jpg")
    return IdentityFolder(folder, identities, skipped, skipped_photos)


def _photos(folder: Location, skipped: list[Skip]) -> tuple[str, ...]:
    """Names of the photos (see `pictures.keys`); what else lies there is noted."""
    found = pictures_below(folder, subfolders=False)
    for entry in found.passed_over:
        detail = f"{entry.count} x {entry.extension or 'no extension'}"
        skipped.append(Skip(f"{folder.name}/{entry.example}", entry.reason, detail))
    skipped += [
        Skip(f"{folder.name}/{copy}", reasons.EXACT_COPY, f"of {first}") for copy, first in found.copies.items()
    ]
    return found.keys


def read_attribute_table(path: Location) -> dict[str, dict[str, str]]:
    """Return id -> {attribute: value} of a CSV with a header, or of a JSON object.

    Columns are parted by commas, semicolons or tabs; the first that is called identity_id, Class_ID, image_id or id is the id.
    The first row of an id counts, empty values are left out.

    Raises ReleaseError when the file has another form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ReleaseError(f"{path} cannot be read as UTF-8 ({error}); convert it") from None
    rows = _json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text)
    table: dict[str, dict[str, str]] = {}
    for key, values in rows:
        clean = {name.strip().lower(): normal(name, value) for name, value in values.items() if name}
        table.setdefault(key.strip(), {name: value for name, value in clean.items() if value})
    return table


def normal(name: str, value: Any) -> str | None:
    """Return the value of attribute `name` as it is compared; None when it says nothing, as whatever is no text."""
    text = " ".join(encodable(value).split()).lower() if isinstance(value, str) else ""
    if name.strip().lower() == GENDER:
        return _GENDERS.get(text)
    return text or None


def _json_rows(path: Location, text: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ReleaseError(f"{path} is no JSON object ({error}); give {{id: {{attribute: value}}}}") from None
    broken = next((key for key, values in content.items() if not isinstance(values, dict)), None)
    if broken is not None:
        raise ReleaseError(f"{path}: the value of {broken!r} must be an object of attributes")
    return list(content.items())


def _csv_rows(path: Location, text: str) -> list[tuple[str, dict[str, Any]]]:
    lines = text.splitlines()
    reader = csv.DictReader(lines, delimiter=delimiter_of(lines[0] if lines else ""), skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or [] if name}
    key = next((columns[name] for name in _KEY_COLUMNS if name in columns), None)
    if key is None or len(columns) < 2:
        raise ReleaseError(f"{path} needs a header with identity_id (or image_id) and attributes; has {list(columns)}")
    return [(row[key] or "", {n: v for n, v in row.items() if n != key}) for row in reader if row.get(key)]


def _read_genders(meta: Location) -> dict[str, dict[str, str]]:
    """Return id -> {gender: ...}; counted from the row's end, since names may hold commas."""
    text = meta.read_text(encoding="utf-8-sig").splitlines()
    lines = list(csv.reader(text, delimiter=delimiter_of(text[0] if text else ""), skipinitialspace=True))
    header = [column.strip().lower() for column in lines[0]] if lines else []
    if GENDER not in header:
        return {}
    place = header.index(GENDER) - len(header)
    genders: dict[str, dict[str, str]] = {}
    for row in lines[1:]:
        value = normal(GENDER, row[place]) if len(row) >= len(header) else None
        if value:
            genders.setdefault(row[0].strip(), {GENDER: value})
    return genders
