"""The command that a verb proposes at its end: a verb, its values and flags -> one line that a shell takes as it stands.

Flags that were given are repeated, those that were not are left out; a place for the user's own word is written in capitals.
"""

import shlex
from collections.abc import Mapping

from open_clip_idplugin.command_line.devices import AUTO

# What needs no flag, because every verb takes it where nothing is said.
_DEFAULTS: Mapping[str, object] = {"device": AUTO, "precision": "fp32"}


def command(verb: str, *values: str, **flags: object) -> str:
    """`idclip VERB VALUES --flag value`; flags that are None, False, empty or a default of all verbs stay away."""
    words = ["idclip", verb, *values]
    for name, value in flags.items():
        if value in (None, False, "") or value == _DEFAULTS.get(name):
            continue
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def search_or_serve(**flags: object) -> str:
    """The two things to do with an index."""
    return f"Next: {command('search', 'TEXT', **flags)}\n  or: {command('serve', **flags)}"
