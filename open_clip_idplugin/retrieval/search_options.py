"""Flags of `idclip search` that say who must be in the images and how they are ranked -> fields of a request.

Role: words on the command line -> the JSON that `ranking_request` checks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.errors import IdClipError

# A number, or a date with or without a time as ISO 8601 writes it.
_ORDERED = re.compile(
    r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?|\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?)?"
)


@dataclass(frozen=True)
class SearchOptions:
    """Each field as in a request; names are enrolled ones."""

    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    only: bool = False
    fusion: str | None = None
    face_weight: float | None = None
    face_threshold: float | None = None
    unseen_face: float | None = None
    min_similarity: float | None = None
    min_face_similarity: float | None = None
    negative_text: str | None = None
    where: tuple[str, ...] = ()
    offset: int | None = None
    collapse: str | None = None
    person_as: str | None = None
    fmr: float | None = None
    min_face_fmr: float | None = None
    min_probability: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Only what was given."""
        clauses = {name: list(getattr(self, name)) for name in ("all", "any", "none") if getattr(self, name)}
        people = {**clauses, **({"only": True} if self.only else {})}
        faces = ("fusion", "face_weight", "fmr", "face_threshold", "unseen_face")
        least = ("min_similarity", "min_face_similarity", "min_face_fmr", "min_probability")
        values = {
            name: getattr(self, name) for name in (*faces, *least, "negative_text", "offset", "collapse", "person_as")
        }
        filters = parse_where(self.where)
        fields = {**values, "people": people or None, "filters": filters or None}
        return {name: value for name, value in fields.items() if value is not None}


def parse_where(conditions: Sequence[str]) -> dict[str, Any]:
    """ "column=value", "column=one|other" (either), "column=1900..1950" (both ends included, either may be left out; numbers
    or dates), "column==value" (just this text, whatever signs are in it).

    Raises:
        IdClipError: a condition without an equals sign.
    """
    filters: dict[str, Any] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or not column.strip():
            raise IdClipError(
                f"--where '{condition}' is no condition: write 'column=value', 'column=a|b' or 'column=1..9'"
            )
        filters[column.strip()] = _range(value) or (value[1:] if value.startswith("=") else _either(value))
    return filters


def _range(value: str) -> dict[str, str] | None:
    """min and max of "1900..1950"; None for what is no range of numbers or dates, such as the file name a..b.jpg."""
    ends = dict(zip(("min", "max"), value.split("..", 1)))
    given = {name: end for name, end in ends.items() if end}
    return given if len(ends) == 2 and given and all(map(_ORDERED.fullmatch, given.values())) else None


def _either(value: str) -> str | list[str]:
    return value.split("|") if "|" in value else value
