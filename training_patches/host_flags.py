"""Host command line: open_clip_train's flags -> refusals of what its loop cannot take, and what a default recipe needs to know.

Role: values that the host divides by or hands on to a library that ends in a traceback, flags of which the open_clips have
one or another, and those that are read before the host's own parser does. Imports no host.
"""

import argparse
import importlib.util
import math
from collections.abc import Sequence

from open_clip_idplugin.errors import IdClipError

_CHANNELS = 3
# The host's numbers -> the least that they may be.
_LEAST = {
    "batch_size": 1, "accum_freq": 1, "log_every_n_steps": 1, "epochs": 0, "workers": 0, "seed": 0, "warmup": 0, "lr": 0.0,
    "wd": 0.0,
}  # fmt: skip

# What open_clip's main reads from a sample or a picture in another way; samples of identity shards have their own form.
_OTHER_MEMBERS = {
    "json_text_key": None, "text_key": "txt", "image_key": "jpg;png;jpeg;webp", "use_naflex": False, "length_bucketing": False,
}  # fmt: skip


def switch(args: argparse.Namespace, name: str) -> bool:
    """Whether a switch of the host is given, such as `horovod` or `fsdp`, which some open_clips do not have."""
    return bool(getattr(args, name, False))


def require_own_members(args: argparse.Namespace) -> None:
    """Refuse, for identity shards, flags of the host that would read them in another way and would do nothing here."""
    for name, default in _OTHER_MEMBERS.items():
        if getattr(args, name, default) != default:
            raise IdClipError(
                f"--{name.replace('_', '-')} is for captions without faces: shards with identities have members and batches of "
                "their own form; drop it."
            )


def require_host_values(args: argparse.Namespace) -> None:
    """Refuse numbers of the host's flags that it divides by, or hands on to a library that ends in a traceback."""
    for name, least in _LEAST.items():
        value = getattr(args, name, None)
        if value is not None and not least <= value < math.inf:
            raise IdClipError(f"--{name.replace('_', '-')} is {value}; it must be a number of at least {least}.")
    for name in ("image_mean", "image_std"):
        value = getattr(args, name, None)
        if value is not None and len(value) != _CHANNELS:
            raise IdClipError(f"--{name.replace('_', '-')} has {len(value)} numbers; it must have {_CHANNELS}.")
    # open_clip's main makes its optimizers in a module of their own, and has one more.
    known = ("adamw", "nadamw") if importlib.util.find_spec("open_clip_train.optim") else ("adamw",)
    if args.opt.lower() not in known and not args.opt.lower().startswith("timm/"):
        raise IdClipError(
            f"--opt is '{args.opt}'; open_clip knows {' and '.join(known)}, and timm/NAME for the optimizers of timm."
        )


def require_steps(args: argparse.Namespace, batches: int) -> None:
    """Refuse, before the first of `batches` in an epoch, what open_clip's loop takes without a step or divides by zero at.

    Batches beyond the last whole step of an epoch (`--accum-freq`) ask the schedule for the step behind the run's last.
    """
    an_epoch = batches // args.accum_freq
    steps = an_epoch * args.epochs
    if steps == 0 and args.epochs > 0:
        raise IdClipError(
            f"an epoch of {batches} batches has no step of --accum-freq {args.accum_freq} batches, so that nothing would be "
            "trained; lower --accum-freq or --batch-size, or raise --train-num-samples."
        )
    scheduled = args.lr_scheduler == "cosine" and not args.skip_scheduler
    if scheduled and args.warmup == steps and batches % args.accum_freq:
        raise IdClipError(
            f"--warmup is {args.warmup}, which is the number of steps of the run, and open_clip's cosine schedule divides by "
            "their difference; choose a shorter warm-up."
        )


def flags_before_parsing(arguments: Sequence[str]) -> argparse.Namespace:
    """What a default preset depends on, before the host parses its own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default="")
    parser.add_argument("--train-data", default=None)
    parser.add_argument("--dataset-type", default="auto")
    return parser.parse_known_args(list(arguments))[0]


def trains_on_shards(host: argparse.Namespace) -> bool:
    """Whether the host will train on webdataset shards (as its get_dataset_fn decides), or on a folder of them."""
    if host.dataset_type == "auto":
        return bool(host.train_data) and not host.train_data.endswith((".csv", ".tsv"))
    return bool(host.train_data) and host.dataset_type == "webdataset"
