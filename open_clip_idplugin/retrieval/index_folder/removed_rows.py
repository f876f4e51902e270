"""Images taken out of an index without building it again: no search finds them, no answer shows them.

Role: index folder + ids -> `removed.json`, which lists rows that are left out; and its reader, which sees what is removed
while a service runs. faiss searches around the rows with a selector, on exact indices and graphs alike. The thumbnails
are erased at once; vectors and metadata stay in their files, unseen, until the index is compacted.
"""

import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.thumbnails import Thumbnails
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch, load_card
from open_clip_idplugin.retrieval.index_folder.generations import FolderHandle, changing
from open_clip_idplugin.retrieval.index_folder.id_selector import selected
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text

FILE_NAME = "removed.json"


class RemovedRows:
    """The removed rows of one index folder, as they are now; safe to use from several threads.

    Once another index has taken the folder's place, its list is another's: the last one read stays.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        """`rows`: of the index."""
        self._path = folder / FILE_NAME
        self._folder = FolderHandle(folder)
        self._rows = rows
        self._lock = threading.Lock()
        self._state: tuple[Any, np.ndarray, np.ndarray | None] = (None, np.zeros(0, np.int64), None)
        self._current()

    @property
    def ids(self) -> np.ndarray:
        """[R] int64, ascending."""
        return self._current()[1]

    @property
    def left(self) -> np.ndarray | None:
        """[rows] bool, which rows are left; None where all are."""
        return self._current()[2]

    def _current(self) -> tuple[Any, np.ndarray, np.ndarray | None]:
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            stamp = None
        with self._lock:
            if stamp != self._state[0]:
                ids = read_removed(self._path.parent)
                if not self._folder.is_current():  # asked last: what was read before that is this folder's
                    return self._state
                ids = ids[ids < self._rows]
                mask = np.ones(self._rows, bool)
                mask[ids] = False
                self._state = (stamp, ids, mask if len(ids) else None)
            return self._state


class IndexWithout:
    """A faiss index as clip-retrieval asks it, which finds only some of its rows."""

    def __init__(self, index: Any, left: np.ndarray) -> None:
        """`left`: [rows] bool."""
        self._index = index
        self._left = left
        self.d, self.ntotal = index.d, index.ntotal

    def search_and_reconstruct(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[Q, D] float32 -> similarities [Q, count], rows [Q, count] (-1: no more), vectors [Q, count, D]."""
        parameters = selected(self._index, self._left, count)
        if parameters is None:
            raise IdClipError(
                "images were removed from this index, whose type cannot search around them: make it again"
            )
        found: tuple[np.ndarray, np.ndarray, np.ndarray] = self._index.search_and_reconstruct(
            query, count, params=parameters
        )
        return found


def read_removed(folder: Path) -> np.ndarray:
    """[R] int64, ascending; empty where nothing was removed.

    Raises:
        IndexMismatch: the list is damaged; serving without it would show what was removed.
    """
    path = folder / FILE_NAME
    try:
        ids = json.loads(path.read_text())["ids"]
        return np.unique(np.asarray(ids, np.int64).reshape(-1))
    except FileNotFoundError:
        return np.zeros(0, np.int64)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise IndexMismatch(f"'{path}' is damaged: restore it, or make the index again without these images") from None


def remove_rows(folder: Path, choose: Callable[[], np.ndarray]) -> tuple[int, int]:
    """Add rows to the list and erase their thumbnails; returns how many were named, and how many not in the list before.

    choose: -> row numbers [R] int64; called while nobody else changes the folder, since a compaction gives rows other
    numbers. The list is written first, so that a run that is cut short hides the images all the same.
    """
    with changing(folder):
        ids = choose()
        if not len(ids):
            return 0, 0
        card = load_card(folder)
        thumbnails = Thumbnails(folder, card.partitions if card is not None else [count_rows(folder)])
        before = read_removed(folder)
        together = np.union1d(before, ids)
        atomic_write(folder / FILE_NAME, json_text({"ids": together.tolist()}) + "\n")
        try:
            thumbnails.erase(ids.tolist())
        except sqlite3.Error as error:
            raise IdClipError(
                f"the images are removed, but their thumbnails could not be erased ({error}): run the command again"
            ) from None
    return len(ids), len(together) - len(before)


def keys_left(index: Path) -> set[str]:
    """Keys of the images that are not removed: a removed one may come back, as a new row."""
    removed = set(read_removed(index).tolist())
    return {key for row, key in enumerate(read_keys(index)) if row not in removed}


def rows_of_keys(folder: Path, keys: set[str]) -> tuple[np.ndarray, set[str]]:
    """Rows of all images with these keys, and the keys that no image has; raises IndexMismatch as `read_keys` does."""
    held = read_keys(folder)
    rows = [row for row, key in enumerate(held) if key in keys]
    return np.asarray(rows, np.int64), keys - set(held)


def count_rows(folder: Path) -> int:
    """Images of an index folder, removed ones included; raises IdClipError for what is no index."""
    import pyarrow.parquet

    paths = sorted((folder / "metadata").glob("*.parquet")) if folder.is_dir() else []
    if not paths:
        raise IdClipError(f"--index: '{folder}' is no index folder; make one with `idclip index`")
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
