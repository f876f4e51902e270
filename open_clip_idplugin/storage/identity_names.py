"""VGGFace2's layout of identities: `<id>/photo.jpg` and a table -> names by id.

Role: `identity_meta.csv` -> id -> name.
"""

import csv

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.csv_dialect import delimiter_of
from open_clip_idplugin.storage.locations import Location

IDENTITY_FILE = "identity_meta.csv"


class IdentityNamesError(IdClipError):
    """A table of identities of another form."""


def read_identity_names(path: Location) -> dict[str, str]:
    """Return identity id -> name of an `identity_meta.csv`: `Class_ID, Name, ...`, or with semicolons or tabs.

    Spaces after commas, quoted names, names with commas and any script are understood; underscores become spaces. The
    first row of an id counts. Raises IdentityNamesError when the columns are missing or the file is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except UnicodeDecodeError as error:
        raise IdentityNamesError(f"{path} is not a CSV file in UTF-8 ({error}); convert it") from None
    delimiter = delimiter_of(lines[0])
    header, *rows = (_csv_fields(line, delimiter) for line in lines)
    if [column.lower() for column in header[:2]] != ["class_id", "name"]:
        raise IdentityNamesError(f"{path} must start with the columns Class_ID, Name; it starts with {header[:2]}")
    names: dict[str, str] = {}
    for row in rows:
        surplus = max(len(row) - len(header), 0)  # an unquoted name with commas
        name = clean_name(f"{delimiter} ".join(row[1 : 2 + surplus]))
        if name:
            names.setdefault(row[0], name)
    return names


def _csv_fields(line: str, delimiter: str) -> list[str]:
    """Split one line; an unclosed quote must not swallow the lines after it."""
    line = line if line.count('"') % 2 == 0 else line.replace('"', "")
    return [field.strip() for field in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]


def clean_name(name: str) -> str:
    """Return a name as people write it: `14th_Dalai_Lama ` -> `14th Dalai Lama`."""
    return " ".join(name.replace("_", " ").split())
