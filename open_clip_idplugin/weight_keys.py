"""Names of IdCLIP's own weights in a state dict, and the `IdentityConfig` that their shapes tell.

The only module that spells these keys (relative to the model; `text.` and `visual.` are CustomTextCLIP's towers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from open_clip_idplugin.config import (
    ATTENTION,
    BOTH,
    FIXED,
    FREE,
    LEARNED,
    MLP,
    STORED,
    UNIT,
    IdentityConfig,
    blocks_text,
)

ADAPTOR, VISUAL_PROMPTS, TEXT_PROMPTS = "adaptor", "visual_prompts", "text_prompts"
IMAGE_LORA, TEXT_LORA = "image_lora", "text_lora"
IMAGE_TOWER, TEXT_TOWER, TEMPERATURE = "image_tower", "text_tower", "temperature"
# Parts that plain CLIP does not have.
OWN_PARTS = (ADAPTOR, VISUAL_PROMPTS, TEXT_PROMPTS, IMAGE_LORA, TEXT_LORA)

_ADAPTOR = "text.adaptor."
PROMPT_TOKENS = "visual.prompts.tokens"  # [visual_prompts, image width] or deep [blocks, visual_prompts, image width]
TEXT_PROMPT_TOKENS = "text.transformer.prompts.tokens"  # [text_prompts, text width]
_OUTPUT = "text.adaptor.output.weight"  # [tokens_per_identity * text width, adaptor_hidden]
_OUTPUT_BIAS = "text.adaptor.output.bias"
_HIDDEN = "text.adaptor.hidden.{}.weight"  # [adaptor_hidden, face_dim or adaptor_hidden]
_NORM = "text.adaptor.norms.0.weight"  # [adaptor_hidden]
_SHORTCUT = "text.adaptor.shortcut.weight"  # [tokens_per_identity * text width, face_dim]
_TOKEN_NORM, _TOKEN_SCALE = "text.adaptor.token_norm", "text.adaptor.token_scale"  # []
FACE_LENGTH = "text.adaptor.face_length"  # [], of adaptors that take embeddings in the length that they have
TEXT_EMBEDDING = "text.token_embedding.weight"  # [vocabulary, text width]
# <tower>.<stack>.<block>.<layer>.lora.down [lora_rank, in] and .up [out, lora_rank]
_LORA = re.compile(r"(visual|text)\..*?\.(\d+)\.(\w+)\.(?:.*\.)?lora\.down")

# Scalars beside the weights in OpenAI's own checkpoints; open_clip drops them from TorchScript files only.
OPENAI_FACTS = ("input_resolution", "context_length", "vocab_size")


# The reference implementation's modules (github.com/mesnico/IdCLIP) -> ours. Its prompts have a first dimension of one.
_REFERENCE_TOWERS, _REFERENCE_ADAPTOR, _REFERENCE_LOSS = "clip_model.", "translator_model.", "loss_fn."
_REFERENCE_NAMES = (
    ("clip_model.visual.shallow_visual_prompt_tokens", PROMPT_TOKENS),
    ("clip_model.shallow_text_prompt_tokens", TEXT_PROMPT_TOKENS),
    ("translator_model.linears.", "text.adaptor.hidden."),
    ("translator_model.out.", "text.adaptor.output."),
    (_REFERENCE_TOWERS, ""),
)
_REFERENCE_PROMPTS = (PROMPT_TOKENS, TEXT_PROMPT_TOKENS)


def from_reference(weights: Mapping[str, Any], row: Callable[[Any], Any], marker: Any) -> dict[str, Any]:
    """Weights (or shapes) under the reference implementation's names -> under those of an IdCLIP; others stay as they are.

    row: of a value with a first dimension of one, the value without it. marker: the value of `FACE_LENGTH`, because the
    reference's adaptor takes embeddings in the length that they have. The loss's own temperature is left out.
    """
    if not any(key.startswith((_REFERENCE_TOWERS, _REFERENCE_ADAPTOR)) for key in weights):
        return dict(weights)
    renamed = {}
    for key, value in weights.items():
        old, new = next(((old, new) for old, new in _REFERENCE_NAMES if key.startswith(old)), ("", ""))
        name = new + key.removeprefix(old)
        if not name.startswith(_REFERENCE_LOSS):
            renamed[name] = row(value) if name in _REFERENCE_PROMPTS else value
    return renamed | ({FACE_LENGTH: marker} if has_adaptor(renamed) else {})


def part_of(name: str) -> str:
    """The part of the model to which a weight of this name belongs: one of OWN_PARTS, a tower or the temperature."""
    if ".lora." in name:
        return IMAGE_LORA if name.startswith("visual.") else TEXT_LORA
    for prefix, part in (
        (_ADAPTOR, ADAPTOR),
        ("visual.prompts.", VISUAL_PROMPTS),
        ("text.transformer.prompts.", TEXT_PROMPTS),
        ("visual.", IMAGE_TOWER),
        ("text.", TEXT_TOWER),
    ):
        if name.startswith(prefix):
            return part
    return TEMPERATURE


def has_adaptor(keys: Iterable[str]) -> bool:
    """Whether a state dict holds an adaptor, whole or not."""
    return any(key.startswith(_ADAPTOR) for key in keys)


def adaptor_settings(config: IdentityConfig) -> dict[str, Any]:
    """What of a config shapes the adaptor."""
    names = ("face_dim", "face_length", "tokens_per_identity", "token_norm")
    return {name: value for name, value in config.to_dict().items() if name in names or name.startswith("adaptor_")}


def config_of_weights(
    shapes: Mapping[str, Sequence[int]], base: IdentityConfig, complete: bool = True
) -> IdentityConfig:
    """What the shapes of a state dict say about IdCLIP's own parts; `base` for all they do not say.

    complete: where there is an adaptor, parts that the weights lack are not in the model. Shapes that make no sense
    together change nothing: loading such weights strictly says best what is wrong with them.
    """
    known: dict[str, Any] = {}
    if complete and has_adaptor(shapes):
        parts = ("visual_prompts", "text_prompts", "lora_")
        known |= {field.name: field.default for field in fields(base) if field.name.startswith(parts)}
    prompts, text_prompts = shapes.get(PROMPT_TOKENS, ()), shapes.get(TEXT_PROMPT_TOKENS, ())
    if len(prompts) in (2, 3) and prompts[-2] > 0:
        known |= {"visual_prompts": int(prompts[-2]), "visual_prompts_deep": len(prompts) == 3}
    if len(text_prompts) == 2 and text_prompts[0] > 0:
        known["text_prompts"] = int(text_prompts[0])
    return replace(base, **{**known, **_of_adaptor(shapes, base), **_of_lora(shapes)})


def _of_adaptor(shapes: Mapping[str, Sequence[int]], base: IdentityConfig) -> dict[str, Any]:
    first, second = shapes.get(_HIDDEN.format(0)), shapes.get(_HIDDEN.format(1))
    output, embedding = shapes.get(_OUTPUT), shapes.get(TEXT_EMBEDDING)
    if not (first and output and embedding and output[0] % embedding[1] == 0 and output[0] >= embedding[1]):
        return {}
    token_norm = FREE if base.token_norm in (FIXED, LEARNED) else base.token_norm
    return {
        "face_dim": int(first[1]),
        "face_length": STORED if FACE_LENGTH in shapes else UNIT,
        "adaptor_hidden": int(first[0]),
        "adaptor_layers": 2 if second else 1,
        "adaptor_bias": _OUTPUT_BIAS in shapes,
        "adaptor_norm": _NORM in shapes,
        "adaptor_residual": _SHORTCUT in shapes,
        "tokens_per_identity": int(output[0] // embedding[1]),
        "token_norm": FIXED if _TOKEN_NORM in shapes else LEARNED if _TOKEN_SCALE in shapes else token_norm,
    }


def _of_lora(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    found = [(match, shapes[key]) for key in shapes if (match := _LORA.fullmatch(key))]
    layers = {match[3] for match, _ in found}
    if not found or not layers <= {"attn", "mlp"}:
        return {}
    blocks = {
        f"lora_{word}_blocks": blocks_text([int(match[2]) for match, _ in found if match[1] == tower])
        for word, tower in (("image", "visual"), ("text", "text"))
    }
    targets = BOTH if len(layers) == 2 else ATTENTION if "attn" in layers else MLP
    return {**blocks, "lora_rank": int(found[0][1][0]), "lora_targets": targets}
