"""JSON (RFC 8259): values -> text without NaN and infinite numbers, which every parser reads.

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


def json_document(value: Any) -> str:
    """JSON for a file that people read too: indented, with text as it is, unless that is no UTF-8 (old names of files)."""
    text = json_text(value, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json_text(value, indent=1)
    return f"{text}\n"


def finite(value: Any) -> Any:
    """The same with None in the place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value
