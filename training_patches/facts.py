"""The training facts of a run: its flags and shards in, `checkpoints/training_facts.json` out.

Role: what `idclip export` and a model card tell later about base weights, face model and recipe. Paths of data are no part
of it.
"""

import argparse
from pathlib import Path

from open_clip_idplugin.training_facts import TrainingFacts, facts_beside, require_face_model, write_facts
from training_patches.params import IdentityOptions, flag_name

# The host's flags that make a recipe.
_HOST_FLAGS = (
    "lr", "wd", "beta1", "beta2", "eps", "opt", "batch_size", "accum_freq", "world_size", "train_num_samples", "epochs",
    "warmup", "lr_scheduler", "precision", "lock_image", "lock_text", "siglip", "grad_clip_norm", "seed",
)  # fmt: skip
_PLACES = ("val_data", "cache_images")  # of ours; where data are is nobody's business


def note_facts(args: argparse.Namespace, options: IdentityOptions, face_model: str | None) -> None:
    """Check the shards' face model against what training goes on from, and write the facts (on rank 0).

    Raises IdClipError where the earlier weights were trained with another face model.
    """
    for earlier in (args.resume, args.pretrained):
        if earlier and Path(earlier).is_file():
            require_face_model(facts_beside(earlier).face_model, face_model, "the faces of the training shards")
    folder = Path(args.checkpoint_path)
    if args.rank == 0 and (args.logs or "none").lower() != "none" and folder.is_dir():
        base = args.pretrained or None
        write_facts(folder, TrainingFacts(args.model, base, face_model, recipe(args, options)))


def recipe(args: argparse.Namespace, options: IdentityOptions) -> dict[str, object]:
    """Flag -> value: the host's that matter, and ours that differ from their defaults."""
    host = {f"--{name.replace('_', '-')}": getattr(args, name, None) for name in _HOST_FLAGS}
    ours = {flag_name(name): value for name, value in options.changes().items() if name not in _PLACES}
    return {flag: value for flag, value in {**host, **ours}.items() if value not in (None, False)}
