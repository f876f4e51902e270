"""Files of groups: groups of unknown faces <-> what `idclip suggest` writes and `idclip enroll_groups` reads.

    groups.csv   group, faces, name: the column `name` is empty, for a human to fill in
    groups.json  which faces of which table each group has, so that the CSV can be edited by anything
    groups.html  some faces of every group, under its number

Role: groups <-> files. All of them are about faces of people: only their owner can read them.
"""

import base64
import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.csv_dialect import delimiter_of
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.output_folder import locked

CSV_FILE, JSON_FILE, PAGE_FILE = "groups.csv", "groups.json", "groups.html"
FORMAT = "idclip-groups-v1"
_COLUMNS = ("group", "faces", "name")
_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.4 system-ui,sans-serif;margin:1rem auto;max-width:72rem;padding:0 1rem}"
    "ul{display:flex;flex-wrap:wrap;gap:4px;list-style:none;margin:0;padding:0}li{overflow-wrap:anywhere}"
    "img{display:block;width:112px;height:112px;object-fit:cover}h1{font-size:1.4rem}h2{font-size:1.1rem;margin:1.5rem 0 .3rem}"
)


@dataclass(frozen=True)
class Groups:
    """Groups of faces of one table.

    Attributes:
        face_table: folder of the table.
        fingerprint: of the table; another one means other rows.
        input: the collection's pictures, as `idclip faces` took them; empty where they were not given.
        groups: for each group, from number 1, its rows of the embeddings.
    """

    face_table: str
    fingerprint: str
    input: str
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ShownFace:
    """A face on the page: where it is from, and its picture (JPEG) where that was read."""

    place: str
    crop: bytes | None


def write_groups(folder: Path, groups: Groups, shown: Sequence[Sequence[ShownFace]]) -> None:
    """Write the three files; `shown` has the faces of each group that the page shows."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(_COLUMNS)
    writer.writerows((number, len(rows), "") for number, rows in enumerate(groups.groups, 1))
    with locked(folder):
        if (folder / CSV_FILE).exists():
            raise IdClipError(f"'{folder / CSV_FILE}' exists, and may hold names already: choose another --output")
        atomic_write(folder / JSON_FILE, json_text({"format": FORMAT, **asdict(groups)}) + "\n", PRIVATE)
        atomic_write(folder / PAGE_FILE, _page(groups, shown), PRIVATE)
        atomic_write(folder / CSV_FILE, stream.getvalue(), PRIVATE)


def _page(groups: Groups, shown: Sequence[Sequence[ShownFace]]) -> str:
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Groups of unknown faces</title><style>{_STYLE}</style><h1>Groups of unknown faces</h1>",
        f"<p>Write names into {CSV_FILE}, then: idclip enroll_groups {CSV_FILE}. Keep this page private.</p>",
    ]
    for number, (rows, faces) in enumerate(zip(groups.groups, shown, strict=True), 1):
        parts.append(f"<h2>Group {number} <small>({len(rows)} faces)</small></h2>")
        parts += ["<ul>", *(f"<li>{_figure(face)}</li>" for face in faces), "</ul>"]
    return "\n".join(parts) + "\n"


def _figure(face: ShownFace) -> str:
    place = html.escape(face.place, quote=True)
    if face.crop is None:
        return place
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(face.crop).decode()}" alt="{place}" title="{place}">'


def read_groups(csv_file: Path) -> tuple[Groups, Mapping[int, str]]:
    """The groups, and the names that were written into the CSV: number of the group -> name.

    Raises:
        IdClipError: not such files, or a number that is no group.
    """
    groups = _read_json(csv_file.with_name(JSON_FILE))
    names: dict[int, str] = {}
    for line, row in enumerate(_read_csv(csv_file), 2):
        name, number = (row.get("name") or "").strip(), (row.get("group") or "").strip()
        if not name:
            continue
        if not number.isdecimal() or not 1 <= int(number) <= len(groups.groups):
            raise IdClipError(f"{csv_file}, line {line}: '{number}' is no group; there are 1 to {len(groups.groups)}")
        if names.setdefault(int(number), name) != name:
            raise IdClipError(f"{csv_file}, line {line}: group {number} has two names; leave one")
    return groups, names


def _read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, in a spreadsheet's dialect."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise IdClipError(
            f"'{path}' cannot be read as UTF-8 ({error}): give the groups.csv of `idclip suggest`"
        ) from None
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter_of(head))
    columns = [column.strip().lower() for column in reader.fieldnames or []]
    if not {"group", "name"} <= set(columns):
        raise IdClipError(f"'{path}' needs the columns group and name: give the groups.csv of `idclip suggest`")
    reader.fieldnames = columns
    return list(reader)


def _read_json(path: Path) -> Groups:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        groups = Groups(**{**values, "groups": tuple(map(tuple, values["groups"]))})
        if not all(isinstance(text, str) for text in (groups.face_table, groups.fingerprint, groups.input)):
            raise TypeError("a text was expected")
        if not all(type(row) is int and row >= 0 for rows in groups.groups for row in rows):
            raise ValueError("rows are numbers from 0")  # -1 would be the last face, somebody else's
        return groups
    except OSError:
        raise IdClipError(f"there is no '{path}': keep {JSON_FILE} beside {CSV_FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IdClipError(f"'{path}' was not written by `idclip suggest`: make the groups again") from None
