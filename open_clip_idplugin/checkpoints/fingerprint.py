"""Fingerprint of an image tower: what decides about image embeddings, in one hash."""

import hashlib
from typing import TYPE_CHECKING, Any

from open_clip_idplugin.storage.finite_json import json_text

if TYPE_CHECKING:
    import torch


def fingerprint_image_tower(model: "torch.nn.Module") -> str:
    """SHA-256 over everything that determines an image's embedding: weights (as float32), structure, preprocessing.

    Args:
        model: an open_clip CLIP or IdCLIP with float32 weights.
    """
    import torch

    visual = model.visual
    digest = hashlib.sha256(json_text(_structure(visual), sort_keys=True).encode())
    for name, tensor in sorted(visual.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _structure(visual: "torch.nn.Module") -> dict[str, Any]:
    """What weights do not tell: attention heads, activation, pooling, and how pictures are prepared."""
    modules = list(visual.modules())
    return {
        "heads": [module.num_heads for module in modules if hasattr(module, "num_heads")],
        "quick_gelu": any(type(module).__name__ == "QuickGELU" for module in modules),
        "pool": str(getattr(visual, "pool_type", "")),
        "preprocess": {name: str(value) for name, value in sorted(getattr(visual, "preprocess_cfg", {}).items())},
    }
