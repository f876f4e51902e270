"""Training command: `python -m training_patches` with open_clip_train's flags and ours -> exit code.

Exit codes: 0 done, 1 the host refused to start (it says why), 2 bad input (one sentence on stderr).
"""

import sys
from collections.abc import Sequence

from open_clip_idplugin.command_line.missing_packages import require_extras
from open_clip_idplugin.command_line.terminal import BAD_INPUT, print_last_line, refusal, run_as_process
from open_clip_idplugin.hosts import patches as host_patches
from training_patches.host_rows import IMPORTED, PARAMS, offered_loop

PROGRAM = "python -m training_patches"


def main(arguments: Sequence[str]) -> int:
    """Train; see the module. A leading `--` is skipped: behind it torchrun does not mistake `--logs` for its own."""
    if list(arguments[:1]) == ["--"]:
        arguments = arguments[1:]
    try:
        return _train(arguments)
    except Exception as error:  # `refusal` tells bad input from a defect, which is raised again
        sentence = refusal(error)
        if sentence is None:
            raise
        print_last_line(PROGRAM, _last_sentence(sentence))
        return BAD_INPUT


def _train(arguments: Sequence[str]) -> int:
    require_extras("train")
    host_patches.verify((PARAMS,))
    import open_clip_train.params

    from training_patches import params

    # Parsed here for --help and for typing errors, which need not wait for open_clip to be imported.
    _args, options = params.parse_args(arguments, open_clip_train.params.parse_args)
    host_patches.verify(IMPORTED)  # before the modules that import these names
    loop = offered_loop(options.legacy_loop)
    from training_patches.training_run import TrainingRun

    return 1 if TrainingRun(loop)(arguments) == -1 else 0


def _last_sentence(text: str) -> str:
    # From a data worker the message comes with the worker's traceback, whose last line is the sentence.
    text = text.strip()
    return text.rpartition("\n")[2].partition("Error: ")[2] if "\n" in text else text


if __name__ == "__main__":
    sys.argv[0] = PROGRAM  # argparse shows it as the program's name
    run_as_process(lambda: main(sys.argv[1:]))
