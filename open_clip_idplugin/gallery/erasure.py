"""Proof of erasure: the gallery file's bytes, and what was erased -> what of it is still there.

Role: what a person's rows held + the files on disk -> an `Erasure`. SQLite's promises (`secure_delete`, VACUUM) are not
trusted: a write-ahead log of another program, or a new version of SQLite, could break them.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_WORD = 8  # bytes: every 15 bytes in a row of something erased hold one whole word of it
_SHORTEST_TEXT = 6  # bytes; shorter texts turn up by chance
_BLOCK = 1 << 24  # bytes of a file looked at together


@dataclass(frozen=True)
class Secrets:
    """What must not be left: embeddings and crops, and texts (names, aliases, labels, notes, consent)."""

    blobs: tuple[bytes, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Erasure:
    """What `forget` removed, and what a search through the files' bytes found afterwards.

    Attributes:
        name: of the person.
        photos, crops, aliases: how many were removed.
        files: names of the files that were searched: the gallery and what SQLite keeps beside it.
        left_words: 8-byte pieces of embeddings or crops that are still there.
        left_texts: texts that are still there. What other people share (such as a photo's label) does not count.
    """

    name: str
    photos: int
    crops: int
    aliases: int
    files: tuple[str, ...] = ()
    left_words: int = 0
    left_texts: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.left_words and not self.left_texts


def files_of(path: Path) -> list[Path]:
    """The gallery file and those that SQLite may have left beside it."""
    beside = [path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm")]
    return [file for file in (path, *beside) if file.exists()]


def count_left(files: Iterable[Path], gone: Secrets, kept: Secrets) -> tuple[int, int]:
    """How many words and texts of `gone` the files' bytes hold, apart from those that `kept` has as well."""
    words = _words(gone.blobs)
    found = np.zeros(len(words), bool)
    needles = {text.encode() for text in gone.texts if len(text.encode()) >= _SHORTEST_TEXT}
    texts: set[bytes] = set()
    for file in files:
        for block in _blocks(file, max(map(len, needles), default=_WORD)):
            found |= _found(words, block)
            texts |= {needle for needle in needles - texts if needle in block}
    if found.any():
        for blob in kept.blobs:
            found &= ~_found(words, blob)
    shared = [text.encode() for text in kept.texts]
    texts = {needle for needle in texts if not any(needle in text for text in shared)}
    return int(found.sum()), len(texts)


def _words(blobs: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """Sorted aligned 8-byte words, without those of one repeated byte, which fill empty pages too."""
    whole = [np.frombuffer(blob, "<u8", count=len(blob) // _WORD) for blob in blobs]
    words = np.unique(np.concatenate([*whole, np.zeros(0, "<u8")]))
    repeated = np.array([int.from_bytes(bytes([byte]) * _WORD, "little") for byte in range(256)], "<u8")
    return words[~np.isin(words, repeated)]


def _found(words: npt.NDArray[np.uint64], content: bytes) -> npt.NDArray[np.bool_]:
    """Which of the sorted words the content holds, at any offset."""
    found = np.zeros(len(words), bool)
    for shift in range(_WORD if len(words) else 0):
        here = np.frombuffer(
            content, "<u8", count=max(len(content) - shift, 0) // _WORD, offset=min(shift, len(content))
        )
        places = np.minimum(np.searchsorted(words, here), len(words) - 1)
        found[places[words[places] == here]] = True
    return found


def _blocks(file: Path, overlap: int) -> Iterator[bytes]:
    """The file's bytes in blocks that overlap, so that nothing is cut in two."""
    handle, place = _OPENED.handle(file), _BLOCK
    block = os.pread(handle, _BLOCK, 0)
    while block:
        yield block
        more = os.pread(handle, _BLOCK, place)
        place += len(more)
        block = block[-overlap:] + more if more else b""


class _Opened:
    """Files that are searched, and stay open: POSIX takes all of a process's locks from a file when it closes it once.

    SQLite's connections of other threads would lose theirs, and another program could write under them. One handle a file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[Path, int] = {}

    def handle(self, file: Path) -> int:
        """A descriptor for reading the file that lies there now."""
        with self._lock:
            known = self._handles.get(file)
            if known is not None:
                if os.path.samestat(os.fstat(known), file.stat()):
                    return known
                os.close(known)  # of a file that is gone, with its locks
            self._handles[file] = os.open(file, os.O_RDONLY)
            return self._handles[file]


_OPENED = _Opened()
