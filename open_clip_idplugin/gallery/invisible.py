"""Default-ignorable and control characters (Unicode): a text -> where it holds what nobody sees.

Role: text -> places, and the text without what is allowed and invisible. Taken for hidden: controls and half
characters; format characters, such as those that turn the direction of writing (U+061C, U+200E, U+200F, U+202A to U+202E,
U+2066 to U+2069), of no width (U+200B, U+2060, U+FEFF) and the soft hyphen; fillers and blanks that are letters by
name. Joiners (U+200C, U+200D) belong to the spelling of Persian or Bengali names: they are allowed inside the scripts that
need them, as RFC 5892 does for domain names, and selectors of a variant after what they select. Comparisons leave both out.
"""

import unicodedata
from collections.abc import Iterator

JOINERS = "\u200c\u200d"
# Which drawing of a character is meant: an emoji's, a Han character's in a name (Japanese), a Mongolian letter's.
_SELECTORS = frozenset(map(chr, (0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_LEFT_OUT = dict.fromkeys(map(ord, (*JOINERS, *_SELECTORS)))
_HIDDEN = ("Cc", "Cf", "Cs")
# Letters and marks by category, and nothing at all to the eye.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_CURSIVE = ("ARABIC", "SYRIAC", "MANDAIC", "NKO", "MONGOLIAN")
_INDIC = (
    "DEVANAGARI",
    "BENGALI",
    "GURMUKHI",
    "GUJARATI",
    "ORIYA",
    "TAMIL",
    "TELUGU",
    "KANNADA",
    "MALAYALAM",
    "SINHALA",
)
_JOINED_SCRIPTS = frozenset((*_CURSIVE, *_INDIC, "KHMER", "MYANMAR", "TIBETAN", "BALINESE", "JAVANESE"))
_VIRAMA = 9  # canonical combining class: the next letter loses its vowel, and a joiner says how that is drawn


def hidden_places(text: str) -> Iterator[int]:
    """Where `text` holds a character that cannot be seen and says nothing."""
    for place, letter in enumerate(text):
        if letter in JOINERS:
            hidden = not _joins(text, place)
        elif letter in _SELECTORS:
            hidden = place == 0 or unicodedata.category(text[place - 1])[0] not in "LMNS"
        else:
            hidden = letter in _BLANK or unicodedata.category(letter) in _HIDDEN or _reserved(letter)
        if hidden:
            yield place


def without_invisible(text: str) -> str:
    """The text without joiners and selectors of variants: what is left can be seen."""
    return text.translate(_LEFT_OUT)


def _joins(text: str, place: int) -> bool:
    """Whether a joiner stands between letters of one script that needs it, or after a virama of one."""
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    script = _script(before)
    if script not in _JOINED_SCRIPTS:
        return False
    return unicodedata.combining(before) == _VIRAMA or _script(after) == script


def _script(letter: str) -> str:
    """The script of a letter or mark, as its name begins; empty for anything else."""
    if not letter or unicodedata.category(letter)[0] not in "LM":
        return ""
    return unicodedata.name(letter, "").partition(" ")[0]


def _reserved(letter: str) -> bool:
    """Whether this is set aside for characters that are not shown; all other characters without a meaning yet are shown."""
    return letter == "\u2065" or "\ufff0" <= letter <= "\ufff8" or "\U000e0000" <= letter <= "\U000e0fff"
