"""Lightning checkpoints: `.ckpt` -> the tensors of its `state_dict`, without what else it holds.

Role: a torch archive that Lightning wrote -> name -> tensor. Such a file also keeps hyper-parameters, callbacks and optimizers,
whose classes torch's reader for weights refuses; here they become objects that do nothing, and nothing is imported or called.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.torchscript_archive import (
    REFUSED,
    StoredTensor,
    TensorUnpickler,
    copied_tensors,
    description,
)

_VERSION = "pytorch-lightning_version"  # key that every version of Lightning writes
_WEIGHTS = "state_dict"


class _Nothing:
    """Stands for whatever is no tensor: takes what a pickle does to objects, and forgets it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _Nothing:
        return self

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None:
        """As of a list."""

    def extend(self, _: Any) -> None:
        """As of a list."""

    def add(self, _: Any) -> None:
        """As of a set."""


class _Unpickler(TensorUnpickler):
    """Knows tensors; every other name is a class that does nothing."""

    def unknown(self, module_name: str, global_name: str) -> Any:
        """Never imports anything."""
        return _Nothing

    def persistent_load(self, pid: Any) -> tuple[str, torch.dtype]:
        """As of tensors, whose types may be unknown where they are no weights."""
        kind, dtype, key, *_ = pid
        return super().persistent_load((kind, dtype if isinstance(dtype, torch.dtype) else torch.uint8, key))


def is_lightning(path: Path) -> bool:
    """Whether the description of a torch archive names Lightning's version; one that is too large or damaged does not."""
    try:
        return _VERSION.encode() in description(path)
    except REFUSED:
        return False


def lightning_tensors(path: Path) -> dict[str, StoredTensor]:
    """Name in the state dict -> where the tensor is; raises IdClipError for a file without one, or a damaged one."""
    try:
        content = _Unpickler(io.BytesIO(description(path))).load()
        weights = content.get(_WEIGHTS) if isinstance(content, Mapping) and _VERSION in content else None
        if not isinstance(weights, Mapping):
            raise ValueError("it has no state_dict")
        return {str(name): stored for name, stored in weights.items() if isinstance(stored, StoredTensor)}
    except REFUSED as error:
        raise _refusal(path, error) from None


def read_lightning(path: Path) -> dict[str, torch.Tensor]:
    """Name in the state dict -> tensor, copied out of the file; raises IdClipError as `lightning_tensors` does."""
    stored = lightning_tensors(path)
    try:
        return copied_tensors(path, stored)
    except REFUSED as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: BaseException) -> IdClipError:
    return IdClipError(
        f"{path} is a Lightning checkpoint whose weights cannot be read ({error}); save the model's state_dict alone."
    )
