"""Every change to open_clip_train for one training run: the table of rows, and the functions that they put in place.

Role: `TrainingRun` holds what the host's functions cannot hand to each other (our flags, the bare model, the validation
set); `rows` is the whole list of changes, applied before the host's `main` and undone after it. Nothing inside
`train_one_epoch`, the optimizer or the checkpoints is changed.
"""

import argparse
import functools
import logging
import shutil
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip_train.data import get_dataset_fn, get_wds_dataset
from open_clip_train.train import unwrap_model
from torch.nn.parallel import DistributedDataParallel

import open_clip_idplugin
import training_patches
import webdataset_tools
from open_clip_idplugin.checkpoints.loading import described_model
from open_clip_idplugin.checkpoints.model_view import view_of
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.patches import PatchRow
from open_clip_idplugin.hosts.registration import add_models
from open_clip_idplugin.model import IdCLIP
from open_clip_idplugin.storage.weight_files import LIGHTNING, TORCHSCRIPT, first_lines, kind_of, weight_shapes
from open_clip_idplugin.tokenizer import IdentityTokenizer, identity_tokenizer_or, tokenizer_missing
from training_patches import params
from training_patches.best import BEST, keep_best
from training_patches.data import Decoder, PairMaker, batch_order, check_training_shards, use_identity_pairs
from training_patches.facts import note_facts, require_kept, view_to_go_on_with
from training_patches.image_cache import cached_sample, cached_shards, read_features, require_cacheable
from training_patches.learning_rates import TowerRates, require_trained_towers
from training_patches.loss_choice import identity_loss
from training_patches.model_options import changed_config, require_as_asked
from training_patches.params import IdentityOptions
from training_patches.validation import IdentityValidation
from webdataset_tools.sample_format import Sample, members_to_sample, shard_paths

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
            targets=(f"{_MAIN}:copy_codebase",),
            replacement=lambda _original: copy_packages,
            reason="--copy-codebase copies the folder that the host is installed in: the whole environment",
            hosts=_CHECKED,
            parameters=("args",),
        ),
        PatchRow(
            targets=(f"{_MAIN}:get_tokenizer",),
            replacement=_before(run.get_tokenizer),
            reason="imported by name, perhaps before this plugin; flags change what the tokenizer must know",
            hosts=_CHECKED,
            parameters=("model_name", "cache_dir"),
        ),
        PatchRow(
            targets=(f"{_MAIN}:optim",),
            replacement=run.optimizers,
            reason="the optimizer and its two parameter groups are made inside main; only main's name for torch.optim changes",
            hosts=_CHECKED,
        ),
        PatchRow(
            targets=("open_clip_train.scheduler:assign_learning_rate",),
            replacement=_before(run.assign_learning_rate),
            reason="the schedules write one learning rate into every parameter group",
            hosts=_CHECKED,
            parameters=("optimizer", "new_lr"),
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
        self.rates: TowerRates | None = None
        self.args = argparse.Namespace()  # the host's
        self.settings: Mapping[str, Any] = {}  # of open_clip's factory for the model
        self.built_as: Any = None  # the model's IdentityConfig when the optimizer was made

    def __call__(self, arguments: Sequence[str]) -> Any:
        """Train by these command-line arguments; returns what the host's `main` does (-1 where it refuses to start)."""
        from open_clip_train.main import main

        table = rows(self)
        host_patches.apply(table)
        try:
            return main(list(arguments))
        except (ValueError, RuntimeError) as error:
            if isinstance(error, IdClipError):
                raise
            self._explain(error)
            raise
        finally:
            host_patches.restore(table)

    def _explain(self, error: Exception) -> None:
        """Raise IdClipError for what torch says of a checkpoint that does not fit."""
        if "parameter group" in str(error):  # of the optimizers
            raise IdClipError(
                f"the checkpoint {self.args.resume} was trained with other parts frozen or other learning-rate flags; repeat "
                "the flags of its run."
            ) from error
        if "loading state_dict" in str(error):
            raise IdClipError(
                f"the checkpoint {self.args.resume} does not fit the model {self.args.model}: {first_lines(error)}"
            ) from error

    def parse_args(self, host: Callable[..., Any], args: Sequence[str]) -> argparse.Namespace:
        """Parse the host's flags and ours."""
        self.args, self.options = params.parse_args(args, host)
        try:
            torch.device(self.args.device)
        except RuntimeError as error:
            raise IdClipError(f"--device is '{self.args.device}': {first_lines(error)}") from None
        if self.args.model_config is not None:
            add_models(self.args.model_config)
        return self.args

    def get_latest_checkpoint(self, host: Callable[..., Any], path: str, remote: bool) -> str | None:
        """The newest checkpoint that training can go on from; `best.pt` comes before any `epoch_N.pt`."""
        found: str | None = host(path, remote)
        return None if found and Path(found).name == BEST else found

    def create_model_and_transforms(self, host: Callable[..., Any], model_name: str, *args: Any, **kwargs: Any) -> Any:
        """Create a model; the first one is trained (distillation makes a second, the teacher)."""
        if self.model is not None:
            return host(model_name, *args, **kwargs)
        require_tensors_only(self.args)
        weights = args[0] if args else kwargs.get("pretrained")
        if ":" not in model_name:  # else of a hub or a folder, which the host looks into
            described_model(model_name, self.args.resume or weights)
        require_kept(model_name, self.args)
        changes = self.options.model
        if changes:
            kwargs["identity_cfg"] = changed_config(model_name, changes)
        kwargs |= view_to_go_on_with(weights, kwargs)
        self.settings = kwargs
        try:
            created = host(model_name, *args, **kwargs)
        except OSError as error:  # of a text tower or weights on a hub
            raise IdClipError(f"the model {model_name} cannot be built: {first_lines(error)}") from error
        except (RuntimeError, AssertionError) as error:  # open_clip asserts what it resizes
            if isinstance(error, IdClipError) or not weights:
                raise
            raise IdClipError(
                f"the checkpoint {weights} does not fit the model {model_name}: {first_lines(error)}"
            ) from error
        self.model = created[0]
        if isinstance(self.model, IdCLIP):
            require_as_asked(self.model.identity_cfg, changes, weights)
        elif flags := self.options.changed_flags():
            raise IdClipError(
                f"{flags[0]} is for models that take faces, and {model_name} does not; "
                "drop it or choose a model whose config has an identity_cfg."
            )
        require_size_taken(self.model, model_name, kwargs.get("force_image_size"))
        freeze_temperature(self.model, self.options)
        return created

    def get_tokenizer(self, host: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The host's; that of an IdCLIP knows the model as the flags have made it."""
        name = args[0] if args else kwargs["model_name"]
        try:
            tokenizer = identity_tokenizer_or(host)(*args, **kwargs)
        except (OSError, ImportError) as error:  # of a plain model; those of ours have their sentence
            raise tokenizer_missing(name, open_clip.get_model_config(name), error) from None
        if isinstance(tokenizer, IdentityTokenizer) and isinstance(self.model, IdCLIP):
            return IdentityTokenizer(tokenizer.base, self.model.identity_cfg, tokenizer.model_name)
        return tokenizer

    def optimizers(self, host: Any) -> Any:
        """torch.optim as main sees it: AdamW with the learning rates of the towers."""
        return types.SimpleNamespace(**{**vars(host), "AdamW": functools.partial(self.create_optimizer, host.AdamW)})

    def create_optimizer(self, host: Callable[..., Any], groups: Any, **settings: Any) -> Any:
        """Create AdamW for the host's groups, or for these split by tower."""
        self.built_as = getattr(self.model, "identity_cfg", None)
        if self.options.lr_image is None and self.options.lr_text is None:
            return host(groups, **settings)
        require_trained_towers(self.model, self.options)
        self.rates = TowerRates(self.model, self.options, self.args.lr)
        return self.rates.create_optimizer(host, groups, **settings)

    def assign_learning_rate(self, host: Callable[..., Any], optimizer: Any, new_lr: float) -> None:
        """At every step of the schedule."""
        if self.rates is None:
            host(optimizer, new_lr)
        else:
            self.rates.assign(optimizer, new_lr)

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
        face_model = None
        if with_identities:
            face_model = check_training_shards(args, tokenizer.identity_cfg.face_dim)
            self._require_same_model(args)
        if args.train_data:
            note_facts(args, self.options, view_of(self.model, self.settings), face_model)
        read_image: Callable[[bytes], torch.Tensor] = Decoder(preprocess_fns[0])
        read_sample: Callable[[Mapping[str, Any]], Sample] = members_to_sample
        if self.options.cache_images and args.train_data:
            if not with_identities:
                raise IdClipError("--id-cache-images needs training shards (--dataset-type webdataset).")
            require_cacheable(self.model, args)
            folder, dtype = self.options.cache_images, self.options.cache_dtype
            args.train_data = "::".join(cached_shards(self.model, preprocess_fns[1], args, folder, dtype))
            read_image, read_sample = read_features, cached_sample
            logging.info("Pictures are not decoded: random crops and other augmentations are off.")
        data: dict[str, Any] = host(args, preprocess_fns, epoch=epoch, tokenizer=tokenizer)
        if "train" in data and isinstance(self.model, IdCLIP):
            params.require_steps(args, data["train"].dataloader.num_batches)
        if with_identities:
            options = self.options
            make_pair = PairMaker(
                read_image,
                tokenizer,
                options.caption,
                tuple(options.setups),
                options.face_dropout,
                options.face_noise,
                options.labelled,
                args.seed,
                options.hidden_token,
            )
            order = batch_order(options, args.batch_size)
            use_identity_pairs(data["train"], make_pair, args.batch_size, order, read_sample)
        elif isinstance(self.model, IdCLIP) and "train" in data:
            logging.warning("These training data are no webdataset shards: captions are trained without identities.")
        if self.options.val_data:
            self.validation = IdentityValidation(self.options, preprocess_fns[1], tokenizer, args)
            data.setdefault("val", self.validation)  # the host evaluates only when there is a 'val'
        return data

    def _require_same_model(self, args: argparse.Namespace) -> None:
        # A model takes the shapes of a checkpoint; the optimizer would go on with the parameters from before.
        if self.built_as is not None and self.model.identity_cfg != self.built_as:
            raise IdClipError(
                f"the checkpoint {args.resume} was trained with other model options than this command's; repeat the --id-* "
                f"flags of its run ({self.model.identity_cfg})."
            )

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


def require_tensors_only(args: argparse.Namespace) -> None:
    """Refuse, before the host unpickles them, files of `--pretrained` and `--resume` that are no checkpoints of tensors."""
    for path in (args.pretrained, args.resume):
        if path and Path(path).is_file():
            weight_shapes(path)
    if args.resume and Path(args.resume).is_file() and kind_of(args.resume) in (TORCHSCRIPT, LIGHTNING):
        raise IdClipError(f"{args.resume} is no checkpoint of a training run; start from it with --pretrained.")
    if args.resume and Path(args.resume).name == BEST:
        raise IdClipError(
            f"{args.resume} holds no state of the optimizer, so that training cannot go on from it; resume an epoch_N.pt, or "
            "start from it with --pretrained."
        )


def copy_packages(args: argparse.Namespace) -> None:
    """`--copy-codebase`: the packages of this project -> LOGS/NAME/code. Raises IdClipError where there is something already."""
    target = Path(args.logs) / args.name / "code"
    if target.exists():
        raise IdClipError(f"--copy-codebase: {target} exists already; choose another --name.")
    for package in (open_clip_idplugin, webdataset_tools, training_patches):
        folder = Path(package.__path__[0])
        shutil.copytree(folder, target / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    logging.info(f"Copied this project's packages to {target}")


def require_size_taken(model: Any, model_name: str, size: Any) -> None:
    """Refuse a `--force-image-size` that the image tower cannot take: open_clip resizes what it knows, timm's towers may not."""
    if size is None:
        return
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    visual, training = model.visual, model.visual.training
    visual.eval()  # statistics of batches stay as they are
    weights = next(visual.parameters())
    try:
        with torch.no_grad():
            visual(torch.zeros(1, 3, height, width, dtype=weights.dtype, device=weights.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise IdClipError(
            f"the image tower of {model_name} takes no pictures of {height} x {width} pixels ({first_lines(error)}); drop "
            "--force-image-size."
        ) from error
    finally:
        visual.train(training)


def freeze_temperature(model: Any, options: IdentityOptions) -> None:
    """Set and freeze `logit_scale` as `--id-temperature` says; the host's optimizer takes what has a gradient."""
    if options.temperature == params.LEARNED:
        return
    if options.frozen_log_scale is not None:
        model.logit_scale.data.fill_(options.frozen_log_scale)
    model.logit_scale.requires_grad_(False)


def _reads_shards(args: argparse.Namespace) -> bool:
    return get_dataset_fn(args.train_data, args.dataset_type) is get_wds_dataset
