"""People written as words: natural English for every place where a placeholder may stand."""

import pytest

from open_clip_idplugin.prompts import GENERAL_TEMPLATES, PLACEHOLDER, expand, general_text
from open_clip_idplugin.queries.person_words import in_words, names_somebody, noun_phrase, with_people

WOMAN, MAN, PERSON = "a woman", "a man", "a person"


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("[TOK] feeding a horse", [WOMAN], "a woman feeding a horse"),
        ("[TOK] feeding a horse", [PERSON], "a person feeding a horse"),
        ("[TOK:1] feeding a horse", ["old man"], "an old man feeding a horse"),
        ("A photo of [TOK] on a beach.", [WOMAN], "A photo of a woman on a beach."),
        ("[TOK] rides a horse.", [WOMAN], "A woman rides a horse."),
        ("An image with [TOK]. [TOK] rides", [WOMAN], "An image with a woman. The woman rides"),
        ("[TOK] and [TOK:2] at a table", [WOMAN, MAN], "a woman and a man at a table"),
        ("[TOK] and [TOK:2] at a table", [PERSON, PERSON], "a person and another person at a table"),
        ("[TOK:2] hugs [TOK]", [PERSON, PERSON], "a person hugs another person"),
        ("[TOK], [TOK:2] and [TOK:3]", [MAN] * 3, "a man, another man and a third man"),
        ("[TOK] and [TOK:2]; [TOK] sits, [TOK:2] stands", [MAN] * 2,
         "a man and another man; the first man sits, the other man stands"),
        ("[TOK]'s dog", [WOMAN], "a woman's dog"),
        ("the [TOK] with a dog", [WOMAN], "the woman with a dog"),
        ("A [TOK] with a dog", [PERSON], "a person with a dog"),
        ("a famous [TOK] with a dog", [WOMAN], "a famous woman with a dog"),
        ("an old [TOK]", ["an actor"], "an old actor"),
        ("a woman [TOK] feeding a horse", [PERSON], "a woman feeding a horse"),
        ("a [TOK] man in a boat", [PERSON], "a man in a boat"),
        ("a man (whose name is [TOK]) in a boat", [PERSON], "a man in a boat"),
        ("a child named [TOK] and [TOK:2]", [PERSON, WOMAN], "a child and a woman"),
        ("[TOK] beside a dog", ["my sister"], "my sister beside a dog"),
        ("[TOK] beside [TOK:2]", ["my sister", "Ada's mother"], "my sister beside Ada's mother"),
        ("[TOK] 和一只狗", [WOMAN], "a woman 和一只狗"),
    ],
)  # fmt: skip
def test_in_words(text, words, expected):
    assert in_words(text, words) == expected


@pytest.mark.parametrize("template", range(len(GENERAL_TEMPLATES)))
@pytest.mark.parametrize("caption", ["A man rides a horse.", "an adult on a beach"])
def test_no_template_leaves_a_placeholder_or_a_second_article(caption, template):
    words = in_words(expand(general_text(caption, template), "conf1"), [WOMAN])
    assert PLACEHOLDER not in words and "()" not in words and "  " not in words
    lowered = words.lower()
    assert not any(odd in lowered for odd in ("a a ", "an a ", "the a ", "famous a ", "name is a "))


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("feeding a horse", 1, "a woman feeding a horse"),
        ("on a beach", 2, "a woman and another woman on a beach"),
        ("a woman feeding a horse", 1, "a woman feeding a horse"),
        ("Two people eat", 2, "Two people eat"),
        ("Snow on a mountain.", 1, "Snow on a mountain."),  # a caption, as evaluation asks it
        ("a red car", 1, "An image with a woman. a red car"),
        ("inscription", 1, "An image with a woman. inscription"),
        ("evening in Paris", 1, "An image with a woman. evening in Paris"),
        ("", 3, "An image with a woman, another woman and a third woman."),
    ],
)
def test_texts_without_placeholders(text, count, expected):
    assert in_words(with_people(text, count), [WOMAN] * count) == expected


def test_words_for_people():
    assert noun_phrase("woman") == "a woman" and noun_phrase(" old  man ") == "an old man"
    assert noun_phrase("the boss") == "the boss" and noun_phrase("") == PERSON
    assert names_somebody("a mother's hand") and names_somebody("Women at work")
    assert not names_somebody("a man-made lake") and not names_somebody("a manual")
