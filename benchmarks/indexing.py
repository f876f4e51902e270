"""`idclip index` against clip-retrieval's own `inference` and `index`: same model, weights, pictures and readers.

Paired: both sides are whole processes, from start to a searchable index, over the same folder of JPEGs, and take turns at going
first; nothing is in the page cache of one that is not in the other's. The figures to quote are the medians of the ratios
(stock's / ours): of images a second of wall time, of processor time, which other work on the machine disturbs less, and of the
peak resident memory of the process that holds the model. `idclip index` also makes thumbnails, reads headers for EXIF and
profiles, compares for copies and writes reports; `--thumbnail_size 0` leaves the thumbnails out. Weights are random and saved
once. Nothing is downloaded.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from opening import IDCLIP, save_random, write_pictures

MODELS = ("ViT-B-32", "IdCLIP-ViT-miniature")
STOCK = """
import os, sys
import open_clip_idplugin  # so that open_clip knows the miniature on both sides
from clip_retrieval.clip_index import clip_index
from clip_retrieval.clip_inference import clip_inference
pictures, output, model, workers, batch = sys.argv[1:]
embeddings = output + "/embeddings"
clip_inference(pictures, embeddings, enable_text=False, clip_model=model, num_prepro_workers=int(workers), batch_size=int(batch))
clip_index(embeddings, output)
"""


class Spent(NamedTuple):
    """What a process took: seconds of wall and processor time, GB resident at most."""

    wall: float
    processor: float
    memory: float


def main() -> None:
    """Compare for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--megapixels", type=float, default=0.3)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="readers of both sides")
    parser.add_argument("--batch_size", type=int, default=256, help="of both sides")
    parser.add_argument("--thumbnail_size", type=int, default=256, help="of ours; 0: none, as stock")
    arguments = parser.parse_args()
    print(json.dumps(vars(arguments)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_pictures(folder / "pictures", arguments.pictures, arguments.megapixels)
        for model in arguments.models:
            compare(folder, pictures, model, save_random(model, folder / f"{model}.pt"), arguments)


def compare(folder: Path, pictures: Path, model: str, weights: str, arguments: argparse.Namespace) -> None:
    """Both sides in turns; prints the medians of the ratios."""
    output, readers, batch = folder / "index", arguments.workers, arguments.batch_size
    ours = [*IDCLIP, "index", str(pictures), f"--model={model}", f"--checkpoint={weights}", f"--output={output}"]
    ours += [f"--workers={readers}", f"--batch_size={batch}", f"--thumbnail_size={arguments.thumbnail_size}"]
    ours += ["--device=cpu"]
    stock = [sys.executable, "-c", STOCK, str(pictures), str(output), f"open_clip:{model}/{weights}"]
    stock += [str(readers), str(batch)]
    pairs = []
    for number in range(arguments.rounds):
        spent = {}
        for side, command in (("stock", stock), ("ours", ours))[:: 1 if number % 2 else -1]:
            spent[side] = run(command)
            shutil.rmtree(output)
        pairs.append((spent["stock"], spent["ours"]))
        print(f"  round {number}: stock {spent['stock']}, ours {spent['ours']}", flush=True)
    print(f"{model}, {arguments.pictures} pictures of {arguments.megapixels:g} Mpx, median of {len(pairs)}:")
    for field, goal in (("wall", "images a second"), ("processor", "images a processor second"), ("memory", "memory")):
        ratios = [getattr(theirs, field) / getattr(mine, field) for theirs, mine in pairs]
        if field == "memory":
            ratios = [1 / ratio for ratio in ratios]
        middle = statistics.median(ratios)
        print(f"  {goal}, ours / stock: {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def run(command: list[str]) -> Spent:
    """One command as a process of its own; its output is shown where it fails."""
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        _, status, usage = os.wait4(process.pid, 0)  # of the process and the readers that it waited for
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{command[:4]} failed\n{log.read().decode(errors='replace')[-4000:]}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


if __name__ == "__main__":
    main()
