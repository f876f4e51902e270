"""What a cell costs: wall and processor seconds of training and evaluation, noted where they outlive the result.

Role: clocks, and the cost of training that another run paid. Weights are kept when only the questions change, and so is what
they cost: in a file beside them, or in an earlier result of the same training.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.recipes.recipes import words
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text

if TYPE_CHECKING:
    from benchmarks.recipes.cells import Bench, Cell


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall's clock, and of processors: of this process and of the finished ones that it started."""

    wall: float = 0.0
    processor: float = 0.0

    def write(self, path: Path) -> None:
        """The file is there whole or not at all."""
        atomic_write(path, json_text(asdict(self)) + "\n")


class Clock:
    """Tells the cost since it was last asked."""

    def __init__(self) -> None:
        self._last = _now()

    def lap(self) -> Cost:
        """The cost since the last call, or since the beginning."""
        before, self._last = self._last, _now()
        return Cost(self._last.wall - before.wall, self._last.processor - before.processor)


def training_cost(cell: "Cell", bench: "Bench") -> Cost:
    """What the kept weights of a cell cost; nothing where nobody noted it."""
    noted = cell.cost_file(bench)
    try:
        return Cost(**json.loads(noted.read_text()))
    except FileNotFoundError:
        return max(_earlier_costs(cell, bench), key=lambda cost: cost.wall, default=Cost())
    except (ValueError, TypeError) as error:
        raise IdClipError(f"{noted} is damaged ({error}); delete it, and the cost of training is not told") from None


def _earlier_costs(cell: "Cell", bench: "Bench") -> list[Cost]:
    """Of results of the same training that was asked otherwise; their processor seconds are shared out by the wall's."""
    from benchmarks.recipes.cells import read_result

    costs, line = [], words(cell.training_flags(bench))
    for path in sorted(cell.result_file(bench).parent.glob(f"{cell.label}-*.json")):
        result = read_result(path)
        if result is None or list(result.command[3 : 3 + len(line)]) != line:
            continue
        wall, whole = result.seconds.get("training", 0.0), sum(result.seconds.values())
        processor = float(result.about.get("processor_seconds", 0.0)) * wall / whole if whole else 0.0
        costs.append(Cost(wall, result.about.get("processor", {}).get("training", processor)))
    return costs


def _now() -> Cost:
    times = os.times()
    return Cost(time.monotonic(), times.user + times.system + times.children_user + times.children_system)
