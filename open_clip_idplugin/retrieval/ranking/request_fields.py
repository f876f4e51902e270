"""Fields of a JSON request, checked one by one: each helper takes the object and a name, and returns the value or refuses it.

Role: what the parts of a search request (`knn_request`, `ranking_request`) share.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError

MOST_RESULTS = 100_000
HINTS = "Idclip-Hints"  # header of an answer: names that its text may have meant


class BadRequest(IdClipError):
    """A request that cannot be answered; the service turns it into HTTP 400."""


def text_field(values: Mapping[str, Any], name: str, longest: int | None = None) -> str | None:
    """A string; None where it is missing, null or empty (as clients send for fields they do not use)."""
    value = values.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string, not {kind_of(value)}")
    if longest is not None and len(value) > longest:
        raise BadRequest(f"'{name}' has {len(value)} characters, at most {longest} are taken: shorten it")
    return value


def flag_field(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """True or false; `default` where it is missing or null."""
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false, not {kind_of(value)}")
    return value


def count_field(values: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number from 1 to MOST_RESULTS; `default` where it is missing or null."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_RESULTS:
        raise BadRequest(f"'{name}' must be a whole number from 1 to {MOST_RESULTS}")
    return value


def number_field(values: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """A finite number; None where it is missing, null or empty."""
    value = values.get(name)
    if value is None or value == "":
        return None
    try:
        number = kind(value)
        finite = math.isfinite(number)  # raises for whole numbers beyond float's
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise BadRequest(f"'{name}' must be a number, or left out")
    return number


def vector_field(value: object, name: str) -> np.ndarray:
    """[D] float32 of finite numbers that are not all zero."""
    if not isinstance(value, list) or any(isinstance(number, (bool, str)) for number in value):
        raise BadRequest(f"'{name}' must hold a list of numbers as embedding, not {kind_of(value)}")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused below
            vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.zeros(0, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise BadRequest(f"the embedding in '{name}' must be a flat list of finite numbers that are not all zero")
    return vector


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def row_field(values: Mapping[str, Any], name: str) -> int | None:
    """A whole number from 0; None where it is missing or null."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise BadRequest(f"'{name}' must be a whole number from 0")
    return value


def refuse_unknown(values: Mapping[str, Any], known: tuple[str, ...], name: str) -> None:
    """Raise BadRequest where an object inside a request has a field that nobody would read."""
    for field in values:
        if field not in known:
            raise BadRequest(f"'{name}' has no field '{str(field)[:80]}': use {', '.join(known)}")
