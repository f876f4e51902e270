"""Patch rows: a training run -> every change to open_clip_train for it, and what this package imports from the hosts by name.

Role: `rows` are applied before the host's `main` and undone after it; nothing inside `train_one_epoch`, the optimizer or the
checkpoints is changed. `PARAMS` and `IMPORTED` are check-only rows, verified before the modules load that import those
names: an open_clip or webdataset that has moved on is refused in a sentence where `import` would end in a traceback. This
module itself imports no host.
"""

import functools
from collections.abc import Callable
from typing import Any

from open_clip_idplugin.hosts.patches import PatchRow

_CHECKED = "open_clip 2.32 and 3.3"
_MAIN = "open_clip_train.main"
_READ_DIRECTLY = "check only: imported by name, without a change"

PARAMS = PatchRow(
    targets=("open_clip_train.params:parse_args",), reason=_READ_DIRECTLY, hosts=_CHECKED, parameters=("args",)
)

IMPORTED: tuple[PatchRow, ...] = tuple(
    PatchRow(targets=(target,), reason=_READ_DIRECTLY, hosts=f"{_CHECKED}, webdataset 0.2")
    for target in (
        "open_clip:get_input_dtype",
        "open_clip_train.data:DataInfo",
        "open_clip_train.data:SharedEpoch",
        "open_clip_train.data:_SAMPLE_SHUFFLE_INITIAL",
        "open_clip_train.data:_SAMPLE_SHUFFLE_SIZE",
        "open_clip_train.data:get_dataset_fn",
        "open_clip_train.data:get_wds_dataset",
        "open_clip_train.distributed:is_master",
        "open_clip_train.main:main",
        "open_clip_train.precision:get_autocast",
        "open_clip_train.train:unwrap_model",
        "webdataset.filters:_shuffle",
    )
)


def rows(run: Any) -> tuple[PatchRow, ...]:
    """All changes to the hosts that a `TrainingRun` makes, and one thing it relies on."""
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
            replacement=_before(run.copy_codebase),
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
            replacement=run.data_parallel,
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


def all_rows() -> tuple[PatchRow, ...]:
    """Everything that training changes or relies on, to be looked at: these rows cannot be applied."""
    return (PARAMS, *IMPORTED, *rows(_NoRun()))


class _NoRun:
    """Has every method of a run, none of which does anything."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_arguments, **_settings: None


def _before(method: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that takes the host's function as its first argument -> the replacement of a row."""
    return lambda original: functools.wraps(original)(functools.partial(method, original))
