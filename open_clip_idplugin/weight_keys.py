"""Names of IdCLIP's own weights in a state dict, and the `IdentityConfig` that their shapes tell.

The only module that spells these keys (relative to the model; `text.` and `visual.` are CustomTextCLIP's towers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from open_clip_idplugin.config import IdentityConfig

ADAPTOR = "text.adaptor."
PROMPTS = "visual.prompts."
PROMPT_TOKENS = "visual.prompts.tokens"  # [visual_prompts, image width]
_OUTPUT = "text.adaptor.output.weight"  # [tokens_per_identity * text width, adaptor_hidden]
_OUTPUT_BIAS = "text.adaptor.output.bias"
_HIDDEN = "text.adaptor.hidden.{}.weight"  # [adaptor_hidden, face_dim or adaptor_hidden]
_TEXT_EMBEDDING = "text.token_embedding.weight"  # [vocabulary, text width]

# Scalars beside the weights in OpenAI's own checkpoints; open_clip drops them from TorchScript files only.
OPENAI_FACTS = ("input_resolution", "context_length", "vocab_size")


def has_adaptor(keys: Mapping[str, Any]) -> bool:
    """Whether a state dict holds an adaptor, whole or not."""
    return any(key.startswith(ADAPTOR) for key in keys)


def config_of_weights(shapes: Mapping[str, Sequence[int]], base: IdentityConfig) -> IdentityConfig:
    """What the shapes of a state dict say about the adaptor and the prompts; `base` for all they do not say.

    Shapes that make no sense together change nothing: loading such weights strictly says best what is wrong with them.
    """
    known: dict[str, Any] = {}
    if PROMPT_TOKENS in shapes:
        known["visual_prompts"] = int(shapes[PROMPT_TOKENS][0])
    elif has_adaptor(shapes):
        known["visual_prompts"] = 0
    first, second = shapes.get(_HIDDEN.format(0)), shapes.get(_HIDDEN.format(1))
    output, embedding = shapes.get(_OUTPUT), shapes.get(_TEXT_EMBEDDING)
    if first and output and embedding and output[0] % embedding[1] == 0 and output[0] >= embedding[1]:
        known |= {
            "face_dim": int(first[1]),
            "adaptor_hidden": int(first[0]),
            "adaptor_layers": 2 if second else 1,
            "adaptor_bias": _OUTPUT_BIAS in shapes,
            "tokens_per_identity": int(output[0] // embedding[1]),
        }
    return replace(base, **known)
