"""The caption templates against texts written by hand."""

import random

import pytest

from open_clip_idplugin import prompts
from open_clip_idplugin.errors import IdClipError

CAPTION = "A man hitting a ball on the court."


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man hitting a ball.", ("A ", "man", " hitting a ball.")),
        ("Woman, smiling", ("", "Woman", ", smiling")),
        ("The BABY's hat", ("The ", "BABY", "'s hat")),
        ("A man and a woman", None),  # two keywords
        ("A man beside a man", None),  # one keyword, twice
        ("A man beside a Man", None),
        ("People on a beach", None),
        ("Two men and a manhole", None),  # whole words only
        ("A man-made lake", None),  # a hyphen binds
        ("A woman beside a man-made lake", ("A ", "woman", " beside a man-made lake")),
        ("", None),
    ],
)
def test_split_at_keyword(caption, expected):
    assert prompts.split_at_keyword(caption) == expected


def test_every_keyword_is_found_alone():
    assert len(prompts.KEYWORDS) == len(set(prompts.KEYWORDS)) == 19
    for keyword in prompts.KEYWORDS:
        assert prompts.split_at_keyword(f"one {keyword} here") == ("one ", keyword, " here")


def test_the_eleven_texts_of_a_caption_with_one_keyword():
    assert prompts.general_texts(CAPTION, random.Random(0)) == [
        "An image with [ENTITY]. A man hitting a ball on the court.",
        "An image with a person whose name is [ENTITY]. A man hitting a ball on the court.",
        "[ENTITY]. A man hitting a ball on the court.",
        "A picture of [ENTITY]. A man hitting a ball on the court.",
        "[ENTITY] in the image. A man hitting a ball on the court.",
        "There is [ENTITY] in the picture. A man hitting a ball on the court.",
        "[ENTITY] hitting a ball on the court.",
        "A man ([ENTITY]) hitting a ball on the court.",
        "A man (whose name is [ENTITY]) hitting a ball on the court.",
        "A famous man [ENTITY] hitting a ball on the court.",
        "A famous [ENTITY] hitting a ball on the court.",
    ]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A photo of a man.", "A photo of [ENTITY]."),
        ("There is an adult, alone", "There is [ENTITY], alone"),
        ("Here is THE  lady \n of the house ", "Here is [ENTITY] of the house"),
        ("A young man runs", "A young [ENTITY] runs"),  # the article is not directly before
        ("Man runs", "[ENTITY] runs"),
        ("A man's hand", "[ENTITY]'s hand"),
        ("Panda the kid", "Panda [ENTITY]"),
        ("Cinema kid", "Cinema [ENTITY]"),  # no article inside a word
    ],
)
def test_article_and_punctuation_around_the_person(caption, expected):
    assert prompts.general_text(caption, 6) == expected


def test_captions_without_a_keyword_draw_again_from_the_first_six():
    caption = "Two men on a beach"
    first = prompts.general_texts(caption, random.Random(3))
    plain = [prompts.general_text(caption, index) for index in range(6)]
    assert first[:6] == plain
    assert len(first) == 11
    assert set(first[6:]) <= set(plain)
    assert first == prompts.general_texts(caption, random.Random(3))
    assert len({tuple(prompts.general_texts(caption, random.Random(seed))) for seed in range(20)}) > 10
    assert prompts.general_text(caption, 8) == plain[0]


def test_entity_texts():
    assert prompts.entity_texts() == [
        "An image with [ENTITY].",
        "An image with a person whose name is [ENTITY].",
        "[ENTITY].",
        "A picture of [ENTITY].",
        "[ENTITY] in the image.",
        "There is [ENTITY] in the picture.",
    ]


@pytest.mark.parametrize(
    ("configuration", "in_place", "in_front"),
    [
        ("names", "Ada Lovelace runs.", "An image with Ada Lovelace. A man runs."),
        ("conf1", "[TOK] runs.", "An image with [TOK]. A man runs."),
        ("conf2", "[TOK] Ada Lovelace runs.", "An image with [TOK] Ada Lovelace. A man runs."),
        ("conf3", "Ada Lovelace [TOK] runs.", "An image with Ada Lovelace [TOK]. A man runs."),
        (
            "conf4",
            "An image with [TOK]. Ada Lovelace runs.",
            "An image with [TOK]. An image with Ada Lovelace. A man runs.",
        ),
        ("conf5", "[TOK]. Ada Lovelace runs.", "[TOK]. An image with Ada Lovelace. A man runs."),
        ("conf6", "[TOK]. [TOK] runs.", "[TOK]. An image with [TOK]. A man runs."),
    ],
)
def test_expansions(configuration, in_place, in_front):
    assert prompts.expand(prompts.general_text("A man runs.", 6), configuration, "Ada_Lovelace") == in_place
    assert prompts.expand(prompts.general_text("A man runs.", 0), configuration, "Ada Lovelace") == in_front
    assert prompts.needs_face(configuration) == ("[TOK]" in in_place)
    assert prompts.needs_name(configuration) == ("Ada" in in_place)


def test_a_name_that_ends_in_a_dot_keeps_one():
    assert prompts.expand("[ENTITY]. A man runs.", "names", "King_Jr.") == "King Jr. A man runs."
    assert prompts.expand("[ENTITY]. A man runs.", "conf2", "King_Jr.") == "[TOK] King Jr. A man runs."
    assert prompts.expand("[ENTITY]. A man runs.", "conf3", "King_Jr.") == "King Jr. [TOK]. A man runs."


def test_configurations_and_what_they_need():
    assert prompts.CONFIGURATIONS == ("captions", "names", "conf1", "conf2", "conf3", "conf4", "conf5", "conf6")
    assert not prompts.needs_face("captions")
    assert not prompts.needs_name("captions")
    assert prompts.expand("[ENTITY].", "conf1") == "[TOK]."  # no name needed


def test_training_captions():
    rng = random.Random(0)
    assert prompts.training_caption(" A man  runs. ", "fixed", rng) == "An image with [TOK]. A man runs."
    multi = {prompts.training_caption("A man runs.", "multi", rng) for _ in range(200)}
    assert multi == {
        "An image with [TOK]. A man runs.",
        "An image containing [TOK]. A man runs.",
        "[TOK]. A man runs.",
        "A picture of [TOK]. A man runs.",
        "[TOK] in the image. A man runs.",
        "There is [TOK] in the picture. A man runs.",
    }
    in_place = {prompts.training_caption("A man runs.", "in_place", rng) for _ in range(100)}
    assert in_place == {"A man [TOK] runs.", "A [TOK] man runs.", "A [TOK] runs."}
    assert {prompts.training_caption("Men run.", "in_place", rng) for _ in range(200)} == {
        text.replace("A man runs.", "Men run.") for text in multi
    }
    assert prompts.training_caption("", "fixed", rng) == "An image with [TOK]."


def test_no_text_has_odd_spaces_or_punctuation():
    captions = [CAPTION, "man", "A man.", "the man ,  a ball", "Someone", "  Woman with a hat\n", "(a boy) waits"]
    for caption in captions:
        for text in prompts.general_texts(caption, random.Random(1)):
            assert text.count("[ENTITY]") == 1
            for configuration in prompts.CONFIGURATIONS[1:]:
                expanded = prompts.expand(text, configuration, "Ada_B._Lovelace")
                assert expanded == " ".join(expanded.split())
                assert ".." not in expanded and "[ENTITY]" not in expanded and "_" not in expanded


@pytest.mark.parametrize(
    "call",
    [
        lambda: prompts.training_caption("A man", "middle", random.Random(0)),
        lambda: prompts.general_text("A man", 11),
        lambda: prompts.expand("A man", "conf1"),
        lambda: prompts.expand("[ENTITY]", "conf7", "Ada"),
        lambda: prompts.expand("[ENTITY]", "captions", "Ada"),
        lambda: prompts.expand("[ENTITY]", "names", "_"),
        lambda: prompts.needs_face("conf0"),
    ],
)
def test_bad_input_is_an_error_of_this_project(call):
    with pytest.raises(IdClipError):
        call()
