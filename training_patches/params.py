"""The `--id-*` flags: a command line in, one frozen dataclass and the host's own namespace out.

Role: every flag of this project's training has its name, type, default and help in `IdentityOptions`; whatever else
stands on the command line belongs to open_clip_train and is parsed by it.
"""

import argparse
import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.prompts import CONFIGURATIONS, TRAINING_SETTINGS

HostParser = Callable[[Sequence[str]], argparse.Namespace]

LEARNED = "learned"
FROM_CHECKPOINT = "checkpoint"


def _flag(default: Any, text: str, **argparse_options: Any) -> Any:
    """A dataclass field that is also a flag: `text` is its help, the rest goes to `add_argument`."""
    return field(default=default, metadata={"help": text, **argparse_options})


@dataclass(frozen=True)
class IdentityOptions:
    """What this project adds to open_clip_train's flags; field `val_data` is the flag `--id-val-data`."""

    caption: str = _flag("multi", "how a caption mentions the person: " + ", ".join(TRAINING_SETTINGS))
    face_dropout: float = _flag(0.0, "share of the items whose caption stays plain and has no face, 0 to 1", type=float)
    temperature: str = _flag(
        LEARNED,
        f"'{LEARNED}' (open_clip's way), '{FROM_CHECKPOINT}' (frozen as loaded) or a frozen number (paper: 0.07)",
    )
    val_data: str | None = _flag(None, "shards of people who are not in the training data, validated as retrieval")
    val_configuration: str = _flag("conf1", "how validation queries mention the person: " + ", ".join(CONFIGURATIONS))
    val_templates: str = _flag(
        "0", "caption templates of the validation queries: 'all' (11 a caption) or numbers as 0 or 0,6"
    )
    val_stride: int = _flag(1, "validate on every n-th image only", type=int)
    val_frequency: int = _flag(1, "validate after every n-th epoch, and after the last", type=int)
    save_best: str | None = _flag(
        None, "keep best.pt, the weights with the highest METRIC so far (t2i_sum where none is named)",
        nargs="?", const="t2i_sum", metavar="METRIC",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse a value that cannot be meant; raises IdClipError naming the flag."""
        _require(self.caption in TRAINING_SETTINGS, "caption", self.caption, f"one of {', '.join(TRAINING_SETTINGS)}")
        _require(0 <= self.face_dropout <= 1, "face_dropout", self.face_dropout, "a share between 0 and 1")
        _require(
            self.val_configuration in CONFIGURATIONS,
            "val_configuration", self.val_configuration, f"one of {', '.join(CONFIGURATIONS)}",
        )  # fmt: skip
        _require(self.val_stride > 0, "val_stride", self.val_stride, "a number of images of at least 1")
        _require(self.val_frequency > 0, "val_frequency", self.val_frequency, "a number of epochs of at least 1")
        _require(
            self.temperature in (LEARNED, FROM_CHECKPOINT) or _is_temperature(self.temperature),
            "temperature", self.temperature, f"'{LEARNED}', '{FROM_CHECKPOINT}' or a number of at least 0.01",
        )  # fmt: skip
        if self.save_best is not None and self.val_data is None:
            raise IdClipError("--id-save-best compares validation results; name the shards of them with --id-val-data.")

    @property
    def frozen_log_scale(self) -> float | None:
        """What open_clip's `logit_scale` is to be frozen at, ln(1 / temperature); None keeps its value."""
        return None if self.temperature in (LEARNED, FROM_CHECKPOINT) else -math.log(float(self.temperature))

    def changed_flags(self) -> list[str]:
        """The flags that do not have their default, such as `--id-caption`."""
        return [flag_name(f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]


def flag_name(name: str) -> str:
    """`val_data` -> `--id-val-data`."""
    return "--id-" + name.replace("_", "-")


def parse_args(arguments: Sequence[str], host_parse_args: HostParser) -> tuple[argparse.Namespace, IdentityOptions]:
    """Split the command line between `IdentityOptions` and the host's parser.

    Ours are added to the host's namespace as `id_<name>`, so that the host records them with the run. Raises
    IdClipError on a value that `IdentityOptions` refuses, and exits as argparse does on a flag that neither side knows.
    """
    parser = _parser()
    if {"-h", "--help"} & set(arguments):
        print(_help(parser, host_parse_args))
        parser.exit()
    ours, rest = parser.parse_known_args(list(arguments))
    options = IdentityOptions(**vars(ours))
    args = host_parse_args(rest)
    if options.save_best and (args.logs or "none").lower() == "none":
        raise IdClipError("--id-save-best writes into the run's folder; name a folder with --logs instead of 'none'.")
    for name, value in dataclasses.asdict(options).items():
        setattr(args, f"id_{name}", value)
    return args, options


def _parser() -> argparse.ArgumentParser:
    # Without abbreviations: '--id-val' must not be taken for one of ours, nor '--i...' of the host's.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group("identities (only for models with an identity_cfg)")
    for option in dataclasses.fields(IdentityOptions):
        settings = dict(option.metadata)
        shown = "" if option.default is None else f" (default: {option.default})"
        settings["help"] += shown
        group.add_argument(flag_name(option.name), dest=option.name, default=option.default, **settings)
    return parser


def _help(parser: argparse.ArgumentParser, host_parse_args: HostParser) -> str:
    host_help = io.StringIO()
    with contextlib.redirect_stdout(host_help), contextlib.suppress(SystemExit):
        host_parse_args(["--help"])
    return f"{host_help.getvalue()}\n{parser.format_help().strip()}"


def _is_temperature(text: str) -> bool:
    # open_clip clamps logit_scale to ln(100) after every step, which is a temperature of 0.01.
    try:
        return 0.01 <= float(text) < math.inf
    except ValueError:
        return False


def _require(fine: bool, name: str, value: object, allowed: str) -> None:
    if not fine:
        raise IdClipError(f"{flag_name(name)} is {value!r}; it must be {allowed}.")
