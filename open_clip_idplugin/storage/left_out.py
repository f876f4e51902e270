"""Left-out samples: what a long job could not use, and why.

Role: `Skip` entries of readers and workers -> counts by reason and lines for a reader.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

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


def reason_lines(title: str, entries: list[Skip]) -> list[str]:
    """One line a reason: how often, and the first few keys."""
    lines = []
    for reason, count in count_reasons(entries).items():
        examples = [entry.key for entry in entries if entry.reason == reason][:SHOWN_PER_REASON]
        dots = ", ..." if count > len(examples) else ""
        lines.append(f"{title}: {count:,} x {reason} ({', '.join(examples)}{dots})")
    return lines
