"""Which precision is fast on this CPU.

Role: bfloat16 halves the time of the tiny networks where the processor computes in it, and multiplies it where it is emulated.
"""

import contextlib

import torch

_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")  # Intel and AMD, then Arm


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; False where torch (before 2.11) cannot tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in _INSTRUCTIONS)


def fast_precision() -> str:
    """The precision for open_clip's --precision that is fastest here: amp_bf16 or fp32."""
    return "amp_bf16" if has_bfloat16() else "fp32"


def fast_autocast() -> contextlib.AbstractContextManager[object]:
    """Autocast to bfloat16 where that is faster, else nothing."""
    return torch.autocast("cpu", torch.bfloat16) if has_bfloat16() else contextlib.nullcontext()
