"""Names of people: how they are compared, shown and printed.

Role: text -> text; knows no gallery. A name is what can be seen of it: two that look alike because one hides a character, or
runs from right to left, must not be two people.
"""

import unicodedata

from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.invisible import hidden_places, without_invisible

LONGEST_NAME = 200  # characters


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


def written_out(name: str) -> str:
    """A name in which every character that cannot be seen is written as <U+200B>."""
    hidden = set(hidden_places(name))
    return "".join(f"<U+{ord(letter):04X}>" if place in hidden else letter for place, letter in enumerate(name))


def printable(name: str) -> str:
    """A name for a message: short, and `?` for what would move the cursor or cannot be seen."""
    short = name[:LONGEST_NAME]
    hidden = set(hidden_places(short))
    return "".join("?" if place in hidden else letter for place, letter in enumerate(short))
