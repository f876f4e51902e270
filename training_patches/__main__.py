"""`python -m training_patches`: open_clip_train's command with the `--id-*` flags. Command line in, exit code out.

Exit codes: 0 done, 1 the host refused to start (it says why), 2 bad input (one sentence on stderr).
"""

import sys
from collections.abc import Sequence

from open_clip_idplugin.errors import IdClipError

PROGRAM = "python -m training_patches"
_INSTALL = "pip install 'open-clip-idplugin[train]'"


def main(arguments: Sequence[str]) -> int:
    """Train; see the module. A leading `--` is skipped: behind it torchrun does not mistake `--logs` for its own."""
    if list(arguments[:1]) == ["--"]:
        arguments = arguments[1:]
    try:
        return _train(arguments)
    except IdClipError as error:
        print(f"{PROGRAM}: {_sentence(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("open_clip_train", "webdataset", "pandas", "braceexpand"):
            raise
        print(f"{PROGRAM}: training needs the package '{error.name}': {_INSTALL}", file=sys.stderr)
        return 2


def _train(arguments: Sequence[str]) -> int:
    import open_clip_train.params

    from training_patches import params

    # Parsed here for --help and for typing errors, which need not wait for open_clip to be imported.
    params.parse_args(arguments, open_clip_train.params.parse_args)
    from training_patches.host_rows import TrainingRun

    return 1 if TrainingRun()(arguments) == -1 else 0


def _sentence(error: IdClipError) -> str:
    # From a data worker the message comes with the worker's traceback, whose last line is the sentence.
    text = str(error).strip()
    return text.rpartition("\n")[2].partition("Error: ")[2] if "\n" in text else text


if __name__ == "__main__":
    sys.argv[0] = PROGRAM  # argparse shows it as the program's name
    sys.exit(main(sys.argv[1:]))
