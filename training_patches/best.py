"""The best weights of a run: a validation result in, `checkpoints/best.pt` if it is the highest so far.

Role: `--id-save-best`. The file loads like the host's own checkpoints (`state_dict`), but holds no optimizer, so that
training cannot go on from it; it remembers its value, so that a resumed run compares with what came before.
"""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_path

BEST = "best.pt"


def keep_best(folder: Path, metric: str, metrics: Mapping[str, float], model: torch.nn.Module, name: str) -> bool:
    """Write the model's weights if `metrics[metric]` exceeds the value in the file that is there; tell whether it did.

    folder: the host's checkpoints; metrics: the results of a validation, with `epoch`; name: the run's.
    A file for another metric is replaced.
    """
    path = folder / BEST
    before = best_so_far(path, metric)
    if before is not None and metrics[metric] <= before:
        return False
    content: dict[str, Any] = {
        "epoch": int(metrics["epoch"]),
        "name": name,
        "state_dict": model.state_dict(),
        "metric": metric,
        "value": float(metrics[metric]),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    logging.info(f"Best {metric} so far, {metrics[metric]:.4f} after epoch {content['epoch']}: saved as {path}")
    return True


def best_so_far(path: Path, metric: str) -> float | None:
    """The value of the weights in a `best.pt`; None without a file, or where it was chosen by another metric.

    Raises IdClipError for a file that this module did not write.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return float(content["value"]) if content["metric"] == metric else None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise IdClipError(
            f"{path} is not a file of the best weights so far ({type(error).__name__}); move it away."
        ) from None
