"""Sentences of errors name flags that there are, and those of a verb's own module flags of that verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from open_clip_idplugin import cli
from open_clip_idplugin.command_line.verb_arguments import flags_of

FLAG = re.compile(r"(?<![\w`-])--([a-z][\w-]*)")
PACKAGES = ("open_clip_idplugin", "webdataset_tools")
# Of other programs, and of the plugin's training command, which these two packages may speak of.
ELSEWHERE = {"use_jit"}


def flags_in(text: str) -> set[str]:
    """Flags of a sentence, but those of whole commands in it."""
    return {found.replace("-", "_") for found in FLAG.findall(re.sub(r"`[^`]*`", "", text))}


def sentences(tree: ast.AST) -> Iterator[str]:
    """Texts of what is raised; what is put into them is left open."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            texts = [
                part for part in ast.walk(node.exc) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            yield "".join(part.value for part in texts)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def verbs_of(module: str) -> set[str]:
    """Flags of all verbs whose function stands in a module."""
    functions = [cli.verb_function(verb) for verb in cli.VERBS.values() if verb.target.partition(":")[0] == module]
    return {flag[2:] for function in functions for flag in flags_of(function)}


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {flag[2:] for verb in cli.VERBS.values() for flag in flags_of(cli.verb_function(verb))} | ELSEWHERE


def test_every_flag_in_a_sentence_is_one_of_a_verb(known):
    unknown = {}
    for path in sources():
        for sentence in sentences(ast.parse(path.read_text())):
            if extra := flags_in(sentence) - known:
                unknown[f"{path.name}: {sentence[:60]}"] = extra
    assert unknown == {}


@pytest.mark.parametrize("module", sorted({verb.target.partition(":")[0] for verb in cli.VERBS.values()}))
def test_the_module_of_a_verb_names_flags_of_that_verb(module):
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    own = verbs_of(module) | ELSEWHERE
    assert {sentence[:80]: extra for sentence in sentences(tree) if (extra := flags_in(sentence) - own)} == {}


def test_a_sentence_is_read_with_what_stands_around_its_values():
    tree = ast.parse("raise E(f'--a {x} is no --b-c; say `idclip y --z`, or pass' '--d')")
    assert [flags_in(sentence) for sentence in sentences(tree)] == [{"a", "b_c"}]
