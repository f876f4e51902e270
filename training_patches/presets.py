"""Training presets: command line -> the same with the flags of a named recipe in front.

Role: `--id-preset paper` stands for the flags below; flags that are given win over them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from open_clip_idplugin.errors import IdClipError

FLAG = "--id-preset"
NONE = "none"
_FLAG = re.compile(r"--\S+(?: [^-]\S*)?")  # a flag with its value, or a switch
_SHARE = "*lr"  # ends a rate that is a share of `--lr`: whoever changes that means the whole recipe

# Five is what a release has: so many people a scene.
_SCENES = (
    "--id-caption fixed --id-temperature 0.07 --id-batch-groups scene --id-group-size 5 "
    "--batch-size 128 --wd 0.01 --warmup 500"
)

# Name -> flags of the training command.
PRESETS: dict[str, str] = {
    # Messina et al., Towards Identity-Aware Cross-Modal Retrieval, ECIR 2025, arXiv 2412.21009, without visual prompts.
    "paper": "--lock-image --lock-text --id-adaptor-layers 1 --id-setup with_entities --id-caption fixed --id-temperature 0.07 "
    "--batch-size 32 --lr 5e-5 --wd 0.01 --beta2 0.999 --eps 1e-8 --lr-scheduler const --warmup 0",
    # docs/recipe.md: the paper's adaptor with scene groups. The image tower stays, and with it every plain-CLIP index.
    "scenes": f"--lock-image --lock-text {_SCENES}",
    # docs/recipe.md: what tells unseen people apart best. Both towers are trained too: images must be indexed anew.
    "unseen-people": f"--lr 5e-5 --id-lr-image 0.3{_SHARE} --id-lr-text 0.1{_SHARE} {_SCENES} "
    "--id-setup with_entities=1,only_entities=0.3 --id-face-noise 1",
}

# The preset of IdCLIP models trained on shards where the command line names none; NONE for open_clip's defaults and ours.
DEFAULT = "unseen-people"

# A learning rate for a tower says that it is trained: the preset's lock of it goes.
_UNLOCKS = {"--id-lr-image": "--lock-image", "--id-lr-text": "--lock-text"}

# A flag -> a flag of a preset that means nothing beside another value of it.
_GOES_WITH = {
    "--id-batch-groups": "--id-group-size",
    "--id-setup": "--id-face-noise",
    "--lock-image": "--id-lr-image",
    "--id-cache-images": "--id-lr-image",
    "--lock-text": "--id-lr-text",
}


def with_preset(arguments: Sequence[str], name: str | None, by_default: bool) -> list[str]:
    """The command line with the flags of preset `name` in front (argparse takes the last of equal flags).

    name: what `--id-preset` says, None without it. by_default: whether it trains a model that takes faces on webdataset
    shards, which the default preset is for. Raises IdClipError for an unknown preset.
    """
    chosen = name or (DEFAULT if by_default else NONE)
    if chosen == NONE:
        return list(arguments)
    if chosen not in PRESETS:
        raise IdClipError(f"{FLAG} is {chosen!r}; it must be one of {', '.join((*PRESETS, NONE))}.")
    given = {argument.partition("=")[0] for argument in arguments}
    dropped = {lock for rate, lock in _UNLOCKS.items() if rate in given}
    dropped |= {other for flag, other in _GOES_WITH.items() if flag in given}
    flags = [flag.split() for flag in _FLAG.findall(PRESETS[chosen])]
    rate = _learning_rate([*(word for flag in flags for word in flag), *arguments])
    kept = (_resolved(word, rate) for flag in flags if flag[0] not in dropped for word in flag)
    return [FLAG, chosen, *kept, *arguments]


def _learning_rate(arguments: Sequence[str]) -> float:
    """The `--lr` that holds; 1 where it is no number, which the host's parser then says."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--lr", default="1")
    try:
        return float(parser.parse_known_args(list(arguments))[0].lr)
    except ValueError:
        return 1.0


def _resolved(word: str, rate: float) -> str:
    return f"{float(word.removesuffix(_SHARE)) * rate:.6g}" if word.endswith(_SHARE) else word
