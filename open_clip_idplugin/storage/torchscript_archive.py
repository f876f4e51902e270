"""Restricted unpickler: torch archives, and TorchScript's -> their tensors, without the program.

Role: a file of the form in which OpenAI published CLIP -> name -> tensor. torch.jit.load would run what the file says
(`__setstate__`, operators that write files); here its modules are plain containers, nothing of `code/` is read, and of names
only those that describe tensors are known.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.errors import IdClipError

_MOST_PICKLE = 16 << 20  # bytes of data.pkl; OpenAI's are below one MB
_DEEPEST = 64
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_PLAIN_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is in an archive: record `data/<key>` as `dtype`, from element `offset` on."""

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Module:
    """What any class of the archive becomes: its attributes, and no behaviour."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class TensorUnpickler(pickle._Unpickler):
    """Knows tensors and ordered dictionaries, and where tensors are; every other name is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """See pickle; never imports anything."""
        known: Mapping[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _stored_tensor,
            ("torch._utils", "_rebuild_parameter"): _first,
            ("collections", "OrderedDict"): collections.OrderedDict,
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        }
        return known.get((module_name, global_name)) or self.unknown(module_name, global_name)

    def unknown(self, module_name: str, global_name: str) -> Any:
        """What stands for a name that describes no tensor."""
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> tuple[str, torch.dtype]:
        """("storage", type, key, place, number of elements) -> (key, type)."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isalnum():
            raise pickle.UnpicklingError("it stores something that is no tensor")
        return str(key), dtype


class _ModuleUnpickler(TensorUnpickler):
    """Knows modules and lists of numbers too."""

    def unknown(self, module_name: str, global_name: str) -> Any:
        if module_name.startswith("__torch__"):
            return _Module
        if module_name == "torch.jit._pickle" and global_name in (*_PLAIN_LISTS, "restore_type_tag"):
            return _first
        return super().unknown(module_name, global_name)


def _stored_tensor(storage: tuple[str, torch.dtype], offset: int, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    key, dtype = storage
    return StoredTensor(key, dtype, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _first(value: Any, *_: Any) -> Any:
    return value


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Name in the state dict -> where the tensor is; raises IdClipError for what holds more than modules and tensors."""
    try:
        top = _ModuleUnpickler(io.BytesIO(description(path))).load()
        found: dict[str, StoredTensor] = {}
        _collect(top, "", found, _DEEPEST)
    except REFUSED as error:
        raise _refusal(path, error) from None
    return found


def description(path: Path) -> bytes:
    """The pickle that describes an archive's tensors; raises UnpicklingError where it is too large, or as zipfile does."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{_root(archive)}/data.pkl")
        if info.file_size > _MOST_PICKLE:
            raise pickle.UnpicklingError("its description of the tensors is too large")
        return archive.read(info)


def read_archive(path: Path) -> dict[str, torch.Tensor]:
    """Name in the state dict -> tensor, copied out of the archive; raises IdClipError as `stored_tensors` does."""
    stored = stored_tensors(path)
    try:
        return copied_tensors(path, stored)
    except REFUSED as error:
        raise _refusal(path, error) from None


def copied_tensors(path: Path, stored: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
    """Name -> tensor, copied out of an archive; raises one of `REFUSED` where the file is not as it says."""
    with zipfile.ZipFile(path) as archive:
        read = _reader(archive)
        return {name: _tensor(read(tensor.key), tensor) for name, tensor in stored.items()}


# What pickle, zipfile and torch raise on bytes that somebody made up.
REFUSED = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError,
    AttributeError, OverflowError, ArithmeticError, RecursionError,
)  # fmt: skip


def _refusal(path: Path, error: BaseException) -> IdClipError:
    if isinstance(error, IdClipError):
        return error
    return IdClipError(
        f"{path} is a TorchScript archive that holds more than a CLIP's tensors, or is damaged ({error}); its program is not "
        "run here: save the model's state_dict alone."
    )


def _collect(module: Any, prefix: str, found: dict[str, StoredTensor], depth: int) -> None:
    """Tensors of a module and of the modules in it, under dotted names as in its state dict."""
    if depth == 0 or not isinstance(module, _Module) or not isinstance(module.attributes, dict):
        raise pickle.UnpicklingError("it is not made of plain modules")
    for name, value in module.attributes.items():
        if isinstance(value, StoredTensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", found, depth - 1)


def _root(archive: zipfile.ZipFile) -> str:
    return archive.namelist()[0].partition("/")[0]


def _reader(archive: zipfile.ZipFile) -> Callable[[str], bytearray]:
    root, cache = _root(archive), dict[str, bytearray]()

    def read(key: str) -> bytearray:
        if key not in cache:
            cache[key] = bytearray(archive.read(f"{root}/data/{key}"))
        return cache[key]

    return read


def _tensor(content: bytearray, stored: StoredTensor) -> torch.Tensor:
    storage = torch.frombuffer(content, dtype=stored.dtype) if content else torch.empty(0, dtype=stored.dtype)
    numbers = 1
    for side in stored.shape:
        numbers *= side
    if min((*stored.shape, *stored.stride, stored.offset), default=0) < 0 or numbers > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than what is stored of it")
    return torch.as_strided(storage, stored.shape, stored.stride, stored.offset).clone()
