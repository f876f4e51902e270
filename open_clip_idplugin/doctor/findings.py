"""Findings of an examination: a check's name and function -> what it found, one line each, also where it fails.

Role: what all checks of this room return.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

OK, NOTE, WRONG = "ok", "note", "wrong"
_LONGEST = 400  # characters of somebody else's message


@dataclass(frozen=True)
class Finding:
    """One line: `state` is OK, NOTE (worth knowing, nothing to mend) or WRONG (with the remedy in `text`)."""

    about: str
    state: str
    text: str

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"{self.state:<6} {self.about:<16} {self.text}"


def found_by(about: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; where it raises, that is a finding: a broken installation fails in ways that nobody foresaw."""
    try:
        yield from check()
    except Exception as error:
        text = " ".join((str(error) or type(error).__name__).split())
        yield Finding(about, WRONG, text[:_LONGEST])
