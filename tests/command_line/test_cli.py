"""The console script: fast help, text kept as text, one sentence for bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

from open_clip_idplugin import cli
from open_clip_idplugin.errors import HostMismatchError, IdClipError

HERE = __name__


def record(name: str, *photos: str, seed: int = 0, note: str | None = None) -> None:
    """A verb for the tests."""
    CALLS.append((name, photos, seed, note))


def refuse(path: str) -> None:
    """A verb whose input is bad."""
    raise IdClipError(f"{path} is missing; name a file that exists")


def needs_extra() -> None:
    """A verb whose extra is not installed."""
    raise ModuleNotFoundError("No module named 'insightface'", name="insightface")


def needs_host() -> None:
    """A verb whose host has moved on."""
    raise HostMismatchError("the plugin needs open_clip:gone")


def read(path: str) -> None:
    """A verb that reads a file without further ado."""
    Path(path).read_bytes()


def has_defect() -> None:
    """A verb with a defect."""
    raise ValueError("a defect")


CALLS: list[tuple] = []
VERBS = {
    "record": cli.Verb(f"{HERE}:record", "record the call"),
    "refuse": cli.Verb(f"{HERE}:refuse", "refuse the input"),
    "extra": cli.Verb(f"{HERE}:needs_extra", "need an extra"),
    "host": cli.Verb(f"{HERE}:needs_host", "need a host"),
    "read": cli.Verb(f"{HERE}:read", "read a file"),
    "defect": cli.Verb(f"{HERE}:has_defect", "have a defect"),
}


def run(*arguments: str) -> int:
    return cli.run(VERBS, arguments, "tool")


def test_text_arguments_stay_text():
    CALLS.clear()
    assert run("record", "007", "1,2.jpg", "True", "--seed", "3", "--note", "[a, b]") == 0
    assert CALLS == [("007", ("1,2.jpg", "True"), 3, "[a, b]")]


def test_bad_input_is_one_sentence(capsys):
    assert run("refuse", "x.tar") == 2
    assert capsys.readouterr().err == "tool refuse: x.tar is missing; name a file that exists\n"


def test_unknown_verb_names_the_known_ones(capsys):
    assert run("recrd") == 2
    assert "'recrd' is not a verb" in capsys.readouterr().err


def test_missing_extra_says_what_to_install(capsys):
    assert run("extra") == 2
    assert "open-clip-idplugin[faces]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["host"], "tool host: the plugin needs open_clip:gone"),
        (["read", "no/such"], "tool read: 'no/such': No such file or directory"),
    ],
)
def test_what_is_no_defect_is_one_sentence(words, sentence, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ValueError, match="a defect"):
        run("defect")


def test_asking_for_help_calls_nothing_wherever_the_flag_stands(capsys):
    CALLS.clear()
    assert run("record", "Alice", "--seed", "3", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: tool record NAME [PHOTOS ...] [FLAGS]") and not CALLS


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_exists_and_is_documented(verb):
    import importlib

    module, _, name = cli.VERBS[verb].target.partition(":")
    function = getattr(importlib.import_module(module), name)
    assert function.__doc__


def test_help_imports_nothing_heavy():
    """Seconds are not asserted; that no heavy library is loaded is, which is what makes the help fast."""
    code = (
        "import sys\n"
        "from open_clip_idplugin import cli\n"
        "cli.run(cli.VERBS, ['--help'], 'idclip')\n"
        "print(sorted({'torch', 'open_clip', 'numpy', 'cv2', 'webdataset'} & set(sys.modules)))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "[]"
    assert any("evaluate" in line for line in lines)


@pytest.mark.parametrize("verb", ["index", "evaluate", "export", "open"])
@pytest.mark.parametrize("place", ["s3://bucket/out", "nosuch://x"])
def test_a_url_where_a_verb_writes_on_this_machine_is_refused(verb, place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = {
        "index": ["--images", "a"],
        "evaluate": ["--data", "a", "--checkpoint", "c"],
        "export": ["--checkpoint", "c"],
        "open": ["a"],
    }
    words = [verb, *needed[verb], "--model", "ViT-B-32", "--output", place]
    assert cli.run(cli.VERBS, words, "idclip") == 2
    assert f"--output is a place on this machine, and '{place}' is a URL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_groups_the_verbs_by_what_people_want(capsys):
    assert cli.run(cli.VERBS, ["--help"], "idclip") == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Try it", "Make data", "Train and measure", "Search", "People", "This installation"]
    assert {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "} == set(cli.VERBS)
