"""Command-line parsing: types by annotation, switches, positions, and one sentence for what does not fit."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from open_clip_idplugin import cli
from open_clip_idplugin.command_line.verb_arguments import SharedFlag, bind, flags_of, help_text, with_flags
from open_clip_idplugin.errors import IdClipError


def verb(
    name: str,
    *photos: str,
    det_size: int | None = None,
    share: float = 0.5,
    crops: bool = True,
    note: str | None = None,
) -> dict[str, object]:
    """Do something.

    Args:
        name: of 100 % of them.
        photos: pictures.
        det_size: side, in
            pixels.
        crops: keep them.
    """
    return {"name": name, "photos": photos, "det_size": det_size, "share": share, "crops": crops, "note": note}


def two(index: str, output: str = "there", seed: int = 0) -> tuple[str, str, int]:
    """Take positions."""
    return index, output, seed


def call(*words: str, function=verb):
    return bind(function, words, "tool verb")()


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["A"], {}),
        (["--name", "A"], {}),
        (["A", "1.jpg", "--det-size=640", "2.jpg"], {"photos": ("1.jpg", "2.jpg"), "det_size": 640}),
        (["-d", "640", "A"], {"det_size": 640}),
        (["A", "--det_size", "None"], {"det_size": None}),
        (["A", "--nocrops", "1.jpg"], {"crops": False, "photos": ("1.jpg",)}),
        (["A", "--no-crops"], {"crops": False}),
        (["A", "--crops", "False"], {"crops": False}),
        (["A", "--crops=true", "--share", "-1e-3"], {"share": -0.001}),
        (["A", "--note", "None", "--", "--crops", "-1.jpg"], {"note": "None", "photos": ("--crops", "-1.jpg")}),
        (["A", "--note=-x", "-", "-1"], {"note": "-x", "photos": ("-", "-1")}),
    ],
)
def test_words_become_typed_arguments(words, changed):
    assert call(*words) == {**verb("A"), **changed}


def test_positions_are_taken_in_their_order_beside_flags():
    assert call("x", "7", "--output", "y", function=two) == ("x", "y", 7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["A", "--det_size", "1.5"], "--det_size is '1.5', and must be a whole number"),
        (["A", "--det_size", "x"], "--det_size is 'x', and must be a whole number"),
        (["A", "--det_size", str(2**63)], "must be a whole number"),
        (["A", "--share", "nan"], "--share is 'nan', and must be a number"),
        (["A", "--share=inf"], "must be a number"),
        (["A", "--share=None"], "must be a number"),
        (["A", "--crops=perhaps"], "--crops is 'perhaps', and must be True or False"),
        (["A", "--note"], r"--note needs a value \(one that begins with a dash is written --note=VALUE\)"),
        (["A", "--note", "--crops"], "--note needs a value"),
        (["A", "--det-siz", "3"], r"--det-siz is no flag of `tool verb` \(is --det_size meant\?\)"),
        (
            ["A", "--note", "a\udce9"],
            "--note is 'a\udce9', and must be text in UTF-8, or the name of something that is there",
        ),
        ([""], "--name is empty"),
        ([], "--name is missing"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words, sentence):
    with pytest.raises(IdClipError, match=sentence):
        call(*words)


@pytest.mark.parametrize("verb", ["serve", "faces"])
def test_more_threads_than_a_machine_can_have_are_refused(verb, capsys):
    assert cli.run(cli.VERBS, [verb, "x", "y", "--threads", "1025"], "idclip") == 2
    assert capsys.readouterr().err == f"idclip {verb}: --threads is 1025, and may be 1024 at most\n"


def test_one_value_too_many_is_refused_before_anything_is_done():
    with pytest.raises(IdClipError, match="'4' is one value too many"):
        call("x", "y", "3", "4", function=two)


def test_the_help_shows_flags_types_and_defaults():
    text = " ".join(help_text(verb, "tool verb").split())
    assert text.startswith("usage: tool verb NAME [PHOTOS ...] [FLAGS] Do something.")
    assert "--det_size DET_SIZE, --det-size DET_SIZE, -d DET_SIZE side, in pixels." in text
    assert "--crops True|False, -c True|False keep them. (default: True)" in text
    assert "of 100 % of them." in text and text.endswith("PHOTOS: pictures.")


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_every_flag_of_every_verb_has_a_text(name):
    function = cli.verb_function(cli.VERBS[name])
    documented = (function.__doc__ or "").partition("Args:")[2]
    assert [flag for flag in flags_of(function) if f"        {flag[2:]}: " not in documented] == []


def test_a_name_that_is_no_utf_8_may_name_what_is_there(tmp_path):
    path = tmp_path / "a\udce9"
    path.touch()
    assert call(str(path))["name"] == str(path)


FLAGS = (SharedFlag("notes", str | None, None, "anything worth knowing."), SharedFlag("limit", int, 3, "most of them."))
CALLS: list[tuple[object, ...]] = []


def remember(name: str, *photos: str, crops: bool = True, given: Mapping[str, object] = MappingProxyType({})) -> None:
    """Remember somebody.

    Args:
        name: who it is.
        photos: files.
        crops: keep pictures.
    """
    CALLS.append((name, photos, crops, given))


class TestSharedFlags:
    shared = staticmethod(with_flags(remember, FLAGS, dict))

    def test_they_are_flags_like_the_verbs_own(self):
        assert flags_of(self.shared) == ["--name", "--crops", "--notes", "--limit"]
        text = help_text(self.shared, "idclip remember")
        assert "anything worth knowing." in text and "(default: 3)" in text and "given" not in text
        bind(self.shared, ["Ada", "a.jpg", "b.jpg", "--notes", "poet", "--nocrops", "--limit=2"], "idclip remember")()
        assert CALLS.pop() == ("Ada", ("a.jpg", "b.jpg"), False, {"notes": "poet", "limit": 2})
        with pytest.raises(IdClipError, match="--limit is 'x', and must be a whole number"):
            bind(self.shared, ["Ada", "--limit=x"], "idclip remember")

    def test_called_from_python_it_gets_what_was_given(self):
        self.shared("Ada")
        assert CALLS.pop() == ("Ada", (), True, {})
        self.shared("Ada", "a.jpg", notes="poet")
        assert CALLS.pop() == ("Ada", ("a.jpg",), True, {"notes": "poet"})
        with pytest.raises(TypeError, match="given"):
            self.shared("Ada", given={})
