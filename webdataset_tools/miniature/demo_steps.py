"""The demo's first half: a seed -> a trained model, each step by the command that a user would type.

Role: run the verbs in their order, each on what the one before wrote. Steps whose output is there already are not run again.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from open_clip_idplugin.errors import IdClipError

MODEL = "IdCLIP-ViT-miniature"
FACES = "insightface:miniature"
DETECTOR_SIDE = 192  # the drawn scenes are 192 pixels wide
SPLITS = ("train", "val", "test")
BATCH_SIZE = 128
SAMPLES_PER_SHARD = 500
ITEMS_AN_EPOCH = 8192  # few, long epochs: each one fills the loader's shuffle buffers anew
RUN_NAME = "idclip"


@dataclass
class Demo:
    """Where everything lies, what was run and how long it took."""

    output: Path
    seed: int
    workers: int
    epochs: int
    commands: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def release(self) -> Path:
        """The COCO-PFS-like release."""
        return self.output / "release"

    @property
    def photos(self) -> Path:
        """Identity photos, one folder a person."""
        return self.release / "vggface_test_kaggle" / "photos"

    def shards(self, split: str) -> Path:
        """Shards of a split."""
        return self.output / "shards" / split

    @property
    def run_folder(self) -> Path:
        """open_clip's folder of the training run."""
        return self.output / "logs" / RUN_NAME

    @property
    def checkpoint(self) -> Path:
        """The weights that validated best."""
        return self.run_folder / "checkpoints" / "best.pt"

    @property
    def index(self) -> Path:
        """clip-retrieval's index of the test images."""
        return self.output / "index"

    @property
    def gallery(self) -> Path:
        """The enrolled people."""
        return self.output / "gallery.sqlite"

    def step(self, title: str, command: list[str], work: Callable[[], None], done: bool = False) -> None:
        """Print a step and its command, run it unless it is `done`, and note its time."""
        line = shlex.join(command)
        self.commands.append(line)
        print(f"\n=== {len(self.commands)}. {title}\n$ {line}", flush=True)
        if done:
            print("already there")
            return
        start = time.monotonic()
        work()
        self.seconds[title] = time.monotonic() - start


def make_world(run: Demo) -> None:
    """Draw the release."""
    from webdataset_tools.miniature.command import miniature

    command = ["idclip", "miniature", "--output", str(run.release), "--size", "demo", "--seed", str(run.seed)]
    run.step(
        "draw a world", command, lambda: miniature(str(run.release), size="demo", seed=run.seed, workers=run.workers)
    )


def pack(run: Demo) -> None:
    """Pack the three splits into shards."""
    from webdataset_tools.shards import shards

    for split in SPLITS:
        folder = str(run.shards(split))
        command = ["idclip", "shards", "--release", str(run.release), "--split", split, "--output", folder]
        command += ["--photos", str(run.photos), "--faces", FACES, "--det_size", str(DETECTOR_SIDE)]
        command += ["--samples_per_shard", str(SAMPLES_PER_SHARD)]

        def work(split: str = split, folder: str = folder) -> None:
            shards(
                str(run.release),
                split,
                folder,
                photos=str(run.photos),
                faces=FACES,
                det_size=DETECTOR_SIDE,
                samples_per_shard=SAMPLES_PER_SHARD,
                workers=run.workers,
            )

        run.step(f"pack {split}", command, work)


def train(run: Demo) -> None:
    """Adapt the frozen miniature CLIP with open_clip's own loop, in a process of its own as on a real machine."""
    arguments = training_arguments(run)
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}

    def work() -> None:
        code = subprocess.run([sys.executable, "-m", "training_patches", *arguments], env=environment).returncode
        if code:
            raise IdClipError(f"training ended with exit code {code}; its last lines above say why")

    run.step("train", ["python", "-m", "training_patches", *arguments], work, done=_finished(run))


def training_arguments(run: Demo) -> list[str]:
    """Flags of open_clip_train for the adaptation: both towers frozen, only the adaptor learns."""
    from open_clip_idplugin.command_line.devices import fast_precision

    shard_names = sorted(path.name for path in run.shards("train").glob("*.tar"))
    pattern = f"{run.shards('train')}/{{{Path(shard_names[0]).stem}..{Path(shard_names[-1]).stem}}}.tar"
    flags = {
        "--model": MODEL,
        "--pretrained": "miniature",
        "--train-data": pattern,
        "--dataset-type": "webdataset",
        "--train-num-samples": ITEMS_AN_EPOCH,
        "--batch-size": BATCH_SIZE,
        "--epochs": run.epochs,
        "--lr": "1e-3",
        "--wd": "0.01",
        "--warmup": 20,
        "--workers": run.workers,
        "--precision": fast_precision(),
        "--seed": run.seed,
        "--logs": str(run.output / "logs"),
        "--name": RUN_NAME,
        "--report-to": "tensorboard",
        "--log-every-n-steps": 10,
        "--save-most-recent": None,
        "--id-preset": "none",
        "--lock-image": None,
        "--lock-text": None,
        "--id-caption": "fixed",
        "--id-val-data": str(run.shards("val")),
        "--id-save-best": "t2i_sum",
    }
    words = []
    for flag, value in flags.items():
        words += [flag] if value is None else [flag, str(value)]
    if _last_checkpoint(run).exists():
        words += ["--resume", "latest"]
    return words


def _last_checkpoint(run: Demo) -> Path:
    return run.run_folder / "checkpoints" / "epoch_latest.pt"


def _finished(run: Demo) -> bool:
    """Whether all epochs were trained (open_clip writes a line of results after each)."""
    if not (run.checkpoint.exists() and _last_checkpoint(run).exists()):
        return False
    import torch

    state = torch.load(_last_checkpoint(run), map_location="cpu", weights_only=True, mmap=True)
    return int(state["epoch"]) >= run.epochs
