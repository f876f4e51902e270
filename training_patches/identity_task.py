"""Training task: IdCLIP, its loss and a teacher -> open_clip's CLIPTask or DistillCLIPTask, whose texts are about people.

Role: for hosts whose loop trains tasks (`open_clip.task`); imported there only. Loaders give such a loop a text as a
dictionary of plain tensors, because that is what the host's tasks move to a device.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from open_clip.task import CLIPTask, DistillCLIPTask

from open_clip_idplugin.identity_text import IdentityText


class _IdentityBatches:
    """What a task of the host needs for batches with an `IdentityText`."""

    def prepare_batch(
        self, batch: Mapping[str, Any], device: torch.device, input_dtype: torch.dtype | None = None
    ) -> dict[str, Any]:
        """Move a batch with pictures (to `input_dtype`) and a text; its ids stay int64 and its faces float32."""
        text = batch.get("text")  # the host calls this for dictionaries within a batch too
        if not isinstance(text, Mapping):  # captions without people, of the host's own validation
            prepared: dict[str, Any] = super().prepare_batch(batch, device, input_dtype)  # type: ignore[misc]
            return prepared
        others = {name: value for name, value in batch.items() if name != "text"}
        tensors = super().prepare_batch(dict(text), device)  # type: ignore[misc]
        return {**super().prepare_batch(others, device, input_dtype), "text": IdentityText(**tensors)}  # type: ignore[misc]


class IdCLIPTask(_IdentityBatches, CLIPTask):
    """open_clip's task with texts about people."""


class IdDistillCLIPTask(_IdentityBatches, DistillCLIPTask):
    """open_clip's distillation with texts about people; the teacher is given the same texts."""


def create_identity_task(args: argparse.Namespace, model: Any, loss: Any, teacher: Any = None) -> CLIPTask:
    """Build the task of an IdCLIP; args: the host's. The loss is called as the host's is, with `output_dict`."""
    if args.distill:
        return IdDistillCLIPTask(model, teacher, loss=loss)
    return IdCLIPTask(model, loss=loss)
