"""Referring expressions: a text with placeholders and a word for each person -> the same text in plain English.

Role: what a person of a query is written as where no identity token stands for the face: "[TOK] feeding a horse" -> "a woman
feeding a horse". Strings only; it knows no model and no gallery.
"""

import re
from collections.abc import Sequence

from open_clip_idplugin.prompts import KEYWORDS, PLACEHOLDER, PLACEHOLDERS, placeholder_numbers

AUTO, TOKEN, WORDS, BOTH = "auto", "token", "words", "both"  # how the people of a query enter its text: see `person_as`
CHOICES = (AUTO, TOKEN, WORDS, BOTH)
SOMEBODY = "a person"  # whoever has no word of their own
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_OWNERS = r"my|your|his|her|our|their|its"
_DETERMINED = re.compile(rf"(?:(?:an?|the|this|that|one|some|{_OWNERS})\s|\S+['’]s\s)", re.IGNORECASE)
_ARTICLE = re.compile(r"an?\s+", re.IGNORECASE)
_BEFORE = re.compile(
    rf"(?<![\w-])(?P<determiner>an?|the|this|that|{_OWNERS})\s+(?P<adjective>(?:famous|young|old|little|smiling)\s+)?$",
    re.IGNORECASE,
)
_KEYWORD = "|".join(sorted(KEYWORDS, key=len, reverse=True))
_CALLED = r"(?:whose name is|named|called)\s+"
# A placeholder beside its keyword, as training writes it ("a man [TOK]", "a [TOK] man", "a man (whose name is [TOK])").
_AFTER_KEYWORD = re.compile(
    rf"(?<![\w-])(?P<keyword>{_KEYWORD})\s+(?:\(\s*(?:{_CALLED})?{PLACEHOLDERS.pattern}\s*\)|(?:{_CALLED})?{PLACEHOLDERS.pattern})",
    re.IGNORECASE,
)
_BEFORE_KEYWORD = re.compile(rf"{PLACEHOLDERS.pattern}\s+(?P<keyword>{_KEYWORD})(?![\w-])", re.IGNORECASE)
_SOMEBODY_ELSE = (
    "people", "persons", "men", "women", "children", "mums", "ladies", "babies", "someone", "somebody", "anyone", "anybody",
    "couple", "family", "crowd",
)  # fmt: skip
_NAMES_SOMEBODY = re.compile(
    rf"(?<![\w-])(?:(?:{_KEYWORD})s?|{'|'.join(_SOMEBODY_ELSE)})(?![\w-])",
    re.IGNORECASE,
)
_THINGS = (
    "building", "painting", "evening", "morning", "wedding", "meeting", "clothing", "ceiling", "drawing", "crossing", "railing",
    "landing", "lightning", "something", "anything", "nothing", "everything", "thing", "king", "ring", "wing", "string",
    "spring", "swing", "sling", "pudding", "sterling",
)  # fmt: skip
_DOING = re.compile(
    rf"(?!(?:{'|'.join(_THINGS)})(?![\w-]))(?:\w+ing|on|in|at|by|with|near|under|behind|beside|before|after|among|between|inside|outside|over|from|without)"
    r"(?![\w-])",
    re.IGNORECASE,
)
_SENTENCE_END = (".", "!", "?")


def noun_phrase(word: str) -> str:
    """A word for a person as it stands in a text: "woman" -> "a woman", "my sister" -> "my sister"; empty -> "a person"."""
    word = " ".join(word.split())
    if not word:
        return SOMEBODY
    if _DETERMINED.match(word):
        return word
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def in_words(text: str, words: Sequence[str]) -> str:
    """Write the people of a text as words.

    `[TOK]` is the first of `words`, `[TOK:2]` the second; a first mention is "a woman", a later one "the woman", and who
    shares a word with somebody before is "another woman". A placeholder beside its keyword ("a man [TOK]") leaves it alone.
    Every placeholder must have a word.
    """
    phrases = [noun_phrase(word) for word in words]
    text, mentioned = _without_beside_keywords(text)
    pieces, end = "", 0
    for match in PLACEHOLDERS.finditer(text):
        pieces += text[end : match.start()]
        person = placeholder_numbers(match[0])[0] - 1
        before = _BEFORE.search(pieces)
        phrase = _mention(person, phrases, mentioned)
        if before is not None and not _ARTICLE.match(f"{before['determiner']} "):
            phrase = _noun(phrases[person])  # "the [TOK]" -> "the woman"
        elif before is not None:
            pieces = pieces[: before.start()]
            phrase = _with_adjective(phrase, before["adjective"] or "")
        mentioned.append(person)
        pieces += phrase[:1].upper() + phrase[1:] if _begins_sentence(pieces, text) else phrase
        end = match.end()
    return pieces + text[end:]


def names_somebody(text: str) -> bool:
    """Whether a text says by itself that a person is in the picture."""
    return _NAMES_SOMEBODY.search(text) is not None


def with_people(text: str, count: int) -> str:
    """A text without placeholders -> one in which `count` people, written as words, have a place.

    Left as it is where it names somebody ("a woman on a beach") or is a whole sentence; what somebody does or where ("feeding a
    horse") follows the people, and anything else ("a red car") is introduced as in training.
    """
    if text and (names_somebody(text) or text.rstrip().endswith(_SENTENCE_END)):
        return text
    if _DOING.match(text):
        return f"{listed_placeholders(count)} {text}"
    return introduced(text, count)


def introduced(text: str, count: int) -> str:
    """A text without placeholders -> the same, introduced by those of `count` people, as in training."""
    return f"An image with {listed_placeholders(count)}. {text}".rstrip()


def listed_placeholders(count: int) -> str:
    """ "[TOK]", "[TOK] and [TOK:2]", "[TOK], [TOK:2] and [TOK:3]" ..."""
    placeholders = [PLACEHOLDER, *(f"[TOK:{number}]" for number in range(2, count + 1))]
    return " and ".join(filter(None, [", ".join(placeholders[:-1]), placeholders[-1]]))


def _without_beside_keywords(text: str) -> tuple[str, list[int]]:
    """The text without placeholders that stand beside their keyword, and the people who are mentioned by these."""
    mentioned: list[int] = []

    def keyword_alone(match: re.Match[str]) -> str:
        mentioned.extend(number - 1 for number in placeholder_numbers(match[0]))
        return match["keyword"]

    for beside in (_AFTER_KEYWORD, _BEFORE_KEYWORD):
        text = beside.sub(keyword_alone, text)
    return text, mentioned


def _mention(person: int, phrases: Sequence[str], mentioned: Sequence[int]) -> str:
    phrase, noun = phrases[person], _noun(phrases[person])
    if not _ARTICLE.match(phrase):  # "my sister" is definite already
        return phrase
    alike = [other for other, named in enumerate(phrases) if _noun(named) == noun]
    if person not in mentioned:
        known = len({other for other in mentioned if other in alike})
        return (phrase, f"another {noun}")[known] if known < 2 else f"a {_ordinal(known)} {noun}"
    if len(alike) == 1:
        return f"the {noun}"
    place = list(dict.fromkeys(other for other in mentioned if other in alike)).index(person)
    return f"the other {noun}" if (place, len(alike)) == (1, 2) else f"the {_ordinal(place)} {noun}"


def _ordinal(place: int) -> str:
    return _ORDINALS[place] if place < len(_ORDINALS) else "further"


def _noun(phrase: str) -> str:
    return _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase


def _with_adjective(phrase: str, adjective: str) -> str:
    """ "a woman" after "a famous " -> "a famous woman"."""
    if not adjective or not _ARTICLE.match(phrase):
        return phrase
    return noun_phrase(adjective + _noun(phrase))


def _begins_sentence(before: str, text: str) -> bool:
    """Whether a capital belongs here: texts that end as a sentence begin as one, and so do those after a capital."""
    whole = text.rstrip().endswith(_SENTENCE_END)
    if not before.strip():
        return whole
    return before.rstrip().endswith(_SENTENCE_END) and (whole or before.lstrip()[:1].isupper())
