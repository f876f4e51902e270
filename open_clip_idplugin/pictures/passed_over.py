"""Walk account: names that a walk leaves alone -> reasons, counted by extension.

Role: a path below the root -> the reason against it, or None for a picture; many of them -> an account for reports.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from open_clip_idplugin.pictures.formats import HEIC_EXTENSIONS, HEIC_REMEDY, PICTURE_EXTENSIONS, reads_heic

JUNK = "hidden, or a program's own (thumbnails, trash, metadata)"
RAW = "raw camera format: export it as JPEG"
VIDEO = "video"
NO_PICTURE = "no picture"
BESIDE_SHARDS = "beside tar shards, which are read instead"
NO_FILE = "neither a file nor a folder"
LINK_SEEN = "link to a folder that is read already"
NO_ACCESS = "folder that may not be read"
SAME_KEY = "another picture has this name"
_PRINTED = 8  # lines

_JUNK_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
)
# fmt: off
_RAW = frozenset({
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "k25", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf",
    "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
})
_VIDEO = frozenset({
    "3gp", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "vob", "webm", "wmv",
})
# fmt: on


@dataclass(frozen=True)
class PassedOver:
    """Files of one extension that were passed over for one reason."""

    extension: str  # with the dot, in lower case; empty where there is none
    reason: str
    count: int
    example: str


@dataclass
class Account:
    """Counts what a walk passes over."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, key: str, reason: str) -> None:
        """Note one file or folder."""
        kind = (PurePosixPath(key).suffix.lower(), reason)
        self._counts[kind] += 1
        self._examples[kind] = min(key, self._examples.get(kind, key))

    def entries(self) -> tuple[PassedOver, ...]:
        """Everything noted, most frequent first; the same whatever the order of the walk."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(PassedOver(*kind, count, self._examples[kind]) for kind, count in ordered)


def reason_against(key: str) -> str | None:
    """Why the file of a key is not read as a picture; None where it is."""
    *folders, name = key.split("/")
    if is_junk(name) or any(map(is_junk, folders)):
        return JUNK
    extension = PurePosixPath(name).suffix[1:].lower()
    if extension in HEIC_EXTENSIONS and not reads_heic():
        return HEIC_REMEDY
    if extension in PICTURE_EXTENSIONS:
        return None
    return RAW if extension in _RAW else VIDEO if extension in _VIDEO else NO_PICTURE


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name holds nobody's pictures: hidden ones, `@eaDir`, `#recycle` and their like."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def to_json(entries: Iterable[PassedOver]) -> list[dict[str, Any]]:
    """For a report."""
    return [asdict(entry) for entry in entries]


def passed_over_lines(entries: Iterable[PassedOver]) -> list[str]:
    """For a reader: one line a reason and extension, the most frequent first."""
    entries = list(entries)
    lines = [
        f"passed over: {entry.count:,} x {entry.extension or 'without an extension'}, {entry.reason} ({entry.example})"
        for entry in entries[:_PRINTED]
    ]
    rest = sum(entry.count for entry in entries[_PRINTED:])
    return lines + ([f"passed over: {rest:,} more (see the report)"] if rest else [])
