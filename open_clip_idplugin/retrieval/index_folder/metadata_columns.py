"""Names of metadata columns: what an index stores -> what answers, filters and joins call it.

Role: the one place that knows which column holds a picture's key (its sample's key in a tar, or its relative path) and which
names belong to answers. A column of the user with such a name keeps its values under another one and shadows nothing.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch

KEY_COLUMN = "image_path"  # of the files: clip-retrieval's name for the key
CAPTION_COLUMN = "caption"
KEY = "key"  # of answers
PREFIX = "metadata."
# Fields of a result that come from the search itself (`explain`, the host's own and the picture).
RESULT_FIELDS = frozenset(
    {
        *("id", "similarity", "image", KEY_COLUMN, KEY, "why", "score", "text_similarity", "probability", "person_as"),
        *("face_similarity", "face_box", "face_box_relative", "faces_found", "matched"),
    }
)


def key_column(names: Iterable[str]) -> str | None:
    """The stored column that holds the keys: clip-retrieval's, and `key` only where there is none of that name."""
    held = set(names)
    return next((name for name in (KEY_COLUMN, KEY) if name in held), None)


def shown_names(names: Sequence[str]) -> dict[str, str]:
    """Stored column -> its name in answers and filters, each once; the key is `key`, others never have an answer's name."""
    key = key_column(names)
    shown: dict[str, str] = {} if key is None else {key: KEY}
    taken = {KEY, *(name for name in names if name not in RESULT_FIELDS)}
    for name in names:
        if name == key:
            continue
        other = name
        while name in RESULT_FIELDS and (other in RESULT_FIELDS or other in taken):
            other = f"{PREFIX}{other}"
        taken.add(other)
        shown[name] = other
    return shown


def renamed(names: Sequence[str]) -> dict[str, str]:
    """Columns that are called otherwise than they are stored, but the key: for reports."""
    key = key_column(names)
    return {name: other for name, other in shown_names(names).items() if name not in (other, key)}


def read_keys(index: Path) -> list[str]:
    """Keys of all rows of an index folder, in order; raises IndexMismatch where it names no pictures."""
    import pyarrow.parquet

    keys: list[str] = []
    for path in sorted((index / "metadata").glob("*.parquet")):
        name = key_column(pyarrow.parquet.read_schema(path).names)
        if name is None:
            raise IndexMismatch(f"'{path}' names no pictures (column {KEY_COLUMN}): make the index again")
        keys += map(str, pyarrow.parquet.read_table(path, columns=[name])[name].to_pylist())
    if not keys:
        raise IndexMismatch(f"'{index}' is no image index: make one with `idclip index`")
    return keys


def stored_columns(index: Path) -> list[str]:
    """Names of the columns of all metadata files, in order."""
    import pyarrow.parquet

    paths = sorted((index / "metadata").glob("*.parquet"))
    return list(dict.fromkeys(name for path in paths for name in pyarrow.parquet.read_schema(path).names))
