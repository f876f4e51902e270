"""Exact copies among files: files of one size -> those with the same bytes as an earlier one.

Role: only files that share their size with another are opened, and only those that also share their first and last bytes are
read whole, so that a collection without copies costs next to nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from open_clip_idplugin.storage.file_hash import file_sha256

_ENDS = 4096  # bytes at each end that are compared first


def find_copies(paths: Sequence[Path], sizes: Sequence[int]) -> dict[int, int]:
    """Number of a file -> number of the earlier one with the same bytes; empty and unreadable files are no copies."""
    groups = [list(range(len(paths)))]
    for look in (sizes.__getitem__, lambda number: _ends(paths[number]), lambda number: file_sha256(paths[number])):
        groups = [part for group in groups for part in _alike(group, look)]
    return {number: group[0] for group in groups for number in group[1:]}


def _alike(group: list[int], look: Callable[[int], Hashable]) -> list[list[int]]:
    """The parts of a group, of two or more, for which `look` gives the same."""
    parts: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number in group:
        try:
            parts[look(number)].append(number)
        except OSError:
            continue
    return [part for seen, part in parts.items() if len(part) > 1 and seen != 0 and seen != -1]


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(_ENDS)
        file.seek(max(0, path.stat().st_size - _ENDS))
        return first + file.read(_ENDS)
