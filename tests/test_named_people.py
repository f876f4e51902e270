"""Names in a sentence become placeholders: longest first, whole words, any script, never by guessing."""

import pytest

from open_clip_idplugin.named_people import AmbiguousName, NamedText, find_people

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
        ("Countess and Ada Lovelace", "[TOK] and [TOK]", ["Ada Lovelace"]),
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
    assert find_people(text, NAMES) == NamedText(found, tuple(people))


def test_a_shared_first_name_is_asked_back():
    names = {"Ada Lovelace": "Ada Lovelace", "Ada Yonath": "Ada Yonath"}
    with pytest.raises(AmbiguousName, match="'ada' may be 'Ada Lovelace', 'Ada Yonath'"):
        find_people("ada on a horse", names)
    assert find_people("Ada Yonath on a horse", names).identities == ("Ada Yonath",)
    assert find_people("Ada on a horse", {**names, "Ada": "Ada Yonath"}).identities == ("Ada Yonath",)


def test_a_lone_first_name_is_no_name_unless_it_is_an_alias():
    assert find_people("Ada on a horse", {"Ada Lovelace": "Ada Lovelace"}) == NamedText("Ada on a horse")


def test_a_name_never_reaches_into_a_placeholder():
    assert find_people("[TOK] and Tok", {"TOK": "Tok"}) == NamedText("[TOK] and [TOK:2]", ("Tok",))


def test_names_are_no_patterns():
    assert find_people("J. (x) here, Jo xx", {"J. (x)": "J"}) == NamedText("[TOK] here, Jo xx", ("J",))


def test_without_names_nothing_changes():
    assert find_people("Ada Lovelace", {}) == NamedText("Ada Lovelace")
