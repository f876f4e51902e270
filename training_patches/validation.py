"""Validation while training: held-out people's shards and the model as it is now -> retrieval metrics.

Role: the evaluation of `idclip evaluate`, kept small: one configuration and, by default, one template. Where the image
tower is frozen and has no prompts the image features are computed in the first validation only.
"""

import argparse
import logging
import tarfile
from typing import Any

import numpy as np
import torch
from open_clip_train.distributed import is_master

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.config import STORED
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import metrics
from open_clip_idplugin.evaluation.protocols import EvaluationSet, Settings, run
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from training_patches.host_flags import switch
from training_patches.params import IdentityOptions
from webdataset_tools.evaluation_data import EncodedImages, encode_images, load_evaluation_set


class IdentityValidation:
    """The validation set of a run. Rank 0 reads and uses it; on the other ranks it is only there (but for `--fsdp`)."""

    def __init__(self, options: IdentityOptions, preprocess: Any, tokenizer: Any, args: argparse.Namespace) -> None:
        """Read who is in which image, where it is used. Raises IdClipError where there is nothing to validate or compare."""
        self.shards = str(options.val_data)
        self.preprocess, self.tokenizer, self.args = preprocess, tokenizer, args
        self.settings = Settings(
            configurations=(options.val_configuration,),
            templates=options.val_templates,
            device=args.device,
            image_to_text=False,
        )
        self.images: EncodedImages | None = None
        _check_metric(options.save_best)
        if is_master(args) or switch(args, "fsdp"):
            keep = getattr(getattr(tokenizer, "identity_cfg", None), "face_length", None) == STORED
            self.evaluation_set = _read(self.shards, options.val_stride, keep)

    def metrics(self, model: torch.nn.Module) -> dict[str, float]:
        """Metrics of both protocols (`docs/evaluation.md`) for the bare model in evaluation mode."""
        args = self.args
        loaded = LoadedModel(
            model, self.preprocess, self.tokenizer, args.model, None, torch.device(args.device), args.precision
        )
        encoder = QueryEncoder(loaded, batch_size=args.batch_size)
        images = self.images or self._encode(encoder)
        if not any(parameter.requires_grad for parameter in model.visual.parameters()):
            self.images = images
        results = run(images.evaluation_set, images.features, encoder, self.settings)
        return results.metrics[self.settings.configurations[0]]

    def _encode(self, encoder: QueryEncoder) -> EncodedImages:
        images = encode_images(
            self.shards,
            self.evaluation_set,
            encoder,
            self.preprocess,
            batch_size=self.args.batch_size,
            workers=self.args.workers,
            progress=False,
        )
        if images.skipped:
            logging.warning(f"Validation leaves out {len(images.skipped)} images that cannot be decoded.")
        return images


def _read(shards: str, stride: int, keep_lengths: bool) -> EvaluationSet:
    skipped: dict[str, str] = {}
    try:
        everything = load_evaluation_set(shards, skipped=skipped, keep_lengths=keep_lengths)
    except (tarfile.TarError, OSError) as error:
        raise IdClipError(f"the validation shards {shards} cannot be read ({error}).") from None
    if skipped:
        logging.warning(f"Validation leaves out {len(skipped)} samples, such as {next(iter(skipped.items()))}.")
    chosen = everything.take(range(0, len(everything), stride))
    people = len(set(chosen.identity_ids))
    logging.info(f"Validation on {len(chosen)} images of {people} people from {shards}")
    return chosen


def _check_metric(name: str | None) -> None:
    nothing = np.zeros(1, np.int64)
    known = [
        *metrics.general_metrics(metrics.Ranks(nothing, nothing, None)),
        *metrics.entity_metrics(nothing[None], nothing, nothing),
    ]
    if name is not None and name not in known:
        raise IdClipError(f"--id-save-best is {name!r}; it must be one of {', '.join(known)}.")
