"""Names of people: how they are compared, shown and printed.

Role: text -> text; knows no gallery.
"""

import unicodedata

from open_clip_idplugin.gallery.errors import GalleryError

LONGEST_NAME = 200  # characters


def fold_name(name: str) -> str:
    """The form under which names are compared: compatibility-normalised, caseless, single spaces.

    Raises:
        GalleryError: the name is empty, too long or holds control characters.
    """
    folded = " ".join(unicodedata.normalize("NFKC", name).split())
    if not folded or len(folded) > LONGEST_NAME or any(unicodedata.category(letter) == "Cc" for letter in folded):
        raise GalleryError(
            f"'{printable(name)}' cannot be a person's name: use 1 to {LONGEST_NAME} printable characters"
        )
    # Case folding may undo the normalisation, so that normalising again makes it stable.
    return unicodedata.normalize("NFKC", folded.casefold())


def display_name(name: str) -> str:
    """The form in which a name is kept and shown: composed letters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def printable(name: str) -> str:
    """A name for a message: short, and `?` for what would move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:LONGEST_NAME])
