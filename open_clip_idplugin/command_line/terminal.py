"""The end of a console script: a function that returns an exit code -> the end of this process, with the last word kept last.

Role: whoever runs a verb by its function, in tests or notebooks, keeps streams and logging as they are; only a process of
its own ends here.
"""

import io
import logging
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from open_clip_idplugin.command_line.missing_packages import missing_sentence
from open_clip_idplugin.errors import HostMismatchError, IdClipError

BAD_INPUT = 2
_LONGEST = 200  # characters of a text that is shown
_CLOSED_PIPE = 141  # as a shell says of a program that ended by SIGPIPE


def refusal(error: BaseException, extra: str | None = None) -> str | None:
    """The sentence for the user where `error` is no defect: bad input, an unknown host, a missing package, a disk's refusal.

    extra: that suffices for what was called (see `missing_sentence`).
    """
    if isinstance(error, IdClipError | HostMismatchError):
        return str(error)
    if isinstance(error, ImportError):
        return missing_sentence(error, extra)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return (
            f"the name {error.object[:_LONGEST]!r} is no UTF-8, as it must be to be written down; rename what it names"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of pathlib, before Python 3.13
        return f"{error}: give the place itself"
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, BrokenPipeError):
        return (
            f"{os.fsdecode(error.filename)!r}: {error.strerror or error}"
            if not isinstance(error.filename, int)
            else None
        )
    return None


def print_last_line(program: str, sentence: str) -> None:
    """Write the last line on stderr; what is no UTF-8 in it (a file's name) is written with escapes."""
    sys.stdout.flush()
    print(f"{program}: {sentence}".encode(errors="backslashreplace").decode(), file=sys.stderr)


def escape_output() -> None:
    """Let stdout and stderr take every name of a file, also one that is no UTF-8 or that the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_as_process(work: Callable[[], int]) -> NoReturn:
    """Do `work` and leave with its exit code; quietly where nobody reads on (`| head`)."""
    escape_output()
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        if not any(map(_nobody_reads, (1, 2))):
            raise
        code = _leave_pipe()
    logging.disable(logging.WARNING)  # torch logs statistics of its caches when a process ends
    sys.exit(code)


def _nobody_reads(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave_pipe() -> int:
    """Let what is still in the buffers go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in filter(_nobody_reads, (1, 2)):
        os.dup2(nowhere, descriptor)
    return _CLOSED_PIPE
