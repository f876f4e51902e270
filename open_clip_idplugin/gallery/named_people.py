"""People named in a sentence: "Ada Lovelace feeding a horse" -> "[TOK] feeding a horse" and the list of people.

Role: text + the gallery's names and aliases -> text with placeholders, and hints at names that may have been meant. A pure
function: it knows no gallery and no model. Names are compared as the gallery compares them: compatibility-normalised, caseless,
any white space between words. A name of one word may be a word (Rose, May, Will): it counts only where it is written as a name.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from open_clip_idplugin.gallery.invisible import JOINERS, without_invisible
from open_clip_idplugin.prompts import PLACEHOLDER, PLACEHOLDERS, placeholder_numbers

# Scripts written without spaces: a name needs no word boundary there.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_SENTENCE_START = re.compile(r"(?:^|[.!?:\u2026]\s)[\s\"'(\[\u00ab\u201c\u2018\u00bf\u00a1]*$")


@dataclass(frozen=True)
class Hint:
    """A word that stayed text and may have been meant as a name: as it was written, and the enrolled people of that name."""

    written: str
    people: tuple[str, ...]


@dataclass(frozen=True)
class NamedText:
    """A text whose people are placeholders.

    Attributes:
        text: with `[TOK]`, `[TOK:2]` ... in place of the names found; the rest is as it was written.
        identities: canonical names in order of their placeholders, after those that the text had already.
        hints: at people who may have been meant by words that stayed as they are.
    """

    text: str
    identities: tuple[str, ...] = ()
    hints: tuple[Hint, ...] = ()


def find_people(text: str, names: Mapping[str, str]) -> NamedText:
    """Replace enrolled names in a text by placeholders: the longest match first, whole words only.

    A name or alias that may be a word ("Rose", not "Jean-Luc") counts only where it is written with a capital that does not just
    begin a sentence ("beside Rose", not "a rose" or "Rose in a vase"). A first word of longer names never counts. Both
    become hints where they are written with a capital.

    Args:
        text: what to look for. Placeholders that it has already keep their numbers; the names found are numbered after
            the highest of them.
        names: every name and alias -> the person's canonical name.
    """
    spellings: dict[str, str] = {}
    for spelling, person in names.items():
        spellings[_fold(spelling)] = person
    words = {_fold(spelling) for spelling in names if _may_be_a_word(spelling)}
    first_words = _first_words(names.items())
    candidates = sorted(({*spellings, *first_words} - {""}), key=lambda name: (-len(name), name))
    if not candidates:
        return NamedText(text)
    folded, origins = _fold_with_origins(text)
    somebody = re.compile("|".join(map(re.escape, candidates)))
    written = [match.span() for match in PLACEHOLDERS.finditer(text)]
    taken = max(placeholder_numbers(text), default=0)
    numbers: dict[str, int] = {}
    hints: dict[Hint, None] = {}
    pieces, end, place = [], 0, 0
    while match := somebody.search(folded, place):
        first = match.start()
        here = (name for name in candidates if folded.startswith(name, first))
        name = next((name for name in here if _stands_alone(folded, origins, first, first + len(name))), None)
        place = first + 1
        if name is None:
            continue
        start, stop = origins[first][0], origins[first + len(name) - 1][1]
        if any(start < right and left < stop for left, right in written):
            continue
        if name not in spellings or (name in words and not _written_as_name(text, start, stop)):
            if text[start].isupper():
                people = (spellings[name],) if name in spellings else tuple(first_words[name])
                hints[Hint(text[start:stop], people)] = None
            place = first + len(name)
            continue
        number = numbers.setdefault(spellings[name], taken + len(numbers) + 1)
        pieces += [text[end:start], PLACEHOLDER if number == 1 else f"{PLACEHOLDER[:-1]}:{number}]"]
        end, place = stop, first + len(name)
    left = (hint for hint in hints if not set(hint.people) & set(numbers))
    return NamedText("".join([*pieces, text[end:]]), tuple(numbers), tuple(left))


def _may_be_a_word(spelling: str) -> bool:
    """Whether a name could be read as a word: one of letters alone, and whose capital tells the two apart.

    No word is written "Jean-Luc", "McCartney" or "Family1-Dad".
    """
    name = spelling.strip()
    return name.isalpha() and name[:1].isupper() and (name[1:] == name[1:].lower() or name.isupper())


def _written_as_name(text: str, start: int, stop: int) -> bool:
    """Whether a word stands there with a capital that says something: not that of a sentence, or of a text in capitals."""
    if not text[start].isupper() or text == text.upper():
        return False
    if stop - start > 1 and text[start:stop].isupper():
        return True
    return _SENTENCE_START.search(text[:start]) is None


def _first_words(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """First words of names of several words -> the people who are called so."""
    owners: dict[str, set[str]] = {}
    for spelling, person in names:
        words = _fold(spelling).split()
        if len(words) > 1:
            owners.setdefault(words[0], set()).add(person)
    return {word: sorted(people) for word, people in owners.items()}


def _stands_alone(folded: str, origins: list[tuple[int, int]], start: int, stop: int) -> bool:
    """Whether neither end is in the middle of a word, or of what one written letter became (as the ss of a folded ß)."""
    before, after = folded[start - 1 : start], folded[stop : stop + 1]
    if (before and origins[start - 1] == origins[start]) or (after and origins[stop] == origins[stop - 1]):
        return False
    return not (_joined(before, folded[start]) or _joined(folded[stop - 1], after))


def _joined(left: str, right: str) -> bool:
    if not left or not right or _UNSPACED.match(left) or _UNSPACED.match(right):
        return False
    return _is_word(left) and _is_word(right)


def _is_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN" or letter == "_"


def _fold(text: str) -> str:
    return " ".join(_normalised(text).split())


def _normalised(text: str) -> str:
    """Compatibility-normalised, caseless, without joiners and selectors; stable, as neither step undoes the last one."""
    if text.isascii():
        return text.casefold()  # the same, in a fraction of the time
    folded = without_invisible(unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", folded)


def _fold_with_origins(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The folded text with single spaces, and for each of its letters the (start, end) of the written ones that it comes from."""
    folded: list[str] = []
    origins: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _continues(text[end]):
            end += 1
        piece = _normalised(text[start:end])
        if piece.isspace():
            piece = "" if folded and folded[-1].endswith(" ") else " "
        if piece:
            folded.append(piece)
        origins += [(start, end)] * len(piece)
        start = end
    return "".join(folded), origins


def _continues(letter: str) -> bool:
    """Whether a letter composes with the one before it: accents, joiners, Hangul vowels and finals, half-width voicing marks."""
    return not letter.isascii() and (
        unicodedata.category(letter)[0] == "M"
        or letter in JOINERS
        or "\u1160" <= letter <= "\u11ff"
        or letter in "\uff9e\uff9f"
    )
