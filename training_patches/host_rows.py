"""Patch rows: a training run -> every change to open_clip_train for it, and what this package imports from the hosts by name.

Role: `rows` are applied before the host's `main` and undone after it; nothing inside `train_one_epoch`, the optimizer or the
checkpoints is changed. `PARAMS` and `IMPORTED` are check-only rows, verified before the modules load that import those
names: an open_clip or webdataset that has moved on is refused in a sentence where `import` would end in a traceback. This
module itself imports no host.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.patches import PatchRow

_CHECKED = "open_clip 2.32, 3.3 and 4.2.0.dev0"
_READ_DIRECTLY = "check only: imported by name, without a change"

PARAMS = PatchRow(
    targets=("open_clip_train.params:parse_args",), reason=_READ_DIRECTLY, hosts=_CHECKED, parameters=("args",)
)

IMPORTED: tuple[PatchRow, ...] = tuple(
    PatchRow(targets=(target,), reason=_READ_DIRECTLY, hosts=f"{_CHECKED}, webdataset 0.2 and 1.0")
    for target in (
        "open_clip:get_input_dtype",
        "open_clip_train.data:DataInfo",
        "open_clip_train.data:SharedEpoch",
        "open_clip_train.data:_SAMPLE_SHUFFLE_INITIAL",
        "open_clip_train.data:_SAMPLE_SHUFFLE_SIZE",
        "open_clip_train.data:get_dataset_fn",
        "open_clip_train.data:get_wds_dataset",
        "open_clip_train.data:group_by_keys_nothrow",
        "open_clip_train.data:log_and_continue",
        "open_clip_train.distributed:is_master",
        "open_clip_train.main:main",
        "open_clip_train.precision:get_autocast",
        "webdataset.filters:_shuffle",
        "webdataset.tariterators:tar_file_expander",
        "webdataset.tariterators:url_opener",
    )
)


@dataclass(frozen=True)
class Loop:
    """One of the training loops that open_clips offer.

    main, train: its modules. tasks: whether it trains a task (model and loss in one, `open_clip.task`) instead of a model.
    batch: how its code takes a batch apart, which no signature tells.
    """

    main: str
    train: str
    tasks: bool
    batch: str


_PAIR_LOOP = Loop("open_clip_train.main", "open_clip_train.train", tasks=False, batch="images, texts = batch\n")
_TASK_LOOP = Loop("open_clip_train.main", "open_clip_train.train", tasks=True, batch="task.prepare_batch(batch, ")
_LEGACY_LOOP = Loop(
    "open_clip_train.legacy_main",
    "open_clip_train.legacy_train",
    tasks=False,
    batch='images, texts = batch["image"], batch["text"]\n',
)


def offered_loop(legacy: bool = False) -> Loop:
    """The loop of the installed open_clip's training command, or its former one where it has kept that beside it.

    Raises IdClipError for `legacy` where there is none.
    """
    if hasattr(importlib.import_module("open_clip_train.main"), "create_task"):
        return _LEGACY_LOOP if legacy else _TASK_LOOP
    if legacy:
        raise IdClipError(
            "--id-legacy-loop is for an open_clip with two training loops; the installed one has one: drop it."
        )
    return _PAIR_LOOP


def rows(run: Any) -> tuple[PatchRow, ...]:
    """All changes to the hosts that a `TrainingRun` makes, and one thing it relies on, for the loop that it uses."""
    loop: Loop = run.loop
    return (
        PatchRow(
            targets=(f"{loop.main}:parse_args",),
            replacement=_before(run.parse_args),
            reason="the host's flags are one closed function",
            hosts=_CHECKED,
            parameters=("args",),
        ),
        PatchRow(
            targets=(f"{loop.main}:create_model_and_transforms",),
            replacement=_before(run.create_model_and_transforms),
            reason="nothing else is called before the optimizer that could check the model or freeze its temperature",
            hosts=_CHECKED,
            parameters=("model_name", "pretrained", "precision", "device"),
        ),
        PatchRow(
            targets=(f"{loop.main}:get_latest_checkpoint",),
            replacement=_before(run.get_latest_checkpoint),
            reason="--resume latest takes any .pt file of the folder, our best.pt too",
            hosts=_CHECKED,
            parameters=("path", "remote"),
        ),
        PatchRow(
            targets=(f"{loop.main}:copy_codebase",),
            replacement=_before(run.copy_codebase),
            reason="--copy-codebase copies the folder that the host is installed in: the whole environment",
            hosts=_CHECKED,
            parameters=("args",),
        ),
        PatchRow(
            targets=(f"{loop.main}:get_tokenizer",),
            replacement=_before(run.get_tokenizer),
            reason="imported by name, perhaps before this plugin; flags change what the tokenizer must know",
            hosts=_CHECKED,
            parameters=("model_name", "cache_dir"),
        ),
        PatchRow(
            targets=(f"{loop.main}:get_data",),
            replacement=_before(run.get_data),
            reason="the stages of the loader are fixed inside a function",
            hosts=_CHECKED,
            parameters=("args", "preprocess_fns", "epoch", "tokenizer"),
        ),
        PatchRow(
            targets=("torch.nn.parallel:DistributedDataParallel",),
            replacement=run.data_parallel,
            reason="the host passes device_ids for a CPU too, which torch refuses: no gloo training otherwise",
            hosts=f"{_CHECKED}, torch 2.11",
            parameters=("module", "device_ids"),
        ),
        PatchRow(
            targets=(f"{loop.train}:train_one_epoch",),
            reason="check only: how a batch is taken apart; its texts go to the model as they are",
            hosts=_CHECKED,
            marker=loop.batch,
        ),
        *(_task_rows(run, loop) if loop.tasks else _model_rows(run, loop)),
    )


def _model_rows(run: Any, loop: Loop) -> tuple[PatchRow, ...]:
    """Of a loop that trains a model and is given a loss."""
    return (
        PatchRow(
            targets=(f"{loop.main}:optim",),
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
            targets=(f"{loop.main}:create_loss",),
            replacement=_before(run.create_loss),
            reason="the loss is picked by a fixed if",
            hosts=_CHECKED,
            parameters=("args",),
        ),
        PatchRow(
            targets=(f"{loop.main}:evaluate",),
            replacement=_before(run.evaluate),
            reason="one rank alone hangs in a wrapped model (open_clip#1121); the host cannot read our validation set",
            hosts=_CHECKED,
            parameters=("model", "data", "epoch", "args", "tb_writer", "tokenizer"),
            marker="zero_shot_eval(model, data, epoch, args",
        ),
        PatchRow(
            targets=(f"{loop.train}:zero_shot_eval",),
            replacement=_before(run.zero_shot_eval),
            reason="what it returns the host logs (results.jsonl, TensorBoard, W&B), which has no other way in",
            hosts=_CHECKED,
            parameters=("data", "epoch", "args", "tokenizer"),  # the first is called model or model_or_task
        ),
    )


def _task_rows(run: Any, loop: Loop) -> tuple[PatchRow, ...]:
    """Of a loop that trains a task."""
    return (
        PatchRow(
            targets=(f"{loop.main}:create_task",),
            replacement=_before(run.create_task),
            reason="task and loss are picked by a fixed if",
            hosts=_CHECKED,
            parameters=("args", "model", "dist_model"),
        ),
        PatchRow(
            targets=("open_clip.task:CLIPTask.prepare_batch",),
            reason="check only: IdCLIPTask has the host move pictures, and the tensors of a text, by it",
            hosts=_CHECKED,
            parameters=("batch", "device", "input_dtype"),
        ),
        PatchRow(
            targets=("open_clip.task:CLIPTask.training_forward",),
            reason="check only: model and loss are called with what prepare_batch returned",
            hosts=_CHECKED,
            marker="self.loss(**model_out, output_dict=True)",
        ),
        PatchRow(
            targets=("open_clip.task:DistillCLIPTask.training_forward",),
            reason="check only: student and teacher are called with what prepare_batch returned",
            hosts=_CHECKED,
            marker="self.teacher(**batch)",
        ),
        PatchRow(
            targets=("open_clip_train.optim:optim",),
            replacement=run.optimizers,
            reason="the optimizer is made of groups without parts of a model; only this module's name for torch.optim changes",
            hosts=_CHECKED,
        ),
        PatchRow(
            targets=("open_clip_train.scheduler:assign_learning_rate", "open_clip_train.optim:assign_learning_rate"),
            replacement=_before(run.assign_learning_rate),
            reason="a scale that stands in a group is lost where a checkpoint of another open_clip is resumed",
            hosts=_CHECKED,
            parameters=("optimizer", "new_lr"),
        ),
        PatchRow(
            targets=(f"{loop.main}:evaluate",),
            replacement=_before(run.evaluate),
            reason="the host cannot read our validation set",
            hosts=_CHECKED,
            parameters=("task", "data", "epoch", "args", "tb_writer", "tokenizer"),
            marker="zero_shot_eval_all(task, data, epoch, args",
        ),
        PatchRow(
            targets=(f"{loop.train}:zero_shot_eval_all",),
            replacement=_before(run.zero_shot_eval),
            reason="what it returns the host logs (results.jsonl, TensorBoard, W&B), which has no other way in",
            hosts=_CHECKED,
            parameters=("task", "data", "epoch", "args", "tokenizer"),
        ),
    )


def all_rows() -> tuple[PatchRow, ...]:
    """Everything that training changes or relies on, in the loop that is offered first; to be looked at, not applied."""
    return (PARAMS, *IMPORTED, *rows(_NoRun(offered_loop())))


class _NoRun:
    """Has every method of a run, none of which does anything."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_arguments, **_settings: None


def _before(method: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that takes the host's function as its first argument -> the replacement of a row."""
    return lambda original: functools.wraps(original)(functools.partial(method, original))
