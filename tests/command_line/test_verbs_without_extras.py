"""Every verb where an extra is not installed: it works without it, or says in one sentence what to install."""

import json
import os
import subprocess
import sys

import pytest
from places import FIXTURES

pytest.importorskip("clip_retrieval")

from retrieval_fixtures import tiny_models  # noqa: F401
from verb_fixtures import CALLS, verb_world, words_of  # noqa: F401

from open_clip_idplugin.cli import VERBS
from open_clip_idplugin.command_line.missing_packages import EXTRAS, install_command

LONG = ("miniature", "swap")
SETS = {
    extra: sorted(module for module, brings in EXTRAS.items() if brings == extra)
    for extra in ("train", "faces", "serve")
}


@pytest.fixture(scope="module")
def answers(verb_world, tiny_models, tmp_path_factory) -> dict[tuple[str, str], tuple[int, str]]:  # noqa: F811
    """(extra, verb) -> exit code and the last line of stderr."""
    folder = tmp_path_factory.mktemp("without")
    calls = {verb: words_of(verb, verb_world, folder / f"new_{verb}") for verb in CALLS if verb not in LONG}
    calls["search"] = ["blocks", "--url", "http://127.0.0.1:9"]
    calls["inspect"] = [f"{verb_world['shards']}/{{00000..00000}}.tar"]
    for verb in ("shards", "faces"):  # their processes would start; the place is refused behind the imports
        calls[verb] += [f"--output={verb_world['photo']}/new"]
    calls["serve"] += ["--threads", "0"]  # ends before it serves
    plan = folder / "plan.json"
    plan.write_text(
        json.dumps(
            {"calls": calls, "blocked": list(SETS.values()), "configs": str(tiny_models.plain.parent / "configs")}
        )
    )
    script = FIXTURES / "verbs_without_extras.py"
    run = subprocess.run([sys.executable, script, plan], capture_output=True, text=True, cwd=folder, env=os.environ)
    assert run.returncode == 0, run.stderr
    lines = map(json.loads, run.stdout.splitlines())
    names = {tuple(modules): extra for extra, modules in SETS.items()}
    return {(names[tuple(modules)], verb): (code, line) for modules, verb, code, line in lines}


def enough(extra: str, verb: str) -> str:
    """What suffices for a verb: of the packages of `serve` some need those of `search` alone."""
    return VERBS[verb].extra or extra if extra == "serve" else extra


@pytest.mark.parametrize("extra", SETS)
def test_every_verb_works_or_says_what_to_install(answers, extra):
    found = {verb: answer for (blocked, verb), answer in answers.items() if blocked == extra}
    assert set(found) == set(CALLS) - set(LONG)
    assert {verb: line for verb, (code, line) in found.items() if code not in (0, 2)} == {}
    assert {
        verb: line for verb, (code, line) in found.items() if code and not line.startswith(f"idclip {verb}: ")
    } == {}
    needing = {verb: line for verb, (_, line) in found.items() if "not installed" in line}
    assert needing and all(install_command(enough(extra, verb)) in line for verb, line in needing.items())


@pytest.mark.parametrize(
    ("extra", "verb"),
    [("train", "inspect"), ("serve", "search"), ("serve", "index"), ("faces", "enroll"), ("train", "evaluate")],
)
def test_these_verbs_need_an_extra(answers, extra, verb):
    code, line = answers[extra, verb]
    assert code == 2 and line.endswith(install_command(enough(extra, verb)))


@pytest.mark.parametrize("extra", SETS)
def test_the_demo_names_all_packages_that_lack_at_its_start(answers, extra):
    code, line = answers[extra, "demo"]
    assert code == 2 and all(module in line for module in SETS[extra])
