"""The verb `idclip index_remove`: take images out of an index, also while it is served.

Role: keys or ids -> `removed.json` of the index folder (see `removed_rows`).
"""

import csv
from pathlib import Path

import numpy as np

from open_clip_idplugin.errors import IdClipError

_SHOWN = 5


def index_remove(index: str, keys: str | None = None, keys_file: str | None = None, ids: str | None = None) -> None:
    """Take images out of an index: searches, pages and faces no longer show them, and their thumbnails are erased.

    Args:
        index: index folder; a service that serves it sees the change with its next request.
        keys: keys of images, separated by commas (a key with a comma in double quotes).
        keys_file: text file with one key a line.
        ids: row numbers of images, as answers give them in `id`, separated by commas.
    """
    from open_clip_idplugin.retrieval.index_folder.removed_rows import count_rows, remove_rows

    folder, wanted = Path(index), _keys(keys, keys_file)
    count_rows(folder)  # says at once what is no index
    named, new = remove_rows(folder, lambda: _rows(folder, wanted, ids))
    print(f"{index}: {new} images removed, {named - new} were removed before; their thumbnails are erased")
    print(f"Next: vectors and metadata stay in the files, unseen; `idclip index_compact {index}` erases them too")


def _rows(folder: Path, keys: set[str], ids: str | None) -> np.ndarray:
    """The rows that are named by keys and ids, as the folder is now."""
    from open_clip_idplugin.retrieval.index_folder.removed_rows import count_rows, rows_of_keys

    rows, unknown = rows_of_keys(folder, keys)
    rows = np.union1d(rows, _ids(ids, count_rows(folder)))
    if unknown:
        shown = ", ".join(sorted(unknown)[:_SHOWN])
        raise IdClipError(f"{len(unknown)} keys are not in '{folder}' ({shown}): nothing was removed; leave them out")
    if not len(rows):
        raise IdClipError("name the images with --keys, --keys_file or --ids")
    return rows


def _keys(listed: str | None, file: str | None) -> set[str]:
    keys = {key.strip() for key in next(csv.reader([listed or ""], skipinitialspace=True), [])}
    if file is not None:
        try:
            keys |= {line.strip() for line in Path(file).read_text().splitlines()}
        except (OSError, UnicodeDecodeError):
            raise IdClipError(f"--keys_file: '{file}' cannot be read as text") from None
    return keys - {""}


def _ids(listed: str | None, count: int) -> np.ndarray:
    try:
        rows = [int(entry) for entry in (listed or "").split(",") if entry.strip()]
    except ValueError:
        rows = [-1]
    if any(not 0 <= row < count for row in rows):
        raise IdClipError(f"--ids must be whole numbers from 0 to {count - 1}, separated by commas")
    return np.asarray(rows, np.int64)
