"""Flags of `idclip search` that are fields of a request: types, bounds, defaults and help come from the request's schema.

Role: a verb's function -> the same with these flags; what was given -> JSON of a request.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from open_clip_idplugin.command_line.verb_arguments import SharedFlag, with_flags
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest
from open_clip_idplugin.retrieval.ranking.ranking_request import PeopleClause
from open_clip_idplugin.retrieval.ranking.request_fields import properties

CLAUSE = ("all", "any", "none", "only")
RULES = (
    "fusion",
    "face_weight",
    "fmr",
    "face_threshold",
    "unseen_face",
    "negative_text",
    "offset",
    "collapse",
    "person_as",
    "min_similarity",
    "min_face_similarity",
    "min_face_fmr",
    "min_probability",
)
_KINDS = {"string": str, "number": float, "integer": int, "boolean": bool, "array": str}
# A number, or a date with or without a time as ISO 8601 writes it.
_ORDERED = re.compile(
    r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?|\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?)?"
)


def with_request_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with a flag for each of these fields; it takes what was given of them as its last parameter `given`."""
    fields = {
        name: field
        for schema, names in ((PeopleClause, CLAUSE), (KnnRequest, RULES))
        for name, field in properties(schema).items()
        if name in names
    }
    flags = [SharedFlag(name, _kind(field), _unset(field), _help(field)) for name, field in fields.items()]
    return with_flags(verb, flags, lambda given: given)


def _kind(field: Mapping[str, Any]) -> Any:
    kind = _KINDS[field["type"][0]]
    return kind if kind is bool else kind | None


def _unset(field: Mapping[str, Any]) -> bool | None:
    return False if _kind(field) is bool else None


def _help(field: Mapping[str, Any]) -> str:
    """The field's description with what may be given, in the words of a command line."""
    text = field["description"]
    for name in (*CLAUSE, *RULES):
        text = text.replace(f"`{name}`", f"--{name}")
    notes = []
    if "enum" in field:
        notes.append(", ".join(choice for choice in field["enum"] if choice is not None))
    if "minimum" in field:
        notes.append(f"{field['minimum']:g} to {field['maximum']:g}")
    if "array" in field["type"]:
        notes.append("enrolled names, several separated by commas")
    if field.get("default"):
        notes.append(f"by default {field['default']}")
    return text + (f" ({'; '.join(notes)})" if notes else "")


def request_fields(given: Mapping[str, Any], where: Sequence[str] = ()) -> dict[str, Any]:
    """JSON of a request: only what was given. Names in `all`, `any` and `none` are lists.

    Raises:
        IdClipError: see `parse_where`.
    """
    people = {name: given[name] for name in CLAUSE if given.get(name)}
    rest = {name: value for name, value in given.items() if name not in CLAUSE and value is not None}
    filters = parse_where(where)
    return {**rest, **({"people": people} if people else {}), **({"filters": filters} if filters else {})}


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
