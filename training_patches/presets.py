"""Recipes by name: `--id-preset paper` stands for the flags below, and flags that are given win over them.

Role: a command line in, the same command line with the preset's flags in front out.
"""

from __future__ import annotations

from collections.abc import Sequence

from open_clip_idplugin.errors import IdClipError

FLAG = "--id-preset"
NONE = "none"

# Name -> flags of the training command.
PRESETS: dict[str, str] = {
    # Messina et al., Towards Identity-Aware Cross-Modal Retrieval, ECIR 2025, arXiv 2412.21009, without visual prompts.
    "paper": "--lock-image --lock-text --id-adaptor-layers 1 --id-setup with_entities --id-caption fixed --id-temperature 0.07 "
    "--batch-size 32 --lr 5e-5 --wd 0.01 --beta2 0.999 --eps 1e-8 --lr-scheduler const --warmup 0",
}

# The preset of IdCLIP models where the command line names none; NONE for open_clip's defaults and ours.
DEFAULT = NONE

# A learning rate for a tower says that it is trained: the preset's lock of it goes.
_UNLOCKS = {"--id-lr-image": "--lock-image", "--id-lr-text": "--lock-text"}


def with_preset(arguments: Sequence[str], name: str | None, model: str) -> list[str]:
    """The command line with the flags of preset `name` in front (argparse takes the last of equal flags).

    name: what `--id-preset` says, None without it. model: of the command line. Raises IdClipError for an unknown preset.
    """
    chosen = name or (DEFAULT if model.startswith("IdCLIP-") else NONE)
    if chosen == NONE:
        return list(arguments)
    if chosen not in PRESETS:
        raise IdClipError(f"{FLAG} is {chosen!r}; it must be one of {', '.join((*PRESETS, NONE))}.")
    given = {argument.partition("=")[0] for argument in arguments}
    dropped = {lock for rate, lock in _UNLOCKS.items() if rate in given}
    return [*(word for word in PRESETS[chosen].split() if word not in dropped), *arguments]
