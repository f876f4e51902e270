"""Sections of a report -> Markdown, or one self-contained HTML page.

Role: the two forms of the same content. Text may hold `code` and **bold**, nothing else. In Markdown pictures are files in a
folder beside the page; in HTML they are part of it, so that it can be mailed, and nothing is fetched from anywhere.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from open_clip_idplugin.evaluation.tables import Table
from open_clip_idplugin.storage.atomic import atomic_write

TEMPLATE = Path(__file__).with_name("report.html.j2")
MEDIA_TYPES = {".svg": "image/svg+xml", ".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A plot or a sheet: `name` is its file's name, `alt` says in words what is to be seen."""

    name: str
    content: bytes
    alt: str
    caption: str

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return data_url(self.content, MEDIA_TYPES[Path(self.name).suffix])


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG (None where the shards have it no more) with a line below; `right` puts a green frame around it."""

    jpeg: bytes | None
    label: str
    right: bool = False

    @property
    def url(self) -> str | None:
        """The picture as a data URL."""
        return data_url(self.jpeg, "image/jpeg") if self.jpeg else None


@dataclass(frozen=True)
class ShownFailure:
    """A query and what came back; thumbnails: identity photo, the right image, then the first images found."""

    query: str
    rank: int
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class Section:
    """A heading, its table if there is one, sentences below, pictures, failures.

    sheet: the failures as one picture, which stands for them in Markdown
    """

    title: str
    table: Table | None = None
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    failures: Sequence[ShownFailure] = ()
    sheet: Picture | None = None

    @property
    def anchor(self) -> str:
        """For links within a page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def word_columns(self) -> frozenset[int]:
        """Columns of the table that hold words, not numbers."""
        rows = self.table.rows if self.table else ()
        wordy = (number for row in rows for number, cell in enumerate(row) if re.match(r"[`(]*[A-Za-z]", cell))
        return frozenset(wordy)


def table_section(table: Table, *notes: str) -> Section:
    """A section that is a table with notes below."""
    return Section(table.title, table, notes)


def to_markdown_page(facts: Mapping[str, Any], sections: Sequence[Section], folder: str) -> str:
    """Facts as a list, then the sections; links to pictures lead into `folder`."""
    lines = [f"* {name}: {value}" for name, value in facts.items()]
    return "\n".join(lines) + "\n\n" + "\n".join(_markdown(section, folder) for section in sections)


def to_html_page(title: str, facts: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The whole page; everything in it is escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["inline"] = inline
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, facts=facts, sections=sections)


def write_pictures(folder: Path, sections: Sequence[Section], mode: int) -> list[Path]:
    """Write the pictures that a Markdown page links to, with this permission; return their paths."""
    pictures = [picture for section in sections for picture in _linked(section)]
    for picture in pictures:
        atomic_write(folder / picture.name, picture.content, mode)
    return [folder / picture.name for picture in pictures]


def inline(text: str) -> Markup:
    """Text with `code` and **bold** as HTML."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked))


def data_url(content: bytes, media_type: str) -> str:
    """A file as a URL that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _markdown(section: Section, folder: str) -> str:
    text = f"## {section.title}\n"
    text += f"\n{_pipes(section.table, section.word_columns)}\n" if section.table else ""
    text += "".join(f"\n{note}\n" for note in section.notes)
    for picture in _linked(section):
        text += f"\n![{picture.alt}]({folder}/{picture.name})\n"
        text += f"\n{picture.caption}\n" if picture.caption else ""
    return text


def _pipes(table: Table, word_columns: frozenset[int]) -> str:
    """Words to the left, numbers to the right."""
    rule = ("---" if not column or column in word_columns else "---:" for column in range(len(table.columns)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows))


def _linked(section: Section) -> list[Picture]:
    return [*section.pictures, *([section.sheet] if section.sheet else [])]
