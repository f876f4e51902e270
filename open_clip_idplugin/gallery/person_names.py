"""Names of people: a text -> how it is compared, shown and printed.

Role: text -> text; knows no gallery. A name is what can be seen of it: two that look alike because one hides a character, or
runs from right to left, must not be two people.
"""

import unicodedata

from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.gallery.invisible import hidden_places, without_invisible

LONGEST_NAME = 200  # characters
_LAYOUT = dict.fromkeys(map(ord, "\t\n\r"), " ")


def fold_name(name: str) -> str:
    """The form under which names are compared: compatibility-normalised, caseless, single spaces, nothing invisible.

    Raises:
        GalleryError: the name is empty, too long or holds characters that cannot be seen (see `hidden_places`).
    """
    composed = " ".join(unicodedata.normalize("NFKC", name).split())
    hidden = [composed[place] for place in hidden_places(composed)]
    # Case folding and what is left out may undo the normalisation, so that normalising again makes it stable.
    folded = unicodedata.normalize("NFKC", without_invisible(composed.casefold()))
    if hidden or not folded.strip() or len(composed) > LONGEST_NAME:
        why = f"; U+{ord(hidden[0]):04X} in it cannot be seen" if hidden else ""
        raise GalleryError(
            f"'{printable(name)}' cannot be a person's name: use 1 to {LONGEST_NAME} printable characters{why}"
        )
    return folded


def display_name(name: str) -> str:
    """The form in which a name is kept and shown: composed letters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def require_seen(what: str, text: str) -> None:
    """Refuse a text, of several lines perhaps, that holds what cannot be seen or turns the direction of writing."""
    hidden = next(hidden_places(text.translate(_LAYOUT)), None)
    if hidden is not None:
        raise GalleryError(f"{what} holds U+{ord(text[hidden]):04X}, which cannot be seen: write it without")


def written_out(text: str, lines: bool = False) -> str:
    """A text in which every character that cannot be seen is written as <U+200B>; `lines`: but for tabs and ends of lines."""
    hidden = set(hidden_places(text.translate(_LAYOUT) if lines else text))
    return "".join(f"<U+{ord(letter):04X}>" if place in hidden else letter for place, letter in enumerate(text))


def printable(name: str) -> str:
    """A name for a message: short, and `?` for what would move the cursor or cannot be seen."""
    short = name[:LONGEST_NAME]
    hidden = set(hidden_places(short))
    return "".join("?" if place in hidden else letter for place, letter in enumerate(short))
