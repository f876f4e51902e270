"""Metadata filters: `filters` and `exclude_ids` of a request + an index's columns -> a mask of rows that it may see."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest, refuse_unknown

if TYPE_CHECKING:
    import pandas as pd

    from open_clip_idplugin.retrieval.index_folder.row_metadata import RowMetadata

_CONDITIONS = ("eq", "not", "in", "min", "max")
_WORDS = {"true": True, "false": False}


def allowed_rows(
    metadata: "RowMetadata", filters: Mapping[str, Any], exclude_ids: Sequence[int] = ()
) -> np.ndarray | None:
    """[rows] bool, or None where everything is allowed.

    A filter is a value (equality), a list (any of), or an object of eq, not, in, min and max (both inclusive), all of which
    must hold; a row without the value passes none but "not". A word for a number ("5") is taken as one in a column of
    numbers.

    Raises:
        BadRequest: an unknown column, or a value that the column cannot be compared with.
    """
    if not filters and not exclude_ids:
        return None
    mask = np.ones(len(metadata), bool)
    for name, condition in filters.items():
        mask &= _holds(column(metadata, name), condition, name)
    known = [row for row in exclude_ids if 0 <= row < len(mask)]  # before numpy: JSON's numbers may be of any size
    mask[np.asarray(known, np.int64)] = False
    return mask


def column(metadata: "RowMetadata", name: str) -> "pd.Series[Any]":
    """A column of the metadata; raises BadRequest where there is none of that name."""
    if name not in metadata.columns:
        names = ", ".join(str(known) for known in metadata.columns[:30])
        raise BadRequest(f"the index has no column '{name[:80]}': use one of {names}")
    return metadata[name]


def _holds(values: "pd.Series[Any]", condition: Any, name: str) -> np.ndarray:
    if isinstance(condition, list):
        condition = {"in": condition}
    elif not isinstance(condition, dict):
        condition = {"eq": condition}
    refuse_unknown(condition, _CONDITIONS, f"filters.{name}")
    mask = np.ones(len(values), bool)
    for kind, operand in condition.items():
        mask &= _compare(values, kind, operand, name).to_numpy(dtype=bool, na_value=False)
    return mask


def _compare(values: "pd.Series[Any]", kind: str, operand: Any, name: str) -> "pd.Series[Any]":
    if kind == "in":
        if not isinstance(operand, list):
            raise BadRequest(f"'in' of the filter on '{name}' must be a list of values")
        return values.isin([_fit(values, entry, name) for entry in operand]) & values.notna()
    fitted = _fit(values, operand, name)
    if kind == "eq":
        return values == fitted
    if kind == "not":
        return values != fitted
    try:
        return values >= fitted if kind == "min" else values <= fitted
    except TypeError:
        raise BadRequest(f"the column '{name}' has no order for '{kind}'") from None


def _holds_booleans(values: "pd.Series[Any]") -> bool:
    """Whether an object column holds true, false and missing values; 0 and 1 are numbers."""
    known = values.dropna() if values.dtype == object else []
    return len(known) > 0 and all(isinstance(value, bool) for value in known)


def _fit(values: "pd.Series[Any]", operand: Any, name: str) -> Any:
    """The operand as a value of the column's type."""
    import pandas as pd

    if not isinstance(operand, (str, int, float)):
        raise BadRequest(f"the filter on '{name}' must compare with texts, numbers, true or false")
    if pd.api.types.is_bool_dtype(values) or _holds_booleans(values):
        return _WORDS.get(operand.lower(), operand) if isinstance(operand, str) else operand
    if not pd.api.types.is_numeric_dtype(values):
        return operand if isinstance(operand, str) else str(operand)
    try:
        return float(operand) if isinstance(operand, str) else operand
    except ValueError:
        raise BadRequest(f"the column '{name}' holds numbers, which '{str(operand)[:80]}' is not") from None
