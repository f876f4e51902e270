"""Checkpoint file formats: a file's first bytes -> its kind -> its tensors. Nothing that a file holds is ever run.

The kind is told by the first bytes and by what is then read, never by a zip directory at the end: a pickle with an archive
behind it is refused, as are archives that two readers see differently. Tensors are all that is unpickled, of TorchScript
archives too (see `torchscript_archive`), which torch before 2.6 would run even when asked for weights only.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.lightning_checkpoint import is_lightning, lightning_tensors, read_lightning
from open_clip_idplugin.storage.torchscript_archive import read_archive, stored_tensors
from open_clip_idplugin.weight_keys import OPENAI_FACTS, from_reference

SAFETENSORS, ARCHIVE, TORCHSCRIPT, PICKLE = "safetensors", "torch archive", "TorchScript archive", "pickle"
LIGHTNING = "Lightning checkpoint"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_ARCHIVES_INSIDE = (".zip", ".pt", ".pth", ".ckpt", ".tar")


def kind_of(path: str | Path) -> str:
    """The kind of a checkpoint, one of those above; raises IdClipError for all else, and for files that are two things."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise IdClipError(f"{path} cannot be read: {error.strerror or error}.") from None
    if path.suffix == ".safetensors":  # its reader runs nothing and takes no byte too many
        return SAFETENSORS
    if head[:4] == _ZIP:
        return _kind_of_zip(path)
    if zipfile.is_zipfile(path):
        raise IdClipError(f"{path} begins as one file and ends as a zip file, and is not read; get the file again.")
    if head[8:] == b"{":
        raise IdClipError(f"{path} is a safetensors file under another name; rename it to {path.stem}.safetensors.")
    if head[:1] != _PICKLE:
        raise IdClipError(f"{path} is not a checkpoint of tensors; save the model's state_dict alone.")
    return PICKLE


def load_tensors(path: str | Path, to: str | torch.device = "cpu", mapped: bool = False) -> Mapping[str, Any]:
    """A checkpoint's content as it was saved: its state dict, or a mapping that holds one.

    The reference implementation's names are ours in what is returned, and of a Lightning checkpoint it is the state dict.
    to: where the tensors go; mapped: leave them in the file where its kind allows. Raises IdClipError if the file is not a
    checkpoint, is damaged, or holds more than tensors.
    """
    path, kind = Path(path), kind_of(path)
    if kind == TORCHSCRIPT:
        return {name: tensor.to(to) for name, tensor in read_archive(path).items()}
    if kind == LIGHTNING:
        return _in_our_names({name: tensor.to(to) for name, tensor in read_lightning(path).items()})
    try:
        if kind == SAFETENSORS:
            from safetensors.torch import load_file

            return load_file(path, device=str(to))
        content = torch.load(path, map_location=to, weights_only=True, mmap=mapped and kind == ARCHIVE)
    except IdClipError:
        raise
    except Exception as error:  # unpickling raises whatever the bytes lead to
        raise _no_checkpoint(path, error) from error
    return _in_our_names(content) if isinstance(content, Mapping) else {}


def _in_our_names(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state dict, or a mapping that holds one, with the reference implementation's names replaced."""
    if isinstance(content.get("state_dict"), Mapping):
        return {**content, "state_dict": _in_our_names(content["state_dict"])}
    return from_reference(content, lambda prompts: prompts[0], torch.tensor(1.0))


def weight_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's tensors by state-dict key; the tensors themselves are not read where the format allows.

    Raises IdClipError if the file is not a checkpoint or holds more than tensors.
    """
    path, kind = Path(path), kind_of(path)
    if kind == SAFETENSORS:
        return _safetensors_shapes(path)
    if kind == TORCHSCRIPT:
        return {name: stored.shape for name, stored in stored_tensors(path).items() if name not in OPENAI_FACTS}
    if kind == LIGHTNING:
        stored = {name: tensor.shape for name, tensor in lightning_tensors(path).items()}
        return from_reference(stored, lambda shape: shape[1:], ())
    content = load_tensors(path, "meta", mapped=True)
    weights = content.get("state_dict", content)
    weights = weights if isinstance(weights, Mapping) else {}
    shapes = {str(key): tuple(value.shape) for key, value in weights.items() if isinstance(value, torch.Tensor)}
    if not shapes:
        raise IdClipError(f"{path} holds no tensors; give a file with a model's state_dict.")
    return {key.removeprefix("module."): shape for key, shape in shapes.items()}


def reading_tensors_only(original: Callable[..., Any]) -> Callable[..., Any]:
    """open_clip.factory's load_state_dict -> one that looks at the kind of file first and reads TorchScript as tensors.

    Lightning checkpoints and the reference implementation's names are read as well.
    Whoever asks the host for more than weights gets what the host does.
    """

    @functools.wraps(original)
    def load_state_dict(checkpoint_path: str, device: Any = None, weights_only: bool = True) -> Any:
        device = "cpu" if device is None else device  # the host's default
        kind = kind_of(checkpoint_path) if weights_only else None
        if kind == TORCHSCRIPT:
            tensors = load_tensors(checkpoint_path, device)
            return {name: tensor for name, tensor in tensors.items() if name not in OPENAI_FACTS}
        if kind == LIGHTNING:
            return load_tensors(checkpoint_path, device)
        content = original(checkpoint_path, device=device, weights_only=weights_only)
        return _in_our_names(content) if isinstance(content, Mapping) else content

    return load_state_dict


def first_lines(error: BaseException, count: int = 4) -> str:
    """An error's message on one line of a readable length."""
    import textwrap

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(" ".join(lines[:count]) or type(error).__name__, 400)


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        seen = set(torch._C.PyTorchFileReader(str(path)).get_all_records())
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError, NotImplementedError) as error:
        raise _no_checkpoint(path, error) from None
    names = [info.filename for info in infos]
    inner = {name.partition("/")[2] for name in names}
    one_folder = len({name.partition("/")[0] for name in names}) == 1
    if len(set(names)) < len(names) or not one_folder or inner != seen or min(info.header_offset for info in infos):
        raise IdClipError(f"{path} is more than one archive, and is not read; get the file again.")
    runs = "constants.pkl" in inner or any(name.startswith("code/") for name in inner)
    packed = any(info.compress_type for info in infos if not runs or "/data" in info.filename)  # torch packs code alone
    if packed or any(name.lower().endswith(_ARCHIVES_INSIDE) for name in inner):
        raise IdClipError(f"{path} holds archives or packed files, which no checkpoint does; unpack it first.")
    if "data.pkl" not in inner:
        raise IdClipError(f"{path} is not a checkpoint of tensors; save the model's state_dict alone.")
    if runs:
        return TORCHSCRIPT
    return LIGHTNING if is_lightning(path) else ARCHIVE


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except safetensors.SafetensorError as error:
        raise IdClipError(f"{path} is not a safetensors file: {error}.") from error


def _no_checkpoint(path: Path, error: BaseException) -> IdClipError:
    return IdClipError(
        f"{path} is not a checkpoint of tensors ({first_lines(error, 1)}); save the model's state_dict alone."
    )
