"""Device and precision: the words of `--device` and `--precision` -> where and in which numbers a model computes.

Role: the one rule for both, used by everything that encodes images or texts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16", "amp", "amp_bf16")
# Precision -> the type to which operations are cast; the weights stay float32. As open_clip_train has it, on every device,
# so that what was trained with `--precision amp` is measured, indexed and asked in the same numbers.
_AUTOCAST = {"amp": "float16", "amp_bf16": "bfloat16", "amp_bfloat16": "bfloat16"}
_BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")  # Intel and AMD, then Arm
FLOAT32_WEIGHTS = ("fp32", "amp", "amp_bf16")


def resolve_device(device: str | torch.device = AUTO) -> torch.device:
    """The torch device of a name: "auto" is CUDA where torch has one, else the CPU.

    Raises IdClipError for a device that does not exist or is not there.
    """
    import torch

    if str(device) == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise IdClipError(
            f"there is no device {str(device)!r} here (torch has {_there()}); use auto, or one of those."
        ) from error
    return chosen


def require_precision(precision: str) -> None:
    """Raise IdClipError on a precision that does not exist."""
    if precision not in PRECISIONS:
        raise IdClipError(f"the precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")


def require_float32_weights(precision: str) -> None:
    """Raise IdClipError on a precision that rounds the weights themselves: an index's fingerprint is taken of them."""
    if precision not in FLOAT32_WEIGHTS:
        choices = ", ".join(FLOAT32_WEIGHTS[:-1])
        raise IdClipError(f"--precision '{precision}' is not offered here: choose {choices} or {FLOAT32_WEIGHTS[-1]}")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which both towers encode."""
    import torch

    name = _AUTOCAST.get(precision)
    return contextlib.nullcontext() if name is None else torch.autocast(device.type, getattr(torch, name))


def input_dtype(precision: str) -> torch.dtype:
    """The type of the pixels that the image tower is given."""
    import torch
    from open_clip.model import get_input_dtype

    return get_input_dtype(precision) or torch.float32


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16, instead of emulating it; False where torch (before 2.11) cannot tell."""
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in _BFLOAT16_INSTRUCTIONS)


def fast_precision() -> str:
    """The precision for training tiny networks that is fastest on this CPU: amp_bf16 or fp32.

    bfloat16 halves their time where the processor computes in it, and multiplies it where it is emulated.
    """
    return "amp_bf16" if has_bfloat16() else "fp32"


def fast_autocast() -> contextlib.AbstractContextManager[object]:
    """`autocast` of `fast_precision`, on the CPU."""
    import torch

    return autocast(torch.device("cpu"), fast_precision())


def _there() -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
