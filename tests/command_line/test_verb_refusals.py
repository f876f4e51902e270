"""Every verb, called with values of other types, with nothing, broken files and wrong words in the place of each of its flags.

Each call ends as it should (0) or in one sentence (2), never in a traceback; the sentence is the last line and names no flag
that the verb does not have.
"""

import os
import re
import shutil
import zlib

import pytest

pytest.importorskip("clip_retrieval")

from retrieval_fixtures import tiny_models  # noqa: F401
from verb_fixtures import CALLS, verb_world, words_of  # noqa: F401

from open_clip_idplugin import cli
from open_clip_idplugin.command_line.terminal import escape_output
from open_clip_idplugin.command_line.verb_arguments import Parameter, parameters_of

# They make data or train for minutes; what they are given is checked where their parts are tested.
LONG = ("demo", "miniature", "swap")
PROCESSES = ("workers",)  # a number that is taken starts as many
JUNK = (
    "groups.csv", "groups.json", "metadata.json", "index_card.json", "0.tar", "a.jpg", "image.index", "model.onnx",
    "open_clip_config.json", "faces.parquet", "embeddings.npy", "config.json", "identity_meta.csv",
)  # fmt: skip
NUMBERS = {int: ("-1", "0", str(2**63 - 1), "1000000"), float: ("-1", "2", "1e300")}
FLAG = re.compile(r"--[a-z][\w-]*")


def cases(kinds, without=(), unlike=()) -> list[tuple[str, Parameter]]:
    """Flags of these kinds of all verbs but those `without`, and but those called as in `unlike`."""
    return [
        (verb, parameter)
        for verb in CALLS
        if verb not in without
        for parameter in parameters_of(cli.verb_function(cli.VERBS[verb]))
        if parameter.kind in kinds and not parameter.variadic and parameter.name not in unlike
    ]


def flags_in(text: str) -> set[str]:
    """With underscores, which are taken for dashes too."""
    return {f"--{flag[2:].replace('-', '_')}" for flag in FLAG.findall(text)}


def name_of(value) -> str:
    return value if isinstance(value, str) else value.name


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> list[str]:
    """What may stand where a file, a folder or a word should."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty").touch()
    (folder / "garbage").write_bytes(bytes(range(256)) * 40)
    (folder / "list.json").write_text("[]")
    (folder / "loop").symlink_to(folder / "loop")
    for name, content in (("junk", b"\xff\xfe junk"), ("lists", b"[]"), ("nothing", None)):
        (folder / name).mkdir()
        for file in JUNK if content else ():
            (folder / name / file).write_bytes(content)
    (folder / os.fsdecode(b"caf\xe9")).mkdir()
    made = sorted(map(str, folder.iterdir()))
    return [
        *made,
        str(folder / "garbage" / "below"),
        "/nowhere/at/all",
        "nonsense",
        "",
        "n" * 300,
        "nosuch://x/y",
        "{0..",
        "*",
    ]


@pytest.fixture
def call(verb_world, tmp_path, monkeypatch, capsys):  # noqa: F811
    """A function: verb, parameter and value in the place of a good one -> exit code; asserts on what was said."""
    monkeypatch.chdir(tmp_path)
    from open_clip_idplugin.retrieval.service.web_server import WebServer

    monkeypatch.setattr(
        WebServer, "run_until_stopped", lambda server: server.stop() if hasattr(server, "stop") else None
    )
    escape_output()

    def run(verb: str, parameter: Parameter, value: str) -> int:
        here = tmp_path / "world"
        shutil.copytree(verb_world["index"], here / "index")
        shutil.copy(verb_world["gallery"], here / "gallery.sqlite")
        world = {**verb_world, "index": str(here / "index"), "gallery": str(here / "gallery.sqlite")}
        words = with_value(words_of(verb, world, here / "new"), verb, parameter, value)
        capsys.readouterr()
        code = cli.run(cli.VERBS, [verb, *words], "idclip")
        said = capsys.readouterr().err.splitlines()
        shutil.rmtree(here)
        if code:
            assert code == 2 and said[-1].startswith(f"idclip {verb}: "), said[-5:]
            own = {known.flag for known in parameters_of(cli.verb_function(cli.VERBS[verb]))}
            assert flags_in(re.sub(r"`[^`]*`", "", said[-1])) - flags_in(" ".join(words)) <= own, said[-1]
        return code

    return run


def with_value(words: list[str], verb: str, parameter: Parameter, value: str) -> list[str]:
    """The words of a good call, with another value of one parameter."""
    given = f"{parameter.flag}={value}"
    if parameter.flag in words:
        at = words.index(parameter.flag)
        return [*words[:at], given, *words[at + 2 :]]
    required = [each.name for each in parameters_of(cli.verb_function(cli.VERBS[verb])) if each.required]
    place = required.index(parameter.name) if parameter.name in required else len(words)
    if place < len(words) and not words[0].startswith("--"):
        return [*words[:place], given, *words[place + 1 :]]
    return [*words, given]


@pytest.mark.parametrize(("verb", "parameter"), cases((int, float, bool)), ids=name_of)
def test_a_value_of_another_type_is_refused(call, verb, parameter):
    assert call(verb, parameter, "x") == 2


@pytest.mark.parametrize(("verb", "parameter"), cases((str,), LONG), ids=name_of)
def test_something_broken_is_one_sentence(call, broken, verb, parameter):
    call(verb, parameter, broken[zlib.crc32(f"{verb} {parameter.name}".encode()) % len(broken)])


@pytest.mark.parametrize(("verb", "parameter"), cases((int, float), (*LONG, "evaluate"), PROCESSES), ids=name_of)
def test_a_number_out_of_range_is_one_sentence(call, verb, parameter):
    values = NUMBERS[parameter.kind]
    call(verb, parameter, values[zlib.crc32(f"{verb} {parameter.name}".encode()) % len(values)])


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "parameter"), cases((str, int, float), LONG, PROCESSES), ids=name_of)
def test_all_values_of_all_flags(call, broken, verb, parameter):
    for value in broken if parameter.kind is str else NUMBERS[parameter.kind]:
        call(verb, parameter, value)
