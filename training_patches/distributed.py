"""Several processes: torch's data-parallel wrapper -> one that works on CPUs too."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


class DeviceAwareDataParallel(DistributedDataParallel):
    """torch's wrapper, which on a CPU leaves out the `device_ids` that torch takes for GPUs only."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)
