"""Says once a process under which licence loaded face models may be used: the weights' licence is seldom the code's."""

import sys

_said: set[tuple[str, str]] = set()


def announce(models: str, note: str) -> None:
    """Print `note` about `models` on stderr, the first time only."""
    if (models, note) not in _said:
        _said.add((models, note))
        print(f"{models}: {note}.", file=sys.stderr)
