"""The table of every change to a host library, and how rows are applied, checked and undone.

Role: rows `PatchRow` -> replaced attributes of host modules. The public doors of open_clip (`add_model_config`,
subclassing) come first; a row is for what has no door. All rows of a table are checked before the first one is
applied, so that a host that has moved on is refused in a sentence and left as it was. `OPEN_CLIP` below is the model
library's part; the rows for open_clip's training command and for clip-retrieval stand in the packages that import
those, in the same form.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.errors import HostMismatchError


@dataclass(frozen=True)
class PatchRow:
    """One change to a host, or (without `replacement`) one thing a host must go on offering.

    targets: places of one object, as "module:attribute" (attributes may be dotted); the first defines it, the others
        are modules that imported it by name. Modules are imported only when the row is applied or verified.
    reason: why there is no public door.
    hosts: versions this was checked with.
    replacement: original -> what to put there. It gets the object found at the first target.
    parameters: names of parameters that the target must accept (by name, or by **kwargs).
    marker: text that the target's source must hold, for what a signature cannot tell.
    """

    targets: tuple[str, ...]
    reason: str
    hosts: str
    replacement: Callable[[Any], Any] | None = None
    parameters: tuple[str, ...] = ()
    marker: str | None = None


@dataclass(frozen=True)
class _Applied:
    original: Any
    replaced_by: Any


_applied: dict[str, _Applied] = {}


def verify(rows: Sequence[PatchRow]) -> None:
    """Check that every host object is there and looks as its row expects; raises HostMismatchError."""
    for row in rows:
        for target in row.targets:
            _check(row, target, _original(target))


def apply(rows: Sequence[PatchRow]) -> None:
    """Verify all rows, then put the replacements in place; a row that is applied already is left alone."""
    verify(rows)
    for row in rows:
        if row.replacement is None:
            continue
        missing = [target for target in row.targets if target not in _applied]
        if not missing:
            continue
        done = next((_applied[target] for target in row.targets if target in _applied), None)
        replaced_by = done.replaced_by if done else row.replacement(_original(row.targets[0]))
        for target in missing:
            owner, name = _locate(target)
            _applied[target] = _Applied(getattr(owner, name), replaced_by)
            setattr(owner, name, replaced_by)


def restore(rows: Sequence[PatchRow]) -> None:
    """Put the originals back, last row first; raises HostMismatchError where somebody has replaced the replacement."""
    for row in reversed(rows):
        for target in reversed(row.targets):
            done = _applied.get(target)
            if done is None:
                continue
            owner, name = _locate(target)
            if getattr(owner, name) is not done.replaced_by:
                raise HostMismatchError(f"{target} was changed by something else after this plugin; undo that first.")
            setattr(owner, name, done.original)
            del _applied[target]


def is_applied(row: PatchRow) -> bool:
    """Whether every target of a row holds its replacement."""
    return all(target in _applied for target in row.targets)


def _locate(target: str) -> tuple[Any, str]:
    """ "module:a.b" -> (module.a, "b"); raises HostMismatchError if any of it is missing."""
    module_name, _, path = target.partition(":")
    try:
        owner: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise HostMismatchError(f"the plugin needs {target}, but {error.name} is not installed.") from error
    steps = path.split(".")
    for depth, step in enumerate(steps):
        if not hasattr(owner, step):
            raise HostMismatchError(
                f"the plugin needs {target}, which the installed {_version(module_name)} does not have; "
                "install a supported version."
            )
        if depth < len(steps) - 1:
            owner = getattr(owner, step)
    return owner, steps[-1]


def _original(target: str) -> Any:
    if target in _applied:
        return _applied[target].original
    owner, name = _locate(target)
    return getattr(owner, name)


def _check(row: PatchRow, target: str, original: Any) -> None:
    module_name = target.partition(":")[0]
    if row.parameters:
        parameters = inspect.signature(original).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        missing = [name for name in row.parameters if name not in parameters and not takes_any]
        if missing:
            raise HostMismatchError(
                f"{target} of the installed {_version(module_name)} no longer takes {', '.join(missing)} "
                f"(this plugin was checked with {row.hosts})."
            )
    if row.marker is not None and row.marker not in inspect.getsource(original):
        raise HostMismatchError(
            f"{target} of the installed {_version(module_name)} no longer works as the plugin expects "
            f"({row.marker!r} is gone; checked with {row.hosts})."
        )


def _version(module_name: str) -> str:
    package = module_name.partition(".")[0]
    version = getattr(importlib.import_module(package), "__version__", None)
    return f"{package} {version}" if version else package


def _identity_model_or_original(original: Any) -> Any:
    from open_clip_idplugin.model import identity_model_or

    return identity_model_or(original)


def _identity_tokenizer_or_original(original: Any) -> Any:
    from open_clip_idplugin.tokenizer import identity_tokenizer_or

    return identity_tokenizer_or(original)


def _with_identity_tags(original: Any) -> Any:
    from open_clip_idplugin.hosts.registration import with_identity_tags

    return with_identity_tags(original)


def _download_with_remedy(original: Any) -> Any:
    from open_clip_idplugin.hosts.registration import download_with_remedy

    return download_with_remedy(original)


def _reading_tensors_only(original: Any) -> Any:
    from open_clip_idplugin.storage.weight_files import reading_tensors_only

    return reading_tensors_only(original)


_CHECKED = "open_clip 2.32 and 3.3"

OPEN_CLIP: tuple[PatchRow, ...] = (
    PatchRow(
        targets=("open_clip.factory:CustomTextCLIP",),
        replacement=_identity_model_or_original,
        reason="create_model picks the class by a fixed if; the class is not pluggable",
        hosts=_CHECKED,
        parameters=("embed_dim", "vision_cfg", "text_cfg", "cast_dtype"),
    ),
    PatchRow(
        targets=("open_clip.factory:get_tokenizer", "open_clip:get_tokenizer"),
        replacement=_identity_tokenizer_or_original,
        reason="get_tokenizer picks the tokenizer by a fixed if, and the package re-exports it by name",
        hosts=_CHECKED,
        parameters=("model_name", "context_length", "cache_dir"),
    ),
    PatchRow(
        targets=("open_clip.pretrained:_PRETRAINED",),
        replacement=_with_identity_tags,
        reason="pretrained tags are a private table keyed by model name, without a function that adds to it",
        hosts=_CHECKED,
    ),
    PatchRow(
        targets=("open_clip.factory:_MODEL_CONFIGS",),
        reason="check only: model folders enter it for as long as they are built; add_model_config keeps what it was given",
        hosts=_CHECKED,
    ),
    PatchRow(
        targets=("open_clip.push_to_hf_hub:save_config_for_hf",),
        reason="check only: model folders are written with it",
        hosts=_CHECKED,
        parameters=("model", "config_path", "model_config"),
    ),
    PatchRow(
        targets=("open_clip.factory:download_pretrained",),
        replacement=_download_with_remedy,
        reason="a failed download is a raw error of the hub, which names no file to provide",
        hosts=_CHECKED,
        parameters=("cfg", "cache_dir"),
    ),
    PatchRow(
        targets=("open_clip.factory:load_state_dict",),
        replacement=_reading_tensors_only,
        reason="reads OpenAI's TorchScript archives only by running them; the reader is not pluggable",
        hosts=_CHECKED,
        parameters=("checkpoint_path", "device", "weights_only"),
    ),
    PatchRow(
        targets=("open_clip.transformer:TextTransformer._embeds",),
        reason="check only: IdentityTextTransformer overrides it and relies on forward calling it with the text",
        hosts=_CHECKED,
        parameters=("text",),
        marker="positional_embedding",
    ),
    PatchRow(
        targets=("open_clip.transformer:TextTransformer.forward",),
        reason="check only: what _embeds was given must also be what is pooled",
        hosts=_CHECKED,
        parameters=("text",),
        marker="self._embeds(text)",
    ),
    PatchRow(
        targets=("open_clip.transformer:VisionTransformer._embeds",),
        reason="check only: visual prompts enter right before ln_pre, after patch dropout",
        hosts=_CHECKED,
        marker="self.ln_pre(x)",
    ),
    PatchRow(
        targets=("open_clip.transformer:VisionTransformer._pool",),
        reason="check only: visual prompts leave right before the pooling",
        hosts=_CHECKED,
        parameters=("x",),
    ),
)
