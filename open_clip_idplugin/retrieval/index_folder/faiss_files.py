"""faiss index files from outside: bounded by their own size before faiss allocates what a header claims.

faiss believes a file's counts, and the path of inverted lists that are kept in another file.
"""

import struct
from pathlib import Path

import faiss

from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch

_HEADER = struct.Struct("<4siq16x?i")  # kind, dimensions, vectors, two unused numbers, trained, metric
_MOST_DIMENSIONS = 1 << 16
_FLAT = (b"IxF2", b"IxFI", b"IxFl")  # vectors as they are: their number follows the header
_COUNT = struct.Struct("<q")


def read_index(path: Path, flags: int = 0) -> faiss.Index:
    """faiss's own read_index; raises RuntimeError, as that does, for a damaged file and for one that claims what it lacks."""
    _check_header(path)
    try:
        index = faiss.read_index(str(path), flags)
    except MemoryError:
        raise RuntimeError(f"{path} claims more than the memory holds") from None
    _check_lists(index, path)
    return index


def open_index(path: Path, mmap: bool) -> faiss.Index | None:
    """An index of an index folder, its vectors left on the disk with `mmap`; None where there is none.

    Raises:
        IndexMismatch: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        if not mmap:
            return read_index(path)
        try:  # exact indices and graphs
            return read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError:  # inverted lists, which faiss maps in a way of their own
            return read_index(path, faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise IndexMismatch(f"'{path}' is not a readable faiss index: make the index again") from error


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEADER.size + 4 + _COUNT.size)  # four more where the metric has a number
    if len(head) < _HEADER.size:
        raise RuntimeError(f"{path} is too short for an index")
    kind, dimensions, vectors, _, metric = _HEADER.unpack_from(head)
    if not 0 < dimensions <= _MOST_DIMENSIONS or not 0 <= vectors <= size:  # a vector takes a byte at least
        raise RuntimeError(f"{path} claims {vectors} vectors of {dimensions} dimensions in {size} bytes")
    if kind in _FLAT:
        start = _HEADER.size + (4 if metric > 1 else 0)
        numbers = _COUNT.unpack_from(head.ljust(start + _COUNT.size, b"\xff"), start)[0]
        if not 0 <= numbers * 4 <= size:
            raise RuntimeError(f"{path} claims {numbers} numbers in {size} bytes")


def _check_lists(index: faiss.Index, path: Path) -> None:
    """Refuse inverted lists in a file outside the index's folder."""
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is None or inverted.invlists is None:
        return
    lists = faiss.downcast_InvertedLists(inverted.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists) and lists.filename:  # without a name: mapped from the index itself
        place = Path(lists.filename).resolve()
        if place.parent != path.resolve().parent:
            raise RuntimeError(f"{path} keeps its lists in {place}, outside its folder")
