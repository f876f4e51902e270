"""`python -m webdataset_tools VERB`: the data verbs of `idclip`, for machines that only prepare data."""

import sys

from open_clip_idplugin.cli import VERBS, run
from open_clip_idplugin.command_line.terminal import run_as_process

DATA_VERBS = ("miniature", "shards", "inspect", "faces")


def main() -> None:
    """Run the verb named on the command line and exit with its code."""
    verbs = {name: VERBS[name] for name in DATA_VERBS}
    run_as_process(lambda: run(verbs, sys.argv[1:], "python -m webdataset_tools"))


if __name__ == "__main__":
    main()
