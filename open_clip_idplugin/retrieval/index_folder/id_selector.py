"""IDSelector: a mask of allowed rows -> faiss search parameters that look among these rows only, for each kind of index.

Role: a mask of allowed rows -> the search parameters of that kind of index.
"""

from typing import Any

import faiss
import numpy as np

_WIDTH = 64  # efSearch of graphs, at the least
_MAKE: Any = faiss  # its constructors take keywords that its type stubs do not know


def selected(index: faiss.Index, allowed: np.ndarray, count: int) -> Any | None:
    """Parameters for finding `count` vectors among the `allowed` [N] bool; None for a kind of index that cannot.

    The selector lives as long as the parameters.
    """
    return _parameters(faiss.downcast_index(index), _selector(allowed), count)


def probing(probes: int, allowed: np.ndarray | None = None) -> Any:
    """Parameters for an inverted file: read `probes` lists, see only the `allowed` [N] bool."""
    options: dict[str, Any] = {"nprobe": probes}
    if allowed is not None:
        options["sel"] = _selector(allowed)
    return _MAKE.SearchParametersIVF(**options)


def _selector(allowed: np.ndarray) -> Any:
    return _MAKE.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _parameters(index: Any, selector: Any, count: int) -> Any | None:
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(faiss.downcast_index(index.index), selector, count)
        return None if inner is None else _MAKE.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        width = max(int(index.hnsw.efSearch), count, _WIDTH)
        return _MAKE.SearchParametersHNSW(sel=selector, efSearch=width)
    if isinstance(index, faiss.IndexIVF):
        return _MAKE.SearchParametersIVF(sel=selector, nprobe=int(index.nprobe))
    if isinstance(index, faiss.IndexFlat):
        return _MAKE.SearchParameters(sel=selector)
    return None
