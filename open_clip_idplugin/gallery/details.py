"""Details of an enrolled person: notes, consent and a word for the person as texts -> checked `Details`.

Role: values, their checks and the flags that give them; knows no file.
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from open_clip_idplugin.command_line.verb_arguments import SharedFlag, with_flags
from open_clip_idplugin.gallery.errors import ConsentExpired, GalleryError
from open_clip_idplugin.gallery.invisible import hidden_places, without_invisible
from open_clip_idplugin.gallery.person_names import require_seen, written_out
from open_clip_idplugin.prompts import placeholder_numbers

LONGEST_TEXT = 10_000  # characters of notes, and of a consent's reference
LONGEST_WORD = 60  # characters: it stands in the texts of queries
# Each is a flag of the verbs that enroll or edit people; None leaves a detail as it is.
DETAIL_FLAGS = tuple(
    SharedFlag(name, str | None, None, text)
    for name, text in (
        ("notes", "anything worth knowing."),
        ("consent", "reference of the consent, such as a form's number."),
        ("consent_date", "day on which it was given, YYYY-MM-DD."),
        ("consent_until", "last day on which it holds, YYYY-MM-DD; nobody is searched for afterwards."),
        ("word", 'what the person is in a text where no identity token stands for the face, such as "a woman".'),
    )
)
_DATES = ("consent_date", "consent_until")
_TEXTS = ("notes", "consent")


@dataclass(frozen=True)
class Details:
    """Empty texts stand for "nothing written down".

    Attributes:
        notes: free text.
        consent: reference of the consent, such as a form's number or a file's name.
        consent_date: day on which it was given, as YYYY-MM-DD.
        consent_until: last day on which it holds; the person is not searched for afterwards.
        word: what the person is in a text where no identity token stands for the face, such as "a woman" or "my sister".
    """

    notes: str = ""
    consent: str = ""
    consent_date: str = ""
    consent_until: str = ""
    word: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) or len(value) > LONGEST_TEXT:
                raise GalleryError(f"{field.name} must be a text of at most {LONGEST_TEXT} characters")
        for name in _TEXTS:
            require_seen(name, getattr(self, name))
        seen = without_invisible(self.word).isprintable() and not any(True for _ in hidden_places(self.word))
        if len(self.word) > LONGEST_WORD or not seen or placeholder_numbers(self.word):
            raise GalleryError(
                f"word must be a few words for the person, such as 'a woman': at most {LONGEST_WORD} characters"
            )
        for name in _DATES:
            _require_date(name, getattr(self, name))
        if self.consent_date and self.consent_until and self.consent_until < self.consent_date:
            raise GalleryError(f"the consent ends on {self.consent_until}, before its date {self.consent_date}")

    @classmethod
    def stored(cls, *row: str) -> "Details":
        """Those of a gallery's row; what an earlier version let in unseen is written out, so that it can be seen."""
        details = cls(*("" if isinstance(text, str) else text for text in row[: len(_TEXTS)]), *row[len(_TEXTS) :])
        seen = {name: written_out(text, lines=True)[:LONGEST_TEXT] for name, text in zip(_TEXTS, row)}
        return replace(details, **seen)

    @property
    def expired(self) -> bool:
        """Whether the consent's last day is over."""
        return bool(self.consent_until) and self.consent_until < datetime.date.today().isoformat()

    def changed(self, **values: str | None) -> "Details":
        """The same with other values; None leaves one as it is, an empty text takes it away."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def joined(self, other: "Details") -> "Details":
        """Those of one person who had two entries: this one's consent and word first, all notes, the earlier end."""
        ends = [end for end in (self.consent_until, other.consent_until) if end]
        notes = [text for text in dict.fromkeys((self.notes, other.notes)) if text]
        first = self if self.consent or self.consent_date else other
        word = self.word or other.word
        return Details("\n".join(notes), first.consent, first.consent_date, min(ends, default=""), word)

    def require_valid(self, name: str) -> None:
        """Refuse a person whose consent has expired."""
        if self.expired:
            raise ConsentExpired(
                f"the consent of '{name}' ended on {self.consent_until}: renew it with `idclip edit --consent_until`, "
                "or erase the person with `idclip forget`"
            )


def checked_details(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """The flags' values, for `Details.changed`; raises GalleryError for a bad one, before any work."""
    Details().changed(**given)
    return dict(given)


def with_detail_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with `DETAIL_FLAGS`; its last parameter takes what was given of them, checked."""
    return with_flags(verb, DETAIL_FLAGS, checked_details)


def _require_date(name: str, text: str) -> None:
    if not text:
        return
    try:
        valid = datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        valid = False
    if not valid:
        raise GalleryError(f"{name} '{text[:40]}' is no date: write it as YYYY-MM-DD")
