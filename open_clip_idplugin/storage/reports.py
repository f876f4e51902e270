"""Report of a run: what was made, what was left out and why -> a JSON file, and lines for the terminal.

Role: what all reports share. `Skip` entries of readers and workers become counts by reason, lists and lines; a report's file is
whole or not there, holds no number that JSON does not know, and is its owner's alone unless its caller says otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import json_document
from open_clip_idplugin.storage.locations import Place

SHOWN_PER_REASON = 3


@dataclass(frozen=True)
class Skip:
    """One sample (or, for crops, a part of it) that was left out."""

    key: str  # of the sample; as it stands in the release when it is not even a key
    reason: str  # a constant of whoever left it out
    detail: str = ""


def count_reasons(entries: Iterable[Skip]) -> dict[str, int]:
    """Return reason -> number of entries, most frequent first."""
    counts = Counter(entry.reason for entry in entries)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def reason_lines(title: str, entries: Sequence[Skip]) -> list[str]:
    """One line a reason: how often, and the first few keys."""
    lines = []
    for reason, count in count_reasons(entries).items():
        examples = [entry.key for entry in entries if entry.reason == reason][:SHOWN_PER_REASON]
        dots = ", ..." if count > len(examples) else ""
        lines.append(f"{title}: {count:,} x {reason} ({', '.join(examples)}{dots})")
    return lines


def with_counts(entries: Sequence[Skip], name: str = "entries") -> dict[str, Any]:
    """Plain JSON values: `counts` by reason, and every entry under `name`."""
    return {"counts": count_reasons(entries), name: [vars(entry) for entry in entries]}


def read_entries(values: Mapping[str, Any], name: str = "entries") -> list[Skip]:
    """What `with_counts` was given."""
    return [Skip(**entry) for entry in values[name]]


def write_report(target: Place, values: Mapping[str, Any], mode: int = PRIVATE) -> None:
    """Write plain JSON values, so that people can read them too; `mode` is the file's permission."""
    atomic_write(target, json_document(values), mode)
