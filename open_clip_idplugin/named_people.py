"""People named in a sentence: "Ada Lovelace feeding a horse" -> "[TOK] feeding a horse" and the list of people.

Role: text + the gallery's names and aliases -> text with placeholders. A pure function: it knows no gallery and no model.
Names are compared as the gallery compares them: compatibility-normalised, caseless, any white space between words.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.prompts import PLACEHOLDER, PLACEHOLDERS, placeholder_numbers

# Scripts written without spaces: a name needs no word boundary there.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class AmbiguousName(IdClipError):
    """A name in the text that may mean several enrolled people."""


@dataclass(frozen=True)
class NamedText:
    """A text whose people are placeholders.

    Attributes:
        text: with `[TOK]`, `[TOK:2]` ... in place of the names found; the rest is as it was written.
        identities: canonical names in order of their placeholders, after those that the text had already.
    """

    text: str
    identities: tuple[str, ...] = ()


def find_people(text: str, names: Mapping[str, str]) -> NamedText:
    """Replace enrolled names in a text by placeholders: the longest match first, whole words only.

    Args:
        text: what to look for. Placeholders that it has already keep their numbers; the names found are numbered after
            the highest of them.
        names: every name and alias -> the person's canonical name.

    Raises:
        AmbiguousName: a word that is the first word of several people's names and nobody's name or alias by itself.
    """
    spellings: dict[str, str] = {}
    for spelling, person in names.items():
        spellings[_fold(spelling)] = person
    first_words = _shared_first_words(names.items())
    candidates = sorted(({*spellings, *first_words} - {""}), key=lambda name: (-len(name), name))
    if not candidates:
        return NamedText(text)
    folded, origins = _fold_with_origins(text)
    somebody = re.compile("|".join(map(re.escape, candidates)))
    written = [match.span() for match in PLACEHOLDERS.finditer(text)]
    taken = max(placeholder_numbers(text), default=0)
    numbers: dict[str, int] = {}
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
        if name not in spellings:
            people = ", ".join(f"'{person}'" for person in first_words[name])
            raise AmbiguousName(f"'{text[start:stop]}' may be {people}: write the whole name, or give one an alias")
        number = numbers.setdefault(spellings[name], taken + len(numbers) + 1)
        pieces += [text[end:start], PLACEHOLDER if number == 1 else f"{PLACEHOLDER[:-1]}:{number}]"]
        end, place = stop, first + len(name)
    return NamedText("".join([*pieces, text[end:]]), tuple(numbers))


def _shared_first_words(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """First words that several people's names begin with -> those people."""
    owners: dict[str, set[str]] = {}
    for spelling, person in names:
        words = _fold(spelling).split()
        if len(words) > 1:
            owners.setdefault(words[0], set()).add(person)
    return {word: sorted(people) for word, people in owners.items() if len(people) > 1}


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
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def _fold_with_origins(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The folded text with single spaces, and for each of its letters the (start, end) of the written ones that it comes from."""
    folded: list[str] = []
    origins: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _continues(text[end]):
            end += 1
        piece = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[start:end]).casefold())
        if piece.isspace():
            piece = "" if folded and folded[-1].endswith(" ") else " "
        if piece:
            folded.append(piece)
        origins += [(start, end)] * len(piece)
        start = end
    return "".join(folded), origins


def _continues(letter: str) -> bool:
    """Whether a letter composes with the one before it: accents, Hangul vowels and finals, half-width voicing marks."""
    return unicodedata.category(letter)[0] == "M" or "\u1160" <= letter <= "\u11ff" or letter in "\uff9e\uff9f"
