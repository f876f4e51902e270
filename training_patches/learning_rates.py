"""Learning rates by tower: the host's parameter groups -> groups by tower, each with its scale of the schedule's rate.

Role: `--id-lr-image`, `--id-lr-text`. The host makes two groups, with and without weight decay, and its schedules write one
learning rate into all; here each group is split by part of the model, and the schedule's rate is scaled by group.
What IdCLIP adds to a tower (adaptor, prompts, LoRA) and the temperature keep `--lr`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from open_clip_idplugin.errors import IdClipError
from training_patches.params import IdentityOptions, flag_name

_TOWERS = {"lr_image": "image_tower", "lr_text": "text_tower"}  # option -> `IdCLIP.part_of`


class TowerRates:
    """The learning rates of one run. Stands in for two host functions: AdamW's constructor and the schedules' setter."""

    def __init__(self, model: Any, options: IdentityOptions, base_rate: float) -> None:
        """`model`: the bare IdCLIP; base_rate: the host's `--lr`."""
        given = {part: getattr(options, name) for name, part in _TOWERS.items()}
        self.scale_of = {part: rate / base_rate for part, rate in given.items() if rate is not None}
        self.part_of = {id(parameter): model.part_of(name) for name, parameter in model.named_parameters()}
        self.scales: list[float] = []  # of the optimizer's groups, in order

    def create_optimizer(self, host: Callable[..., Any], groups: Sequence[dict[str, Any]], **settings: Any) -> Any:
        """Create the host's optimizer from its groups, each split into the towers with a rate of their own and the rest."""
        split = []
        for group in groups:
            parts: dict[str | None, list[Any]] = {None: []}
            for parameter in group["params"]:
                part = self.part_of[id(parameter)]
                parts.setdefault(part if part in self.scale_of else None, []).append(parameter)
            for part, parameters in parts.items():
                # open_clip's main scales groups itself (`lr_scale`, `--text-layer-decay`).
                scale = self.scale_of.get(part or "", 1.0) * group.get("lr_scale", 1.0)
                split.append({**group, "params": parameters, "lr": settings["lr"] * scale})
                self.scales.append(scale)
        return host(split, **settings)

    def assign(self, optimizer: Any, rate: float) -> None:
        """What the schedules call at every step."""
        for group, scale in zip(optimizer.param_groups, self.scales, strict=True):
            if isinstance(group["lr"], torch.Tensor):  # `--torchcompile-strategy step` of open_clip's main
                group["lr"].fill_(rate * scale)
            else:
                group["lr"] = rate * scale


def require_trained_towers(model: Any, options: IdentityOptions) -> None:
    """Refuse a learning rate for a tower without trainable weights of its own."""
    trained = {model.part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, part in _TOWERS.items():
        if getattr(options, name) is not None and part not in trained:
            raise IdClipError(
                f"{flag_name(name)} is for a tower whose own weights are trained, and this one's are locked; drop the flag "
                f"or the lock."
            )
