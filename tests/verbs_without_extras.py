"""Run in a process of its own: every verb with the packages of an extra out of reach, JSON lines out.

Argument: a JSON file of {"calls": {verb: words}, "blocked": [[module, ...], ...], "configs": folder of model configs}. Each
set of modules is blocked in a fork, so that torch and open_clip are imported once.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path


class Blocked:
    """A finder that knows of no such package."""

    def __init__(self, modules):
        self.modules = set(modules)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def block(modules) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in modules:
            del sys.modules[name]
    sys.meta_path.insert(0, Blocked(modules))


def call(verb, words):
    from open_clip_idplugin import cli

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = cli.run(cli.VERBS, [verb, *words], "idclip")
        except BaseException:
            return 1, traceback.format_exc()[-1500:]
    return code, (errors.getvalue().splitlines() or [""])[-1]


def main(file: str) -> None:
    import open_clip

    import open_clip_idplugin.checkpoints.loading  # noqa: F401

    plan = json.loads(Path(file).read_text())
    open_clip.add_model_config(plan["configs"])
    for modules in plan["blocked"]:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            block(modules)
            for verb, words in plan["calls"].items():
                print(json.dumps([modules, verb, *call(verb, words)]), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
