"""Running cells: a list of cells -> their results, several at a time, each finished one on disk at once.

Role: train, evaluate, write, and note what it cost. Every worker process has one `Evaluator`, which keeps what cells share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from benchmarks.recipes.cell_training import train_cell, training_command
from benchmarks.recipes.cells import Bench, Cell, CellResult, read_result
from benchmarks.recipes.cost import Clock, Cost, training_cost
from benchmarks.recipes.evaluating import Evaluator
from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.errors import IdClipError
from webdataset_tools.worker_pool import run_tasks


@dataclass(frozen=True)
class Failure:
    """A cell that has no result, and why."""

    label: str
    reason: str


def run_cells(bench: Bench, cells: Sequence[Cell], workers: int) -> list[Failure]:
    """Run the cells that have no result yet, `workers` at a time; return those that failed.

    The first cell that needs cached image features runs alone, so that they are made once.
    """
    missing = [cell for cell in cells if read_result(cell.result_file(bench)) is None]
    needing = [cell for cell in missing if cell.recipe.trained and cell.recipe.keeps_image_features]
    alone = needing[:1] if workers > 1 and not bench.features.exists() else []
    failures: list[Failure] = []
    with tqdm(total=len(cells), initial=len(cells) - len(missing), desc="cells", unit="cell", smoothing=0) as bar:
        for batch in (alone, [cell for cell in missing if cell not in alone]):
            for label, outcome in run_tasks(partial(Worker, bench), batch, workers, bar):
                if isinstance(outcome, str):
                    failures.append(Failure(label, outcome))
                    outcome = f"failed: {outcome}"
                else:
                    outcome = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in outcome.items())
                bar.write(f"{label}: {outcome}")
    return failures


class Worker:
    """Runs one cell after another; what they share is kept in memory."""

    def __init__(self, bench: Bench) -> None:
        import torch

        torch.set_num_threads(bench.threads)
        self.bench = bench
        self._evaluator = Evaluator(bench)

    def __call__(self, cell: Cell, tick: Callable[[], object]) -> tuple[str, dict[str, float] | str]:
        """Run a cell and write its result; returns its label, and seconds or the sentence that says why it failed."""
        try:
            seconds = self._run(cell)
        except IdClipError as error:
            tick()
            return cell.label, str(error)
        tick()
        return cell.label, seconds

    def _run(self, cell: Cell) -> dict[str, float]:
        bench, clock = self.bench, Clock()
        checkpoint, cost = bench.pretrained, Cost()
        if cell.recipe.trained:
            if not cell.weights_file(bench).exists():
                train_cell(cell, bench)
                clock.lap().write(cell.cost_file(bench))
            checkpoint, cost = f"{bench.pretrained}+{cell.weights_file(bench)}", training_cost(cell, bench)
        clock.lap()
        splits = self._evaluator.evaluate(cell, load_model(bench.model, checkpoint))
        evaluation = clock.lap()
        about = {
            "weights": dict(bench.weights),
            "templates": bench.templates,
            "threads": bench.threads,
            "processor_seconds": cost.processor + evaluation.processor,  # unlike seconds the same on a busy machine
            "processor": {"training": cost.processor, "evaluation": evaluation.processor},
        }
        seconds = {"training": cost.wall, "evaluation": evaluation.wall}
        command = training_command(cell, bench) if cell.recipe.trained else []
        result = CellResult(cell.recipe.name, cell.recipe.reason, cell.seed, tuple(command), splits, seconds, about)
        result.write(cell.result_file(bench))
        return seconds
