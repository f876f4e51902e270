"""Flags of `idclip search` that say who must be in the images and how they are ranked -> fields of a request.

Role: words on the command line -> the JSON that `ranking_request` checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.errors import IdClipError


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

    def to_json(self) -> dict[str, Any]:
        """Only what was given."""
        clauses = {name: list(getattr(self, name)) for name in ("all", "any", "none") if getattr(self, name)}
        people = {**clauses, **({"only": True} if self.only else {})}
        faces = ("fusion", "face_weight", "face_threshold", "unseen_face", "min_face_similarity")
        values = {
            name: getattr(self, name)
            for name in (*faces, "min_similarity", "negative_text", "offset", "collapse", "person_as")
        }
        filters = parse_where(self.where)
        fields = {**values, "people": people or None, "filters": filters or None}
        return {name: value for name, value in fields.items() if value is not None}


def parse_where(conditions: Sequence[str]) -> dict[str, Any]:
    """ "column=value", "column=one|other" (either), "column=1900..1950" (both ends included, either may be left out).

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
        if ".." in value:
            ends = dict(zip(("min", "max"), value.split("..", 1), strict=True))
            filters[column.strip()] = {name: end for name, end in ends.items() if end}
        else:
            filters[column.strip()] = value.split("|") if "|" in value else value
    return filters
