"""Training flags: command line -> `IdentityOptions` (our `--id-*` flags, frozen) and the host's own namespace.

Role: every flag of this project's training has its name, type, default and help in `IdentityOptions`; whatever else
stands on the command line belongs to open_clip_train and is parsed by it.
"""

import argparse
import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.own_models import takes_faces
from open_clip_idplugin.prompts import CONFIGURATIONS, TRAINING_SETTINGS
from training_patches.host_flags import flags_before_parsing, require_host_values, switch, trains_on_shards
from training_patches.model_options import add_model_flags, take_model_options
from training_patches.presets import DEFAULT, NONE, PRESETS, with_preset
from training_patches.setups import (
    CROSS_ENTROPY,
    ENTITY_LOSSES,
    FALSE_NEGATIVES,
    KEEP,
    ONLY_ENTITIES,
    SETUPS,
    WITH_ENTITIES,
    TermOptions,
    loss_terms,
    parse_setups,
)

HostParser = Callable[[Sequence[str]], argparse.Namespace]

LEARNED = "learned"
FROM_CHECKPOINT = "checkpoint"

NO_GROUPS = "none"
GROUPS = (NO_GROUPS, "identity", "scene")  # the last two are words of training_patches.grouping
CACHE_DTYPES = ("float16", "float32")


def _flag(default: Any, text: str, **argparse_options: Any) -> Any:
    """A dataclass field that is also a flag: `text` is its help, the rest goes to `add_argument`."""
    return field(default=default, metadata={"help": text, **argparse_options})


@dataclass(frozen=True)
class IdentityOptions:
    """What this project adds to open_clip_train's flags; field `val_data` is the flag `--id-val-data`."""

    preset: str | None = _flag(
        None,
        f"recipe whose flags hold where the command line has none of its own: {', '.join((*PRESETS, NONE))} (default on shards, "
        f"for IdCLIP models: {DEFAULT})",
    )
    caption: str = _flag("multi", "how a caption mentions the person: " + ", ".join(TRAINING_SETTINGS))
    hidden_token: bool = _flag(
        False,
        "read captions as the reference's tokenizer does: a placeholder directly behind a sign, as in '([TOK])', is no person",
        action="store_true",
    )
    setup: str = _flag(
        WITH_ENTITIES,
        f"what an image is trained with: {', '.join(SETUPS)}, or several with weights as with_entities=1,only_entities=0.1",
    )
    entity_loss: str = _flag(
        CROSS_ENTROPY, f"loss of the setup {ONLY_ENTITIES}, whose targets are all images of the person: "
        + ", ".join(ENTITY_LOSSES),
    )  # fmt: skip
    false_negatives: str = _flag(
        KEEP,
        "what becomes of pairs of the batch that match though they do not belong together, such as another caption of "
        "the same picture: " + ", ".join(FALSE_NEGATIVES),
    )
    batch_groups: str = _flag(NO_GROUPS, "what part of a batch has in common: " + ", ".join(GROUPS))
    group_share: float = _flag(0.5, "share of a batch that comes in groups, 0 to 1", type=float)
    group_size: int = _flag(4, "items of a group at most", type=int)
    group_buffer: int = _flag(5000, "samples among which a worker finds groups", type=int)
    lr_image: float | None = _flag(None, "learning rate of the image tower's own weights (else --lr)", type=float)
    lr_text: float | None = _flag(None, "learning rate of the text tower's own weights (else --lr)", type=float)
    cache_images: str | None = _flag(
        None,
        "folder of image features, made where they are missing and used in place of the image tower",
        metavar="DIR",
    )
    cache_dtype: str = _flag("float16", "numbers of the cached features: " + ", ".join(CACHE_DTYPES))
    face_dropout: float = _flag(0.0, "share of the items whose caption stays plain and has no face, 0 to 1", type=float)
    face_noise: float = _flag(
        0.0, "length of the noise that is added to every unit face embedding, drawn anew each time", type=float
    )
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
    legacy_loop: bool = _flag(
        False,
        "train with open_clip's former loop (open_clip_train.legacy_main), where the installed one has a newer loop beside it",
        action="store_true",
    )
    save_best: str | None = _flag(
        None, "keep best.pt, the weights with the highest METRIC so far (t2i_sum where none is named)",
        nargs="?", const="t2i_sum", metavar="METRIC",
    )  # fmt: skip

    model: Mapping[str, Any] = field(default_factory=dict)  # overrides of the model's identity_cfg, see model_options

    def __post_init__(self) -> None:
        """Refuse a value that cannot be meant; raises IdClipError naming the flag."""
        _require(self.caption in TRAINING_SETTINGS, "caption", self.caption, f"one of {', '.join(TRAINING_SETTINGS)}")
        self._check_pairs()
        _require(0 <= self.face_dropout <= 1, "face_dropout", self.face_dropout, "a share between 0 and 1")
        _require(0 <= self.face_noise < math.inf, "face_noise", self.face_noise, "a length of at least 0")
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

    def _check_pairs(self) -> None:
        """What is shown in a batch and how it is scored."""
        setups = self.setups
        for name, allowed in (
            ("entity_loss", ENTITY_LOSSES),
            ("false_negatives", FALSE_NEGATIVES),
            ("batch_groups", GROUPS),
            ("cache_dtype", CACHE_DTYPES),
        ):
            value = getattr(self, name)
            _require(value in allowed, name, value, f"one of {', '.join(allowed)}")
        _require(0 < self.group_share <= 1, "group_share", self.group_share, "a share above 0 and up to 1")
        _require(self.group_size > 1, "group_size", self.group_size, "a number of items of at least 2")
        _require(self.group_buffer > 1, "group_buffer", self.group_buffer, "a number of samples of at least 2")
        for name in ("lr_image", "lr_text"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "a learning rate above 0")
        self._needs("entity_loss", ONLY_ENTITIES in setups, f"--id-setup with {ONLY_ENTITIES}")
        self._needs("face_dropout", WITH_ENTITIES in setups, f"--id-setup with {WITH_ENTITIES}")
        self._needs("hidden_token", self.caption == "in_place", "--id-caption in_place")
        self._needs(
            "face_noise", {WITH_ENTITIES, ONLY_ENTITIES} & set(setups) != set(), "an --id-setup that shows faces"
        )
        for name in ("group_share", "group_size", "group_buffer"):
            self._needs(name, self.batch_groups != NO_GROUPS, "--id-batch-groups identity or scene")
        self._needs("cache_dtype", self.cache_images is not None, "--id-cache-images DIR")

    def _needs(self, name: str, given: bool, other: str) -> None:
        if not given and flag_name(name) in self.changed_flags():
            raise IdClipError(f"{flag_name(name)} has a meaning only together with {other}; add that or drop it.")

    @property
    def setups(self) -> dict[str, float]:
        """Training setup -> its weight in the loss, in the order in which an image's texts stand."""
        try:
            return parse_setups(self.setup)
        except IdClipError as error:
            raise IdClipError(f"--id-setup is {self.setup!r}; {error}") from None

    @property
    def loss_terms(self) -> tuple[TermOptions, ...]:
        """The terms of the loss, one a setup."""
        return loss_terms(self.setups, self.entity_loss, self.false_negatives)

    @property
    def labelled(self) -> bool:
        """Whether the loss needs to know who and what is in an image; the paper's first setup does not."""
        return any(term.labelled for term in self.loss_terms)

    @property
    def frozen_log_scale(self) -> float | None:
        """What open_clip's `logit_scale` is to be frozen at, ln(1 / temperature); None keeps its value."""
        return None if self.temperature in (LEARNED, FROM_CHECKPOINT) else -math.log(float(self.temperature))

    def changes(self) -> dict[str, Any]:
        """Names and values of the options that do not have their default, model options included."""
        changed = {name: getattr(self, name) for name, default in _defaults().items() if getattr(self, name) != default}
        return {**changed, **self.model}

    def changed_flags(self) -> list[str]:
        """The flags that do not have their default, such as `--id-caption`."""
        return [flag_name(name) for name in self.changes()]


def flag_name(name: str) -> str:
    """`val_data` -> `--id-val-data`."""
    return "--id-" + name.replace("_", "-")


def parse_args(arguments: Sequence[str], host_parse_args: HostParser) -> tuple[argparse.Namespace, IdentityOptions]:
    """Split the command line between `IdentityOptions` and the host's parser.

    Ours are added to the host's namespace as `id_<name>`, and the place of own model configs as `model_config`, so that the host
    records them with the run. Raises
    IdClipError on a value that `IdentityOptions` refuses, and exits as argparse does on a flag that neither side knows.
    """
    parser = _parser()
    if {"-h", "--help"} & set(arguments):
        print(_help(parser, host_parse_args))
        parser.exit()
    host = flags_before_parsing(arguments)
    chosen = parser.parse_known_args(list(arguments))[0]
    by_default = trains_on_shards(host) and takes_faces(host.model, chosen.model_config)
    arguments = with_preset(arguments, chosen.preset, by_default)
    ours, rest = parser.parse_known_args(arguments)
    if ours.preset == NONE:
        ours.preset = None  # says nothing that a model without faces could not take
    model = take_model_options(ours)
    own_configs = vars(ours).pop("model_config")
    options = IdentityOptions(**vars(ours), model=model)
    try:
        args = host_parse_args(rest)
    except ValueError as error:  # of its parser of pairs
        raise IdClipError(f"a flag of open_clip's is not of its form ({error}); --aug-cfg takes NAME=VALUE") from None
    require_host_values(args)
    if options.save_best and (args.logs or "none").lower() == "none":
        raise IdClipError("--id-save-best writes into the run's folder; name a folder with --logs instead of 'none'.")
    if (options.lr_image, options.lr_text) != (None, None) and (args.opt != "adamw" or switch(args, "horovod")):
        raise IdClipError(
            "--id-lr-image and --id-lr-text work with --opt adamw and without --horovod only; drop them, and choose a preset "
            "without them (--id-preset none)."
        )
    for name in _defaults():
        setattr(args, f"id_{name}", getattr(options, name))
    for name, value in model.items():
        setattr(args, f"id_{name}", value)
    args.model_config = own_configs
    return args, options


def _parser() -> argparse.ArgumentParser:
    # Without abbreviations: '--id-val' must not be taken for one of ours, nor '--i...' of the host's.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group("identities (only for models with an identity_cfg)")
    for option in _flags():
        settings = dict(option.metadata)
        shown = "" if option.default is None else f" (default: {option.default})"
        settings["help"] += shown
        group.add_argument(flag_name(option.name), dest=option.name, default=option.default, **settings)
    add_model_flags(parser)
    parser.add_argument_group("models of one's own").add_argument(
        "--model-config", "--model_config", metavar="PATH",
        help="JSON file, or folder of them, that describes models beside open_clip's and this package's (docs/own_models.md)",
    )  # fmt: skip
    return parser


def _flags() -> list[Any]:
    """The fields that are flags."""
    return [option for option in dataclasses.fields(IdentityOptions) if option.metadata]


def _defaults() -> dict[str, Any]:
    return {option.name: option.default for option in _flags()}


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
