"""Licence notices: a loaded face model -> one line on stderr, once a process; weights' licences are seldom the code's."""

import sys

UNKNOWN_LICENCE = "its licence is its makers'; see it before any use"
_said: set[tuple[str, str]] = set()
_state = {"quiet": False}


def keep_quiet() -> None:
    """Say nothing in this process: a worker whose parent has said it."""
    _state["quiet"] = True


def announce(models: str, note: str) -> None:
    """Print `note` about `models` on stderr, the first time only."""
    if (models, note) not in _said and not _state["quiet"]:
        _said.add((models, note))
        print(f"{models}: {note}.", file=sys.stderr)
