"""Training a cell by the command that a user types, in a process of its own: flags in, a delta file out.

Role: `python -m training_patches` in a temporary folder; what remains is the delta file and, of a run that failed, its log.
A killed run leaves a folder that the next benchmark removes.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.recipes.cells import Bench, Cell
from benchmarks.recipes.recipes import Flags, words
from open_clip_idplugin.checkpoints.loading import export_delta
from open_clip_idplugin.errors import IdClipError

RUNS = "runs"
LOGS = "failed"
_RUN = "run"
_TELLING = re.compile(r"python -m training_patches: |[\w.]*(Error|Exception|Interrupt)\b")


def training_command(cell: Cell, bench: Bench, logs: str = "LOGS") -> list[str]:
    """The whole command line of a cell, from the repository's `python` on."""
    places: dict[str, str] = {"--train-data": str(bench.world.shards("train")), "--logs": logs, "--name": _RUN}
    places["--id-preset"] = "none"  # a recipe here says everything itself
    if cell.recipe.keeps_image_features:
        places["--id-cache-images"] = str(bench.features)
    flags: Flags = {**cell.training_flags(bench), **places}
    return ["python", "-m", "training_patches", *words(flags)]


def train_cell(cell: Cell, bench: Bench) -> None:
    """Train and keep the weights as `cell.weights_file`; raises IdClipError naming the log of a run that failed."""
    runs = bench.output / RUNS
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{cell.label}-", dir=runs))
    try:
        log = folder / "log.txt"
        code = _run(training_command(cell, bench, str(folder))[1:], log, bench.threads)
        checkpoint = folder / _RUN / "checkpoints" / "epoch_1.pt"
        if code or not checkpoint.exists():
            kept = bench.output / LOGS / f"{cell.label}.txt"
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(log, kept)
            raise IdClipError(f"training ended with exit code {code}: {_end_of(log)} (see {kept})")
        cell.weights_file(bench).parent.mkdir(exist_ok=True)
        export_delta(bench.model, checkpoint, bench.pretrained, cell.weights_file(bench))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stopped_runs(output: Path) -> None:
    """Remove what killed benchmarks left; only while no other one writes to the folder."""
    shutil.rmtree(output / RUNS, ignore_errors=True)


def _run(arguments: list[str], log: Path, threads: int) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("wb") as stream, _interruptible():
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        return process.wait()
    finally:
        process.kill()


class _interruptible:
    """Start processes that Ctrl-C ends, although a worker itself does not listen to it."""

    def __enter__(self) -> None:
        self._ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if self._ignored:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __exit__(self, *_: object) -> None:
        if self._ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_of(log: Path) -> str:
    """The line of a log that says what went wrong: the command's own sentence, or an exception's."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.match(line)]
    return (telling or lines or ["it wrote nothing"])[-1]
