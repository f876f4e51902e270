"""Delta files: what differs between a trained IdCLIP and the plain CLIP it started from, in one small safetensors file.

Role: a trained checkpoint and its base weights -> `write_delta` -> a file with the adaptor, prompts, LoRA and whatever else
was trained, which names its base model and a digest of the base weights -> `read_delta`, which refuses a file that was
changed since, and `check_base`, which refuses another base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.checkpoints.model_view import View, read_view
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_path
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.weight_keys import OPENAI_FACTS, OWN_PARTS, config_of_weights, has_adaptor, part_of

FORMAT = "idclip-delta-1"
_FACTS = ("format", "model", "identity_cfg", "base", "base_digest", "digest")
_POSITION_IDS = "text.transformer.embeddings.position_ids"


@dataclass(frozen=True)
class Delta:
    """A delta file's content.

    model: open_clip's name of the IdCLIP model. base: the tag or file name of the plain weights, base_digest: their
    `weights_digest`. tensors: state-dict key -> value. face_model: id of the face model that it was trained with, None
    where that is not known. view: how the model reads pictures and texts (see `model_view`), as far as that is known.
    config: open_clip's config of a user's own model, which others do not have; empty for models that all know.
    """

    model: str
    identity_cfg: IdentityConfig
    base: str
    base_digest: str
    tensors: Mapping[str, torch.Tensor]
    face_model: str | None = None
    view: View = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def write_delta(
    output: str | Path, model: str, trained: Mapping[str, torch.Tensor], plain: Mapping[str, torch.Tensor], base: str,
    identity_cfg: IdentityConfig, face_model: str | None = None, view: View | None = None,
    own_config: Mapping[str, Any] | None = None,
) -> Delta:  # fmt: skip
    """Write what `trained` holds beyond or unlike `plain` (both state dicts as `canonical` makes them).

    identity_cfg: what the shapes of `trained` do not tell; own_config: of a user's own model. Raises
    IdClipError where the two are not of one model.
    """
    if not has_adaptor(trained):
        raise IdClipError(f"the trained weights of {output} hold no adaptor; give the checkpoint of an IdCLIP model.")
    if has_adaptor(plain):
        raise IdClipError(
            f"the base weights {base} hold an adaptor; give those of the plain CLIP that training began from."
        )
    unknown = sorted(key for key in trained if key not in plain and part_of(key) not in (*OWN_PARTS, "temperature"))
    lacking = sorted(key for key in plain if key not in trained)
    if unknown or lacking:
        raise IdClipError(
            f"the base weights {base} are not of the trained model: one of them alone holds {(unknown + lacking)[0]}; "
            "give the weights that training began from."
        )
    tensors = {
        key: value.detach().clone().contiguous()
        for key, value in trained.items()
        if key not in plain or value.shape != plain[key].shape or not torch.equal(value, plain[key].to(value.dtype))
    }
    shapes = {key: tuple(value.shape) for key, value in trained.items()}
    config = config_of_weights(shapes, identity_cfg)
    delta = Delta(model, config, base, weights_digest(plain), tensors, face_model, view or {}, own_config or {})
    facts = {
        "format": FORMAT,
        "model": model,
        "identity_cfg": json_text(delta.identity_cfg.to_dict()),
        "base": base,
        "base_digest": delta.base_digest,
        "digest": _content_digest(delta),
    }
    if face_model is not None:
        facts["face_model"] = face_model
    if delta.view:
        facts["view"] = json_text(delta.view)
    if delta.config:
        facts["config"] = json_text(delta.config)
    from safetensors.torch import save_file

    with atomic_path(output) as temporary:
        save_file(tensors, temporary, metadata=facts)
    return delta


def is_delta(path: str | Path) -> bool:
    """Whether a file says that it is a delta file."""
    return str(path).endswith(".safetensors") and _is_ours(_facts(path))


def read_delta(path: str | Path) -> Delta:
    """Read a delta file; raises IdClipError if it is none, damaged, or was changed after it was written."""
    from safetensors.torch import load_file

    facts = _facts(path)
    if facts.get("format") != FORMAT or any(name not in facts for name in _FACTS):
        raise IdClipError(f"{path} is not a delta file of this version ({FORMAT}).")
    try:
        config = IdentityConfig.from_dict(json.loads(facts["identity_cfg"]))
        view = read_view(json.loads(facts.get("view", "{}")), path)
        own_config = json.loads(facts.get("config", "{}"))
        if not isinstance(own_config, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise IdClipError(f"{path} was changed after it was written: its identity_cfg or config is {error}.") from error
    tensors, face_model = load_file(str(path)), facts.get("face_model")
    delta = Delta(facts["model"], config, facts["base"], facts["base_digest"], tensors, face_model, view, own_config)
    if _content_digest(delta) != facts["digest"]:
        raise IdClipError(f"{path} was changed after it was written: its digest is another; get the file again.")
    if not all(value.isfinite().all() for value in delta.tensors.values()):
        raise IdClipError(
            f"{path} holds weights that are not finite numbers; export a checkpoint of a run that did not diverge."
        )
    return delta


def check_base(delta: Delta, plain: Mapping[str, torch.Tensor], path: str | Path, base: str) -> None:
    """Raise IdClipError unless these plain weights (as `canonical` makes them) are those that the delta belongs to."""
    if weights_digest(plain) != delta.base_digest:
        raise IdClipError(
            f"{path} was trained on other base weights than {base} (it names {delta.base!r}); give those, as "
            "BASE+DELTA where their place is not the one it names."
        )


def apply_delta(delta: Delta, model: torch.nn.Module, afresh: bool = False) -> None:
    """Load a delta into a model that has its base weights and its config; raises RuntimeError as a strict load does.

    afresh: parts of ours that the delta lacks stay as they were made, for training that adds them.
    """
    state = model.state_dict()
    lacking = set() if afresh else {key for key in state if part_of(key) in OWN_PARTS} - set(delta.tensors)
    unknown = set(delta.tensors) - set(state)
    if lacking or unknown:
        raise RuntimeError(f"the delta lacks {sorted(lacking)[:3]} and has {sorted(unknown)[:3]} too much.")
    model.load_state_dict({**state, **delta.tensors})


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values [hex]; the same for half-precision weights and their float32 copy."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def canonical(weights: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors under the names they have in an IdCLIP."""
    from open_clip.model import convert_to_custom_text_state_dict

    tensors = {key.removeprefix("module."): value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    if "positional_embedding" in tensors:
        tensors = convert_to_custom_text_state_dict(tensors)
    return {key: value for key, value in tensors.items() if key not in (*OPENAI_FACTS, _POSITION_IDS)}


def _content_digest(delta: Delta) -> str:
    """Digest of everything but itself, the order of whose parts is fixed."""
    facts = [FORMAT, delta.model, delta.identity_cfg.to_dict(), delta.base, delta.base_digest]
    facts += [] if delta.face_model is None else [delta.face_model]
    facts += [dict(delta.view)] if delta.view else []
    facts += [{"config": dict(delta.config)}] if delta.config else []
    return hashlib.sha256(f"{json_text(facts)} {weights_digest(delta.tensors)}".encode()).hexdigest()


def _is_ours(facts: Mapping[str, str]) -> bool:
    return facts.get("format", "").startswith("idclip-delta-")


def _facts(path: str | Path) -> dict[str, str]:
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise IdClipError(f"{path} is not a safetensors file: {error}.") from error
