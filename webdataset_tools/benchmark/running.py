"""Running cells: a list of cells -> their results, several at a time, each finished one on disk at once.

Role: train, evaluate, write. Every worker process reads the evaluation shards once, and encodes their images once for all
recipes that leave the image tower as it is; the same holds for queries without a face where both towers stay.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from open_clip_idplugin.checkpoints import LoadedModel, load_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.protocols import EvaluationSet, Results, Settings, run
from open_clip_idplugin.query_encoder import QueryEncoder
from webdataset_tools.benchmark.cells import WITHOUT_FACE, Bench, Cell, CellResult, read_result
from webdataset_tools.benchmark.training import train_cell, training_command
from webdataset_tools.evaluation_data import encode_images, load_evaluation_set
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
        self._sets: dict[str, EvaluationSet] = {}
        self._plain: dict[tuple[str, str, str], Results] = {}  # of queries without a face to frozen towers
        self._features: dict[str, tuple[EvaluationSet, np.ndarray]] = {}

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
        bench, start, computed = self.bench, time.monotonic(), _processor_seconds()
        checkpoint = bench.pretrained
        if cell.recipe.trained:
            if not cell.weights_file(bench).exists():
                train_cell(cell, bench)
            checkpoint = f"{bench.pretrained}+{cell.weights_file(bench)}"
        trained = time.monotonic()
        loaded = load_model(bench.model, checkpoint)
        splits = {}
        for split in bench.splits:
            results = self._evaluate(loaded, cell, split)
            splits[split] = {"metrics": results.metrics, "strata": results.strata}
        seconds = {"training": trained - start, "evaluation": time.monotonic() - trained}
        command = training_command(cell, bench) if cell.recipe.trained else []
        about = {
            "weights": dict(bench.weights),
            "templates": bench.templates,
            "threads": bench.threads,
            "processor_seconds": _processor_seconds() - computed,  # unlike seconds the same on a busy machine
        }
        result = CellResult(cell.recipe.name, cell.recipe.reason, cell.seed, tuple(command), splits, seconds, about)
        result.write(cell.result_file(bench))
        return seconds

    def _evaluate(self, loaded: LoadedModel, cell: Cell, split: str) -> Results:
        encoder = QueryEncoder(loaded)
        images, features = self._encoded(loaded, encoder, cell, split)
        whole = Results()
        for protocol, configurations in cell.configurations(self.bench).items():
            for configuration in configurations:
                key = (split, protocol, configuration)
                shared = configuration in WITHOUT_FACE and cell.recipe.keeps_plain_answers
                results = self._plain.get(key) if shared else None
                if results is None:
                    settings = Settings((configuration,), (protocol,), self.bench.templates, image_to_text=False)
                    results = run(images, features, encoder, settings)
                if shared:
                    self._plain[key] = results
                for name, values in results.metrics.items():
                    whole.metrics.setdefault(name, {}).update(values)
                whole.strata.update(results.strata)
        return whole

    def _encoded(
        self, loaded: LoadedModel, encoder: QueryEncoder, cell: Cell, split: str
    ) -> tuple[EvaluationSet, np.ndarray]:
        """The images of a split and their features; those of the frozen image tower are the same for all cells."""
        if cell.recipe.keeps_image_features and split in self._features:
            return self._features[split]
        shards = self.bench.world.shards(split)
        if split not in self._sets:
            self._sets[split] = load_evaluation_set(shards)
        images = self._sets[split]
        encoded = encode_images(shards, images, encoder, loaded.preprocess, workers=0, progress=False)
        pair = encoded.evaluation_set, encoded.features
        if cell.recipe.keeps_image_features:
            self._features[split] = pair
        return pair


def _processor_seconds() -> float:
    """Of this process and of the finished ones that it started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
