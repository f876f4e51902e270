"""What makes an IdCLIP of a CLIP: the `identity_cfg` of a model config -> a checked, frozen `IdentityConfig`.

The dictionary comes from JSON or from `open_clip.create_model(name, identity_cfg={...})`, which replaces it whole.
Every field carries its help and what it may be, so that command lines are made from them (`parse_setting`, `override`).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from open_clip_idplugin.errors import IdClipError

FREE, INITIAL, FIXED, LEARNED = "free", "initial", "fixed", "learned"
UNIT, STORED = "unit", "stored"
ATTENTION, MLP, BOTH = "attention", "mlp", "both"
# Which blocks of a tower are meant: "none", "all", "last:4" or numbers as "0,3,5-7", counted from 0.
NO_BLOCKS, ALL_BLOCKS = "none", "all"
_LAST = re.compile(r"last:([1-9]\d*)")
_SPAN = re.compile(r"(\d+)(?:-(\d+))?")

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_LORA_DETAILS = ("lora_rank", "lora_targets")


def _number(default: int, low: int, high: int, text: str) -> Any:
    return field(default=default, metadata={"help": text, "range": (low, high)})


def _switch(text: str) -> Any:
    return field(default=False, metadata={"help": text})


def _choice(default: str, choices: tuple[str, ...], text: str) -> Any:
    return field(default=default, metadata={"help": f"{text}: {', '.join(choices)}", "choices": choices})


def _blocks(text: str) -> Any:
    return field(default=NO_BLOCKS, metadata={"help": text, "blocks": True})


@dataclass(frozen=True)
class IdentityConfig:
    """Shape of the parts that IdCLIP adds to the towers (Messina et al., ECIR 2025, arXiv 2412.21009).

    The metadata of a field: `help`, and one of `range` (lowest, highest), `choices` or `blocks` (see `parse_blocks`).
    With neither visual prompts nor LoRA in the image tower, image features, and so every image index, are those of the
    plain model.
    """

    face_dim: int = _number(512, 1, 1 << 16, "numbers of a face embedding")
    adaptor_hidden: int = _number(768, 1, 1 << 16, "width of the adaptor's hidden layers")
    adaptor_layers: int = _number(1, 1, 2, "hidden layers of the adaptor, 1 or 2")
    adaptor_bias: bool = _switch("bias in the adaptor's layers")
    tokens_per_identity: int = _number(1, 1, 64, "token vectors that one face becomes")
    visual_prompts: int = _number(0, 0, 1024, "learnable tokens of the image tower (VPT), 0 for none")
    adaptor_norm: bool = _switch("LayerNorm before each activation of the adaptor")
    adaptor_residual: bool = _switch("a linear shortcut beside the adaptor's hidden layers")
    token_norm: str = _choice(
        FREE,
        (FREE, INITIAL, FIXED, LEARNED),
        "length of identity tokens, as the adaptor makes them or like the tower's token embeddings: at first, always, or "
        "at first and then learned",
    )
    face_length: str = _choice(
        UNIT,
        (UNIT, STORED),
        "length in which the adaptor takes face embeddings: scaled to one, or as the data have them (the reference's way)",
    )
    visual_prompts_deep: bool = _switch("new visual prompts in every block of the image tower, not in the first alone")
    text_prompts: int = _number(0, 0, 1024, "learnable tokens in front of every text (TPT), 0 for none")
    lora_image_blocks: str = _blocks("blocks of the image tower with LoRA: none, all, last:4 or as 0,3,5-7")
    lora_text_blocks: str = _blocks("blocks of the text tower with LoRA: none, all, last:4 or as 0,3,5-7")
    lora_rank: int = _number(8, 1, 1024, "rank of LoRA's updates")
    lora_targets: str = _choice(ATTENTION, (ATTENTION, MLP, BOTH), "layers of a block that LoRA updates")

    def __post_init__(self) -> None:
        for known in fields(self):
            _check(known.name, getattr(self, known.name), known.type, known.metadata)
        if self.visual_prompts_deep and not self.visual_prompts:
            raise IdClipError("identity_cfg: visual_prompts_deep needs visual_prompts of at least 1.")
        if not self.has_lora:
            for known in fields(self):
                if known.name in _LORA_DETAILS and getattr(self, known.name) != known.default:
                    raise IdClipError(
                        f"identity_cfg: {known.name} needs lora_image_blocks or lora_text_blocks, which say where LoRA is."
                    )

    @property
    def has_lora(self) -> bool:
        """Whether any block of a tower has LoRA."""
        return (self.lora_image_blocks, self.lora_text_blocks) != (NO_BLOCKS, NO_BLOCKS)

    @property
    def changes_image_features(self) -> bool:
        """Whether the image tower has parts of its own, so that its features are not the plain model's."""
        return self.visual_prompts > 0 or self.lora_image_blocks != NO_BLOCKS

    @classmethod
    def from_dict(cls, settings: "Mapping[str, Any] | IdentityConfig") -> "IdentityConfig":
        """Build from the JSON form; a config passes through. Raises IdClipError on unknown keys or bad values."""
        if isinstance(settings, cls):
            return settings
        if not isinstance(settings, Mapping):
            raise IdClipError(f"identity_cfg must be a dictionary such as {{'visual_prompts': 5}}, not {settings!r}.")
        _require_known(settings)
        return cls(**settings)

    def override(self, changes: Mapping[str, Any]) -> "IdentityConfig":
        """This config with other values for some keys; raises IdClipError as `from_dict` does."""
        _require_known(changes)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, every key spelled out."""
        return asdict(self)


def parse_setting(name: str, text: str) -> Any:
    """The value of a key as written on a command line: "5", "true", "last:4"; raises IdClipError where it is none."""
    _require_known({name: text})
    known = next(known for known in fields(IdentityConfig) if known.name == name)
    value: Any = text
    if known.type is bool:
        value = _SWITCH.get(text.lower(), text)
    elif known.type is int:
        value = int(text) if text.lstrip("+-").isdecimal() else text
    _check(name, value, known.type, known.metadata)
    return value


def _require_known(settings: Mapping[str, Any]) -> None:
    allowed = [known.name for known in fields(IdentityConfig)]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise IdClipError(f"identity_cfg has no key {', '.join(map(repr, unknown))}; allowed: {', '.join(allowed)}.")


def _check(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> None:
    """Raise IdClipError unless `value` is one that the field's metadata allows."""
    if kind is bool and not isinstance(value, bool):
        raise IdClipError(f"identity_cfg: {name} must be true or false, not {value!r}.")
    if "range" in metadata:
        low, high = metadata["range"]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise IdClipError(f"identity_cfg: {name} must be a whole number from {low} to {high}, not {value!r}.")
    if "choices" in metadata and value not in metadata["choices"]:
        raise IdClipError(f"identity_cfg: {name} must be one of {', '.join(metadata['choices'])}, not {value!r}.")
    if "blocks" in metadata:
        parse_blocks(name, value)


def parse_blocks(name: str, text: object) -> list[tuple[int, int]]:
    """The spans (first, last) that numbers name, none for the words; raises IdClipError for anything else."""
    if isinstance(text, str):
        if text in (NO_BLOCKS, ALL_BLOCKS) or _LAST.fullmatch(text):
            return []
        matches = [_SPAN.fullmatch(part.strip()) for part in text.split(",")]
        spans = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
        if len(spans) == len(matches) and all(first <= last for first, last in spans):
            return spans
    raise IdClipError(
        f"identity_cfg: {name} must be 'none', 'all', 'last:4' or block numbers as '0,3,5-7', not {text!r}."
    )


def chosen_blocks(name: str, text: str, count: int) -> list[int]:
    """The chosen ones of `count` blocks, ascending; raises IdClipError where the tower has fewer than named."""
    if text == NO_BLOCKS:
        return []
    if text == ALL_BLOCKS:
        return list(range(count))
    last = _LAST.fullmatch(text)
    wanted = int(last[1]) - 1 if last else max(last for _, last in parse_blocks(name, text))
    if wanted >= count:
        raise IdClipError(f"identity_cfg: {name} is {text!r}, but this tower has {count} blocks, 0 to {count - 1}.")
    if last:
        return list(range(count - int(last[1]), count))
    return sorted({number for first, end in parse_blocks(name, text) for number in range(first, end + 1)})


def blocks_text(blocks: Collection[int]) -> str:
    """Block numbers -> the shortest text that names them, such as "0,3,5-7"; "none" for no block."""
    spans: list[list[int]] = []
    for number in sorted(set(blocks)):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == end else f"{first}-{end}" for first, end in spans) or NO_BLOCKS
