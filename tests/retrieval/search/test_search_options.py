"""Flags of `idclip search` that are fields of a request: each reaches its field, with the schema's bounds in the help."""

import pytest

pytest.importorskip("pydantic")

from open_clip_idplugin.command_line.verb_arguments import bind, flags_of, help_text
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.ranking.knn_request import parse_request
from open_clip_idplugin.retrieval.search import command as verb
from open_clip_idplugin.retrieval.search.search_options import CLAUSE, RULES


@pytest.fixture
def sent(monkeypatch):
    """What `idclip search WORDS --url ...` sends."""

    def send(*words):
        bodies = []
        monkeypatch.setattr(
            verb, "search_service", lambda url, query, **rest: bodies.append(query.to_json(False)) or []
        )
        bind(verb.search, ["a horse", "--url", "http://here", *words], "idclip search")()
        return bodies[0]

    return send


def test_every_flag_reaches_its_field(sent):
    words = {
        "fusion": "filter",
        "person_as": "words",
        "offset": "3",
        "collapse": "near_duplicates",
        "negative_text": "x",
    }
    given = {name: words.get(name, "0.5") for name in RULES}
    body = sent(*(f"--{name}={value}" for name, value in given.items()))
    assert {name: str(body[name]) for name in RULES} == given
    request = parse_request(body)
    assert all(str(getattr(request, name)) == value for name, value in given.items())
    assert sent() == {"text": "a horse", "faces": [], "identities": [], "num_images": 20, "include_images": False}


def test_people_and_conditions(sent):
    body = sent("--all", 'Ada Lovelace, "Hopper, Grace"', "--none=Nobody", "--only", "--where", "year=1900..1950")
    assert body["people"] == {"all": ["Ada Lovelace", "Hopper, Grace"], "none": ["Nobody"], "only": True}
    assert body["filters"] == {"year": {"min": "1900", "max": "1950"}}
    assert "people" not in sent("--noonly")


def test_the_help_is_the_schema():
    text = " ".join(help_text(verb.search, "idclip search").split())
    assert {f"--{name}" for name in (*CLAUSE, *RULES)} <= set(flags_of(verb.search))
    assert "weight of the face in the score (0 to 100)" in text
    assert "one score; where there are people and faces, the weighted sum by default (weighted, reciprocal_rank" in text
    assert "are taken for one (by default 0.001)" in text and "in place of --fmr" in text


def test_a_word_that_is_no_number_is_refused_by_name():
    with pytest.raises(IdClipError, match="--fmr is 'low', and must be a number"):
        bind(verb.search, ["a horse", "--fmr", "low"], "idclip search")
