"""JSON (RFC 8259), which knows no NaN and no infinite numbers: what every parser reads, in files and answers alike.

Role: values -> text. Python's own writer puts `NaN` and `Infinity` into the text by default, which browsers, jq and most other
languages refuse; here such numbers become null. No other module writes JSON.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, **options: Any) -> str:
    """JSON of `value`; `options` as of `json.dumps`."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, **options)


def finite(value: Any) -> Any:
    """The same with None in the place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value
