"""The stored vectors of an index's images, read where they lie.

Role: row numbers -> the embeddings that the index was built from, for exact scores of candidates and for "more like this".
"""

import threading
from pathlib import Path
from typing import Any

import faiss
import numpy as np


class StoredVectors:
    """Embeddings by row: from `img_emb/*.npy`, mapped into memory, where they are complete; else out of the index."""

    def __init__(self, folder: Path, index: faiss.Index) -> None:
        """`folder`: that of the .npy files; `index`: the faiss index over the same rows."""
        parts = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))] if folder.is_dir() else []
        self._parts = parts if sum(map(len, parts)) == index.ntotal else []
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        self._index: Any = faiss.downcast_index(index)
        self._lock = threading.Lock()

    def get(self, rows: np.ndarray) -> np.ndarray:
        """[R] int64 -> [R, D] float32."""
        if not self._parts:
            self._require_map()
            return np.asarray(self._index.reconstruct_batch(rows), np.float32)
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][rows], np.float32)
        found = np.empty((len(rows), self._parts[0].shape[1]), np.float32)
        owners = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(owners):
            mine = owners == number
            start = int(self._ends[number - 1]) if number else 0
            found[mine] = self._parts[number][rows[mine] - start]
        return found

    def _require_map(self) -> None:
        """Let an inverted file find rows; not earlier, because it reads something of every list of a mapped index."""
        with self._lock:
            if isinstance(self._index, faiss.IndexIVF) and self._index.direct_map.no():
                self._index.make_direct_map()
