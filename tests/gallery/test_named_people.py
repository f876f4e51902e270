"""Names in a sentence become placeholders: longest first, whole words, any script, never by guessing."""

import pytest

from open_clip_idplugin.gallery.named_people import Hint, NamedText, find_people

NAMES = {
    "Ada Lovelace": "Ada Lovelace",
    "Countess": "Ada Lovelace",
    "Ada Lovelace King": "Ada Lovelace King",
    "José Pérez": "José Pérez",
    "Иван Петров": "Иван Петров",
    "山田太郎": "山田太郎",
    "Groß": "Groß",
    "김민수": "김민수",
}


@pytest.mark.parametrize(
    ("text", "found", "people"),
    [
        ("Ada Lovelace feeding a horse", "[TOK] feeding a horse", ["Ada Lovelace"]),
        ("ADA   lovelace's horse", "[TOK]'s horse", ["Ada Lovelace"]),
        ("Ada Lovelace King rides", "[TOK] rides", ["Ada Lovelace King"]),
        ("the Countess and Ada Lovelace", "the [TOK] and [TOK]", ["Ada Lovelace"]),
        ("José Pérez with Ada Lovelace", "[TOK] with [TOK:2]", ["José Pérez", "Ada Lovelace"]),
        ("Jose\u0301 Pe\u0301rez, smiling", "[TOK], smiling", ["José Pérez"]),
        ("ИВАН ПЕТРОВ на лошади", "[TOK] на лошади", ["Иван Петров"]),
        ("公園で山田太郎が走る", "公園で[TOK]が走る", ["山田太郎"]),
        ("GROSS on a horse", "[TOK] on a horse", ["Groß"]),
        ("김민수 rides".encode().decode(), "[TOK] rides", ["김민수"]),
        ("[TOK] with Ada Lovelace", "[TOK] with [TOK:2]", ["Ada Lovelace"]),
        ("Ada Lovelace beside [TOK:2]", "[TOK:3] beside [TOK:2]", ["Ada Lovelace"]),
        ("Ada Lovelace Kingdom", "[TOK] Kingdom", ["Ada Lovelace"]),
        ("countesses and a Grossist", "countesses and a Grossist", []),
        ("a red bicycle", "a red bicycle", []),
        ("", "", []),
    ],
)
def test_names_become_placeholders(text, found, people):
    named = find_people(text, NAMES)
    assert (named.text, named.identities) == (found, tuple(people))


WORDS = {
    "Rose": "Rose",
    "May": "May Day",
    "A": "A",
    "Will Smith": "Will Smith",
    "Will Ferrell": "Will Ferrell",
    "mum": "Ada",
}


@pytest.mark.parametrize(
    ("text", "found", "people", "hinted"),
    [
        ("a rose in a vase", "a rose in a vase", [], []),
        ("Rose in a vase", "Rose in a vase", [], ["Rose"]),
        ("a vase beside Rose", "a vase beside [TOK]", ["Rose"], []),
        ("Rose and Rose's dog", "Rose and [TOK]'s dog", ["Rose"], []),
        ("A horse. Rose rides it", "A horse. Rose rides it", [], ["A", "Rose"]),
        ("a horse that may jump in May", "a horse that may jump in [TOK]", ["May Day"], []),
        ("ROSE in a vase", "[TOK] in a vase", ["Rose"], []),
        ("A ROSE IN A VASE", "A ROSE IN A VASE", [], ["A", "ROSE"]),
        ("a man who will jump", "a man who will jump", [], []),
        ("a horse that Will rides", "a horse that Will rides", [], ["Will"]),
        ("Will Smith on a horse that Will rides", "[TOK] on a horse that Will rides", ["Will Smith"], []),
        ("will smith on a horse", "[TOK] on a horse", ["Will Smith"], []),
        ("mum on a horse", "[TOK] on a horse", ["Ada"], []),
        ("[TOK] and a rose", "[TOK] and a rose", [], []),
    ],
)
def test_a_name_that_is_a_word_counts_only_where_it_is_written_as_a_name(text, found, people, hinted):
    named = find_people(text, WORDS)
    assert (named.text, list(named.identities)) == (found, people)
    assert [hint.written for hint in named.hints] == hinted


def test_a_first_name_alone_is_never_guessed_but_hinted_at():
    names = {"Ada Lovelace": "Ada Lovelace", "Ada Yonath": "Ada Yonath"}
    both = find_people("a horse that Ada rides", names)
    assert both == NamedText("a horse that Ada rides", (), (Hint("Ada", ("Ada Lovelace", "Ada Yonath")),))
    assert find_people("Ada Yonath on a horse", names).identities == ("Ada Yonath",)
    assert find_people("a horse that Ada rides", {**names, "Ada": "Ada Yonath"}).identities == ("Ada Yonath",)
    alone = find_people("Ada on a horse", {"Ada Lovelace": "Ada Lovelace"})
    assert alone == NamedText("Ada on a horse", (), (Hint("Ada", ("Ada Lovelace",)),))
    assert find_people("ada on a horse", names) == NamedText("ada on a horse")


def test_a_name_never_reaches_into_a_placeholder():
    assert find_people("[TOK] and Tok", {"TOK": "Tok"}) == NamedText("[TOK] and [TOK:2]", ("Tok",))


def test_names_are_no_patterns():
    assert find_people("J. (x) here, Jo xx", {"J. (x)": "J"}) == NamedText("[TOK] here, Jo xx", ("J",))


def test_without_names_nothing_changes():
    assert find_people("Ada Lovelace", {}) == NamedText("Ada Lovelace")


@pytest.mark.parametrize("name", ["Jean-Luc", "McCartney", "Family1-Dad", "O'Neill"])
def test_a_name_that_is_written_like_no_word_counts_anywhere(name):
    assert find_people(f"{name} in a room", {name: name}) == NamedText("[TOK] in a room", (name,))
    assert find_people(f"A dog. {name.lower()} walks it", {name: name}).text == "A dog. [TOK] walks it"
