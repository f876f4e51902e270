"""Every change to open_clip_train for one training run: the table of rows, and the functions that they put in place.

Role: `TrainingRun` holds what the host's functions cannot hand to each other (our flags, the bare model, the validation
set); `rows` is the whole list of changes, applied before the host's `main` and undone after it. Nothing inside
`train_one_epoch`, the optimizer or the checkpoints is changed.
"""

import argparse
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip_train.data import get_dataset_fn, get_wds_dataset
from open_clip_train.train import unwrap_model
from torch.nn.parallel import DistributedDataParallel

from open_clip_idplugin import host_patches
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.host_patches import PatchRow
from open_clip_idplugin.model import IdCLIP
from open_clip_idplugin.tokenizer import identity_tokenizer_or
from training_patches import params
from training_patches.best import BEST, keep_best
from training_patches.data import Decoder, PairMaker, batch_order, check_training_shards, use_identity_pairs
from training_patches.loss_choice import identity_loss
from training_patches.params import IdentityOptions
from training_patches.validation import IdentityValidation
from webdataset_tools.sample_format import shard_paths

_CHECKED = "open_clip 2.32 and 3.3"
_MAIN = "open_clip_train.main"


def rows(run: "TrainingRun") -> tuple[PatchRow, ...]:
    """All changes to the hosts that a training run makes, and one thing it relies on."""
    return (
        PatchRow(
            targets=(f"{_MAIN}:parse_args",),
            replacement=_before(run.parse_args),
            reason="the host's flags are one closed function",
            hosts=_CHECKED,
            parameters=("args",),
        ),
        PatchRow(
            targets=(f"{_MAIN}:create_model_and_transforms",),
            replacement=_before(run.create_model_and_transforms),
            reason="nothing else is called before the optimizer that could check the model or freeze its temperature",
            hosts=_CHECKED,
            parameters=("model_name", "pretrained", "precision", "device"),
        ),
        PatchRow(
            targets=(f"{_MAIN}:get_latest_checkpoint",),
            replacement=_before(run.get_latest_checkpoint),
            reason="--resume latest takes any .pt file of the folder, our best.pt too",
            hosts=_CHECKED,
            parameters=("path", "remote"),
        ),
        PatchRow(
            targets=(f"{_MAIN}:get_tokenizer",),
            replacement=identity_tokenizer_or,
            reason="imported by name, perhaps before this plugin",
            hosts=_CHECKED,
            parameters=("model_name", "cache_dir"),
        ),
        PatchRow(
            targets=(f"{_MAIN}:get_data",),
            replacement=_before(run.get_data),
            reason="the stages of the loader are fixed inside a function",
            hosts=_CHECKED,
            parameters=("args", "preprocess_fns", "epoch", "tokenizer"),
        ),
        PatchRow(
            targets=(f"{_MAIN}:create_loss",),
            replacement=_before(run.create_loss),
            reason="the loss is picked by a fixed if",
            hosts=_CHECKED,
            parameters=("args",),
        ),
        PatchRow(
            targets=(f"{_MAIN}:evaluate",),
            replacement=_before(run.evaluate),
            reason="one rank alone hangs in a wrapped model (open_clip#1121); the host cannot read our validation set",
            hosts=_CHECKED,
            parameters=("model", "data", "epoch", "args", "tb_writer", "tokenizer"),
            marker="zero_shot_eval(model, data, epoch, args",
        ),
        PatchRow(
            targets=("open_clip_train.train:zero_shot_eval",),
            replacement=_before(run.zero_shot_eval),
            reason="what it returns the host logs (results.jsonl, TensorBoard, W&B), which has no other way in",
            hosts=_CHECKED,
            parameters=("model", "data", "epoch", "args", "tokenizer"),
        ),
        PatchRow(
            targets=("torch.nn.parallel:DistributedDataParallel",),
            replacement=lambda _original: DeviceAwareDataParallel,
            reason="the host passes device_ids for a CPU too, which torch refuses: no gloo training otherwise",
            hosts=f"{_CHECKED}, torch 2.11",
            parameters=("module", "device_ids"),
        ),
        PatchRow(
            targets=("open_clip_train.train:train_one_epoch",),
            reason="check only: a batch is a pair, and its texts go through .to to the model as they are",
            hosts=_CHECKED,
            marker="images, texts = batch",
        ),
    )


def _before(method: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that takes the host's function as its first argument -> the replacement of a row."""
    return lambda original: functools.wraps(original)(functools.partial(method, original))


class TrainingRun:
    """One call of the host's `main`. Each method but `__call__` stands in for the host function of its name."""

    def __init__(self) -> None:
        self.options = IdentityOptions()
        self.model: Any = None  # bare: neither compiled nor wrapped for several processes
        self.validation: IdentityValidation | None = None

    def __call__(self, arguments: Sequence[str]) -> Any:
        """Train by these command-line arguments; returns what the host's `main` does (-1 where it refuses to start)."""
        from open_clip_train.main import main

        table = rows(self)
        host_patches.apply(table)
        try:
            return main(list(arguments))
        finally:
            host_patches.restore(table)

    def parse_args(self, host: Callable[..., Any], args: Sequence[str]) -> argparse.Namespace:
        """Parse the host's flags and ours."""
        namespace, self.options = params.parse_args(args, host)
        return namespace

    def get_latest_checkpoint(self, host: Callable[..., Any], path: str, remote: bool) -> str | None:
        """The newest checkpoint that training can go on from; `best.pt` comes before any `epoch_N.pt`."""
        found: str | None = host(path, remote)
        return None if found and Path(found).name == BEST else found

    def create_model_and_transforms(self, host: Callable[..., Any], model_name: str, *args: Any, **kwargs: Any) -> Any:
        """Create a model; the first one is trained (distillation makes a second, the teacher)."""
        created = host(model_name, *args, **kwargs)
        if self.model is None:
            self.model = created[0]
            flags = self.options.changed_flags()
            if flags and not isinstance(self.model, IdCLIP):
                raise IdClipError(
                    f"{flags[0]} is for models that take faces, and {model_name} does not; "
                    "drop it or choose an IdCLIP-* model."
                )
            freeze_temperature(self.model, self.options)
        return created

    def get_data(
        self,
        host: Callable[..., Any],
        args: argparse.Namespace,
        preprocess_fns: tuple[Any, Any],
        epoch: int = 0,
        tokenizer: Any = None,
    ) -> dict[str, Any]:
        """Let the host build its loaders, then give the training one identities and add our validation set."""
        if args.train_data and Path(args.train_data).is_dir():
            args.train_data = "::".join(shard_paths(args.train_data))
        with_identities = isinstance(self.model, IdCLIP) and args.train_data and _reads_shards(args)
        if with_identities:
            check_training_shards(args, tokenizer.identity_cfg.face_dim)
        data: dict[str, Any] = host(args, preprocess_fns, epoch=epoch, tokenizer=tokenizer)
        if with_identities:
            options = self.options
            make_pair = PairMaker(
                Decoder(preprocess_fns[0]),
                tokenizer,
                options.caption,
                tuple(options.setups),
                options.face_dropout,
                options.labelled,
                args.seed,
            )
            use_identity_pairs(data["train"], make_pair, args.batch_size, batch_order(options, args.batch_size))
        elif isinstance(self.model, IdCLIP) and "train" in data:
            logging.warning("These training data are no webdataset shards: captions are trained without identities.")
        if self.options.val_data:
            self.validation = IdentityValidation(self.options, preprocess_fns[1], tokenizer, args)
            data.setdefault("val", self.validation)  # the host evaluates only when there is a 'val'
        return data

    def create_loss(self, host: Callable[..., Any], args: argparse.Namespace) -> Any:
        """The host's loss, or one that knows the setups and who is in the images."""
        return identity_loss(host, args, self.options) if isinstance(self.model, IdCLIP) else host(args)

    def evaluate(
        self, host: Callable[..., Any], model: Any, data: dict[str, Any], epoch: int, args: Any, **logging_to: Any
    ) -> dict[str, float]:
        """Evaluate on the bare model as in a single process, so that rank 0 waits for no other."""
        data = {name: info for name, info in data.items() if info is not self.validation}
        if args.distributed and not args.horovod:
            model = unwrap_model(model)
            args = argparse.Namespace(**{**vars(args), "distributed": False})
        metrics: dict[str, float] = host(model, data, epoch, args, **logging_to)
        return metrics

    def zero_shot_eval(
        self, host: Callable[..., Any], model: Any, data: dict[str, Any], epoch: int, args: Any, **kwargs: Any
    ) -> dict[str, float]:
        """Add retrieval on held-out people to the host's metrics, and keep the best weights. Runs on rank 0 only."""
        metrics: dict[str, float] = host(model, data, epoch, args, **kwargs)
        last = epoch == args.epochs or "train" not in data
        if self.validation is not None and (last or epoch % self.options.val_frequency == 0):
            metrics = {**metrics, **self.validation.metrics(self.model), "epoch": epoch}
            if self.options.save_best and "train" in data:
                keep_best(Path(args.checkpoint_path), self.options.save_best, metrics, self.model, args.name)
        return metrics


class DeviceAwareDataParallel(DistributedDataParallel):
    """torch's wrapper, which on a CPU leaves out the `device_ids` that torch takes for GPUs only."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


def freeze_temperature(model: Any, options: IdentityOptions) -> None:
    """Set and freeze `logit_scale` as `--id-temperature` says; the host's optimizer takes what has a gradient."""
    if options.temperature == params.LEARNED:
        return
    if options.frozen_log_scale is not None:
        model.logit_scale.data.fill_(options.frozen_log_scale)
    model.logit_scale.requires_grad_(False)


def _reads_shards(args: argparse.Namespace) -> bool:
    return get_dataset_fn(args.train_data, args.dataset_type) is get_wds_dataset
