"""Training run: command line -> a model that open_clip_train's own `main` has trained, with identities.

Role: `TrainingRun` holds what the host's functions cannot hand to each other (our flags, the bare model, the validation
set). Its methods stand in for host functions, as the table in `host_rows` says.
"""

import argparse
import functools
import importlib
import logging
import shutil
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip_train.data import get_dataset_fn, get_wds_dataset
from open_clip_train.distributed import is_master

import open_clip_idplugin
import training_patches
import webdataset_tools
from open_clip_idplugin.checkpoints.delta_files import apply_delta
from open_clip_idplugin.checkpoints.loading import base_and_delta, described_model
from open_clip_idplugin.checkpoints.model_view import view_of
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.registration import add_models
from open_clip_idplugin.hosts.tokenizers import tokenizer_missing
from open_clip_idplugin.model import IdCLIP
from open_clip_idplugin.storage.weight_files import first_lines
from open_clip_idplugin.tokenizer import IdentityTokenizer
from training_patches import params
from training_patches.checkpoints import (
    BEST,
    explain_misfit,
    keep_best,
    note_facts,
    require_kept,
    require_tensors_only,
    view_to_go_on_with,
)
from training_patches.data import batch_order, check_training_shards, use_identity_pairs
from training_patches.distributed import DeviceAwareDataParallel
from training_patches.host_flags import require_own_members, require_steps, switch
from training_patches.host_rows import Loop, offered_loop, rows
from training_patches.image_cache import cached_sample, cached_shards, read_features, require_cacheable
from training_patches.learning_rates import TowerRates, require_trained_towers
from training_patches.loss_terms import identity_loss
from training_patches.model_options import changed_config, require_as_asked, require_size_taken
from training_patches.pairs import Decoder, pair_maker
from training_patches.params import IdentityOptions
from training_patches.validation import IdentityValidation
from webdataset_tools.sample_format import Sample, members_to_sample, shard_paths


class TrainingRun:
    """One call of the host's `main`. Each method but `__call__` stands in for the host function of its name."""

    def __init__(self, loop: Loop | None = None) -> None:
        """loop: one of the host's; without it that of the host's training command."""
        self.loop = loop or offered_loop()
        self.options = IdentityOptions()
        self.model: Any = None  # bare: neither compiled nor wrapped for several processes
        self.validation: IdentityValidation | None = None
        self.rates: TowerRates | None = None
        self.args = argparse.Namespace()  # the host's
        self.settings: Mapping[str, Any] = {}  # of open_clip's factory for the model
        self.built_as: Any = None  # the model's IdentityConfig when the optimizer was made

    def __call__(self, arguments: Sequence[str]) -> Any:
        """Train by these command-line arguments; returns what the host's `main` does (-1 where it refuses to start)."""
        main = importlib.import_module(self.loop.main).main
        table = rows(self)
        host_patches.apply(table)
        try:
            return main(list(arguments))
        except (ValueError, RuntimeError) as error:
            if isinstance(error, IdClipError):
                raise
            explain_misfit(error, self.args)
            raise
        finally:
            host_patches.restore(table)

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

    def copy_codebase(self, host: Callable[..., Any], args: argparse.Namespace) -> None:
        """`--copy-codebase`: this project's packages, not the whole environment."""
        copy_packages(args)

    def data_parallel(self, host: Any) -> Any:
        """torch's wrapper, for CPUs too."""
        return DeviceAwareDataParallel

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
        base, delta = weights, None
        if ":" not in model_name:  # else of a hub or a folder, which the host looks into
            described_model(model_name, self.args.resume or weights)
            base, delta = base_and_delta(model_name, weights or "")
        args, kwargs = args[1:], {**kwargs, "pretrained": base}
        require_kept(model_name, self.args)
        changes = self.options.model
        if changes or delta is not None:
            kwargs["identity_cfg"] = changed_config(model_name, changes, delta.identity_cfg if delta else None)
        self.settings = kwargs = {**kwargs, **view_to_go_on_with(weights, kwargs, delta)}
        try:
            created = host(model_name, *args, **kwargs)
            if delta is not None:
                apply_delta(delta, created[0], afresh=True)
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
        elif flags := [flag for flag in self.options.changed_flags() if flag != "--id-legacy-loop"]:
            raise IdClipError(
                f"{flags[0]} is for models that take faces, and {model_name} does not; "
                "drop it or choose a model whose config has an identity_cfg."
            )
        require_size_taken(self.model, model_name, kwargs.get("force_image_size"))
        freeze_temperature(self.model, self.options)
        return created

    def get_tokenizer(self, _host: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """open_clip's as it is registered; that of an IdCLIP knows the model as the flags have made it."""
        name = args[0] if args else kwargs["model_name"]
        try:
            tokenizer = open_clip.get_tokenizer(*args, **kwargs)
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
        **settings: Any,
    ) -> dict[str, Any]:
        """Let the host build its loaders, then give the training one identities and add our validation set."""
        if args.train_data and Path(args.train_data).is_dir():
            args.train_data = "::".join(shard_paths(args.train_data))
        with_identities = isinstance(self.model, IdCLIP) and args.train_data and _reads_shards(args)
        face_model = None
        if with_identities:
            require_own_members(args)
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
        data: dict[str, Any] = host(args, preprocess_fns, epoch=epoch, tokenizer=tokenizer, **settings)
        if "train" in data and isinstance(self.model, IdCLIP):
            require_steps(args, data["train"].dataloader.num_batches)
        if with_identities:
            options = self.options
            make_pair = pair_maker(options, read_image, tokenizer, args.seed)
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

    def create_task(self, host: Callable[..., Any], args: argparse.Namespace, model: Any, **settings: Any) -> Any:
        """The host's task, or one whose batches hold texts about people."""
        if not isinstance(model, IdCLIP):
            return host(args, model=model, **settings)
        from training_patches.identity_task import create_identity_task  # which not every host can import

        loss = identity_loss(open_clip.create_loss, args, self.options)
        return create_identity_task(args, model, loss, settings.get("dist_model"))

    def evaluate(
        self, host: Callable[..., Any], trained: Any, data: dict[str, Any], epoch: int, args: Any, **logging_to: Any
    ) -> dict[str, float]:
        """Evaluate a model (or task); a model bare and as in a single process, so that rank 0 waits for no other."""
        data = {name: info for name, info in data.items() if info is not self.validation}
        if not self.loop.tasks and args.distributed and not switch(args, "horovod"):
            trained = self.model
            args = argparse.Namespace(**{**vars(args), "distributed": False})
        metrics: dict[str, float] = host(trained, data, epoch, args, **logging_to)
        return metrics

    def zero_shot_eval(
        self, host: Callable[..., Any], trained: Any, data: dict[str, Any], epoch: int, args: Any, **kwargs: Any
    ) -> dict[str, float]:
        """Add retrieval on held-out people to the host's metrics, and keep the best weights.

        Runs on rank 0 only, but with `--fsdp` on all: each holds a part of the weights, and none can encode alone.
        """
        metrics: dict[str, float] = host(trained, data, epoch, args, **kwargs)
        last = epoch == args.epochs or "train" not in data
        if self.validation is not None and (last or epoch % self.options.val_frequency == 0):
            metrics = {**metrics, **self.validation.metrics(self.model), "epoch": epoch}
            if self.options.save_best and "train" in data:
                # A task has its own form; where processes share the weights it gathers them on the first.
                weights = trained.state_dict()["state_dict"] if self.loop.tasks else self.model.state_dict()
                if is_master(args):
                    keep_best(Path(args.checkpoint_path), self.options.save_best, metrics, weights, args.name)
        return metrics


def freeze_temperature(model: Any, options: IdentityOptions) -> None:
    """Set and freeze `logit_scale` as `--id-temperature` says; the host's optimizer takes what has a gradient."""
    if options.temperature == params.LEARNED:
        return
    if options.frozen_log_scale is not None:
        model.logit_scale.data.fill_(options.frozen_log_scale)
    model.logit_scale.requires_grad_(False)


def copy_packages(args: argparse.Namespace) -> None:
    """`--copy-codebase`: the packages of this project -> LOGS/NAME/code. Raises IdClipError where there is something already."""
    target = Path(args.logs) / args.name / "code"
    if target.exists():
        raise IdClipError(f"--copy-codebase: {target} exists already; choose another --name.")
    for package in (open_clip_idplugin, webdataset_tools, training_patches):
        folder = Path(package.__path__[0])
        shutil.copytree(folder, target / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    logging.info(f"Copied this project's packages to {target}")


def _reads_shards(args: argparse.Namespace) -> bool:
    return get_dataset_fn(args.train_data, args.dataset_type) is get_wds_dataset
