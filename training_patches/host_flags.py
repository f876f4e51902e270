"""Host command line: open_clip_train's flags -> refusals of what its loop cannot take, and what a default recipe needs to know.

Role: values that the host divides by or hands on to a library that ends in a traceback, and the flags that it reads before
its own parser does. Imports no host.
"""

import argparse
import math
from collections.abc import Sequence

from open_clip_idplugin.errors import IdClipError

_CHANNELS = 3
# The host's numbers -> the least that they may be.
_LEAST = {
    "batch_size": 1, "accum_freq": 1, "log_every_n_steps": 1, "epochs": 0, "workers": 0, "seed": 0, "warmup": 0, "lr": 0.0,
    "wd": 0.0,
}  # fmt: skip


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
    if args.opt.lower() != "adamw" and not args.opt.lower().startswith("timm/"):
        raise IdClipError(f"--opt is '{args.opt}'; open_clip knows adamw, and timm/NAME for the optimizers of timm.")


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
