"""The console script: fast help, text kept as text, one sentence for bad input."""

import subprocess
import sys

import pytest

from open_clip_idplugin import cli
from open_clip_idplugin.errors import IdClipError

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


CALLS: list[tuple] = []
VERBS = {
    "record": cli.Verb(f"{HERE}:record", "record the call"),
    "refuse": cli.Verb(f"{HERE}:refuse", "refuse the input"),
    "extra": cli.Verb(f"{HERE}:needs_extra", "need an extra"),
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
        "print(sorted({'torch', 'open_clip', 'numpy', 'cv2', 'webdataset', 'fire'} & set(sys.modules)))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "[]"
    assert any("evaluate" in line for line in lines)
