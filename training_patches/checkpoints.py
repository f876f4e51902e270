"""Training checkpoints: what a run goes on from -> whether it may, and what it writes beside the host's own.

Role: `--resume` and `--pretrained` are checked before the host unpickles them; `checkpoints/training_facts.json` holds what
`idclip export` and a model card tell later about base weights, face model and recipe (paths of data are no part of it);
`--id-save-best` keeps `best.pt`, which loads like the host's checkpoints (`state_dict`) but holds no optimizer, and
remembers its value, so that a resumed run compares with what came before.
"""

import argparse
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from open_clip_idplugin.checkpoints.delta_files import Delta
from open_clip_idplugin.checkpoints.loading import face_model_of, split_checkpoint
from open_clip_idplugin.checkpoints.model_view import View, differences, require_takes
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts, facts_beside, require_face_model, write_facts
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.registration import own_config
from open_clip_idplugin.storage.atomic import atomic_path
from open_clip_idplugin.storage.weight_files import LIGHTNING, TORCHSCRIPT, first_lines, kind_of, weight_shapes
from training_patches.params import IdentityOptions, flag_name

BEST = "best.pt"
# The host's flags that make a recipe.
_HOST_FLAGS = (
    "lr", "wd", "beta1", "beta2", "eps", "opt", "batch_size", "accum_freq", "world_size", "train_num_samples", "epochs",
    "warmup", "lr_scheduler", "precision", "lock_image", "lock_text", "siglip", "grad_clip_norm", "seed",
)  # fmt: skip
# What makes something of a model that its name and weights do not make again.
_NOT_KEPT = {
    "torchscript": "compiles the model to a TorchScript program",
    "trace": "traces the model to a TorchScript program",
    "use_bnb_linear": "puts layers of bitsandbytes into the model",
}
_PLACES = ("val_data", "cache_images")  # of ours; where data are is nobody's business


def require_tensors_only(args: argparse.Namespace) -> None:
    """Refuse, before the host unpickles them, what `--pretrained` and `--resume` name that is no checkpoint of tensors."""
    for path in (args.pretrained, args.resume):
        if path and Path(path).is_file():
            weight_shapes(path)
    if args.resume and Path(args.resume).is_dir():
        _require_sharded(Path(args.resume))
    if args.resume and Path(args.resume).is_file() and kind_of(args.resume) in (TORCHSCRIPT, LIGHTNING):
        raise IdClipError(f"{args.resume} is no checkpoint of a training run; start from it with --pretrained.")
    if args.resume and Path(args.resume).name == BEST:
        raise IdClipError(
            f"{args.resume} holds no state of the optimizer, so that training cannot go on from it; resume an epoch_N.pt, or "
            "start from it with --pretrained."
        )


def note_facts(args: argparse.Namespace, options: IdentityOptions, view: View, face_model: str | None) -> None:
    """Check the run against what training goes on from, and write the facts (on rank 0).

    view: of the model that is trained. face_model: of the training shards, where they name one. Raises IdClipError where the
    earlier weights were trained with another face model, or a resumed run with another view of pictures.
    """
    for earlier in (args.resume, args.pretrained):
        if earlier:
            known = facts_beside(earlier).face_model if Path(earlier).is_dir() else face_model_of(earlier)
            require_face_model(known, face_model, "the faces of the training shards")
    if args.resume and Path(args.resume).exists():
        before = facts_beside(args.resume).view
        if before and (flags := differences(before, view)):
            raise IdClipError(
                f"the checkpoint {args.resume} was trained with another {', '.join(flags)} than this command's; repeat the "
                "flags of its run."
            )
    folder = Path(args.checkpoint_path)
    if args.rank == 0 and (args.logs or "none").lower() != "none" and folder.is_dir():
        base = split_checkpoint(args.model, args.pretrained)[0] if args.pretrained else None
        config = own_config(args.model) or {}
        write_facts(folder, TrainingFacts(args.model, base, face_model, recipe(args, options), view, config))


def require_kept(model_name: str, args: argparse.Namespace) -> None:
    """Refuse flags of the host that make another model of an IdCLIP than its checkpoint can be loaded as."""
    import open_clip

    if (open_clip.get_model_config(model_name) or {}).get("identity_cfg") is None:
        return
    for name, what in _NOT_KEPT.items():
        if getattr(args, name, None):
            raise IdClipError(
                f"--{name.replace('_', '-')} {what}, which the checkpoints of {model_name} cannot hold; drop it."
            )


def view_to_go_on_with(weights: str | None, settings: Mapping[str, Any], delta: Delta | None = None) -> View:
    """The view that `weights` were trained with, as far as the factory's `settings` do not say otherwise."""
    if delta is None and not (weights and Path(weights).is_file()):
        return {}
    view = facts_beside(str(weights)).view if delta is None else delta.view
    require_takes(view, str(weights))
    return {name: value for name, value in view.items() if settings.get(name) in (None, False)}


def recipe(args: argparse.Namespace, options: IdentityOptions) -> dict[str, object]:
    """Flag -> value: the host's that matter, and ours that differ from their defaults."""
    host = {f"--{name.replace('_', '-')}": getattr(args, name, None) for name in _HOST_FLAGS}
    ours = {flag_name(name): value for name, value in options.changes().items() if name not in _PLACES}
    return {flag: value for flag, value in {**host, **ours}.items() if value not in (None, False)}


class _ShardMetadata(pickle.Unpickler):
    """Reads the `.metadata` of a sharded checkpoint and nothing else that a pickle may name."""

    _allowed: ClassVar[dict[str, tuple[str, ...]]] = {
        "torch": ("Size",),
        "torch.serialization": ("_get_layout",),
        "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
        "torch.distributed.checkpoint.metadata": (
            "Metadata", "MetadataIndex", "StorageMeta", "BytesStorageMetadata", "TensorStorageMetadata", "TensorProperties",
            "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING",
        ),
        "pathlib": ("PosixPath", "WindowsPath"),
        "collections": ("OrderedDict",),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        """The class of that name; raises UnpicklingError for one that such a file does not need."""
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if name not in self._allowed.get(module, ()) and not dtype:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _require_sharded(folder: Path) -> None:
    """Refuse a folder that is no sharded checkpoint (`--fsdp-checkpoint sharded`): torch unpickles its list of tensors."""
    metadata = folder / ".metadata"
    if not metadata.is_file():
        raise IdClipError(f"{folder} is a folder without a checkpoint; name a file of checkpoints/ with --resume.")
    try:
        with metadata.open("rb") as stream:
            _ShardMetadata(stream).load()
    except Exception as error:  # a pickle may end in any of them
        raise IdClipError(f"{metadata} is not the list of a sharded checkpoint ({first_lines(error)}).") from None


def explain_misfit(error: Exception, args: argparse.Namespace) -> None:
    """Raise IdClipError for what torch says of a checkpoint that does not fit; return where it says something else."""
    if "parameter group" in str(error):  # of the optimizers
        raise IdClipError(
            f"the checkpoint {args.resume} was trained with other parts frozen or other learning-rate flags; repeat the flags "
            "of its run."
        ) from error
    if "loading state_dict" in str(error):
        raise IdClipError(
            f"the checkpoint {args.resume} does not fit the model {args.model}: {first_lines(error)}"
        ) from error


def keep_best(folder: Path, metric: str, metrics: Mapping[str, float], weights: Mapping[str, Any], name: str) -> bool:
    """Write the weights (a state dict) if `metrics[metric]` exceeds the value in the file that is there; tell whether it did.

    folder: the host's checkpoints; metrics: the results of a validation, with `epoch`; name: the run's.
    A file for another metric is replaced.
    """
    path = folder / BEST
    before = best_so_far(path, metric)
    if before is not None and metrics[metric] <= before:
        return False
    content: dict[str, Any] = {
        "epoch": int(metrics["epoch"]),
        "name": name,
        "state_dict": dict(weights),
        "metric": metric,
        "value": float(metrics[metric]),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    logging.info(f"Best {metric} so far, {metrics[metric]:.4f} after epoch {content['epoch']}: saved as {path}")
    return True


def best_so_far(path: Path, metric: str) -> float | None:
    """The value of the weights in a `best.pt`; None without a file, or where it was chosen by another metric.

    Raises IdClipError for a file that this module did not write.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return float(content["value"]) if content["metric"] == metric else None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise IdClipError(
            f"{path} is not a file of the best weights so far ({type(error).__name__}); move it away."
        ) from None
