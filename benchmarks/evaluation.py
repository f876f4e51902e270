"""Exact retrieval metrics in blocks, against a straightforward evaluation that sorts the whole matrix.

Random unit features of 5,000 images and 25,000 texts, five an image. Each side runs in a process of its own, in turns; timed is
the work alone, without start and loading, and memory is what the process needs beyond the loaded features. Both sides must
give the same numbers. `--device cuda` runs our side on a GPU; memory is then that of the host alone.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

KS = (1, 5, 10, 50)
PAGE = resource.getpagesize()
MEGABYTE = 2**20


def main() -> None:
    """Compare both sides in turns and print the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--texts-per-image", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="of a feature")
    parser.add_argument("--device", default="auto", help="of our side")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.images, arguments.texts_per_image, arguments.size)
        pairs = [
            (run("ours", folder, arguments.device), run("full sort", folder, "cpu")) for _ in range(arguments.rounds)
        ]
    for ours, theirs in pairs:
        if any(abs(ours["metrics"][key] - value) > 1e-6 for key, value in theirs["metrics"].items()):
            raise SystemExit(f"the sides differ: {ours['metrics']} and {theirs['metrics']}")
    shape = (
        f"{arguments.images} images x {arguments.images * arguments.texts_per_image} texts of {arguments.size} numbers"
    )
    print(f"{shape}, equal metrics ({len(pairs[0][1]['metrics'])} of them)")
    for what, unit in (("seconds", "s"), ("megabytes", "MB")):
        ratios = [theirs[what] / ours[what] for ours, theirs in pairs]
        ours, theirs = (statistics.median(side[what] for side in sides) for sides in zip(*pairs, strict=True))
        print(
            f"{what}: {ours:.2f} {unit}, full sort {theirs:.2f} {unit}; full sort / ours {statistics.median(ratios):.1f} "
            f"(median of {len(ratios)}; {min(ratios):.1f} to {max(ratios):.1f})"
        )


def prepare(folder: Path, images: int, texts_per_image: int, size: int) -> None:
    """Write both features; texts lie near their image, so that recalls are neither 0 nor 1."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((images, size), dtype=np.float32))
    texts = np.repeat(centres, texts_per_image, axis=0)
    texts += 0.22 * rng.standard_normal(texts.shape, dtype=np.float32)
    np.save(folder / "images.npy", centres)
    np.save(folder / "texts.npy", unit(texts))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def run(side: str, folder: Path, device: str) -> dict:
    """One evaluation in a process of its own: `seconds`, `megabytes`, `metrics`."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=measure, args=(side, folder, device, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the side '{side}' ended with exit code {process.exitcode}")
    return json.loads(queue.get())


def measure(side: str, folder: Path, device: str, queue: "multiprocessing.SimpleQueue[str]") -> None:
    """What a process does: load, warm up on a corner, work, tell."""
    images, texts = (np.load(folder / f"{name}.npy") for name in ("images", "texts"))
    owners = np.arange(len(texts)) // (len(texts) // len(images))
    work: Callable[..., dict[str, float]] = ours if side == "ours" else full_sort
    work(images[:100], texts[: 100 * len(texts) // len(images)], owners[: 100 * len(texts) // len(images)], device)
    before = resident()
    start = time.perf_counter()
    metrics = work(images, texts, owners, device)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put(json.dumps({"seconds": seconds, "megabytes": (peak - before) / MEGABYTE, "metrics": metrics}))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def ours(images: np.ndarray, texts: np.ndarray, owners: np.ndarray, device: str) -> dict[str, float]:
    """The package's own evaluation."""
    from open_clip_idplugin.evaluation.metrics import CosineScores, general_metrics, general_ranks

    return general_metrics(general_ranks(CosineScores(texts, images, device), owners))


def full_sort(images: np.ndarray, texts: np.ndarray, owners: np.ndarray, _device: str) -> dict[str, float]:
    """Every ranking by argsort of the whole matrix."""
    similarities = texts @ images.T
    by_text = np.argsort(-similarities, axis=1)
    t2i = (by_text == owners[:, None]).argmax(axis=1)
    by_image = np.argsort(-similarities.T, axis=1)
    i2t = (owners[by_image] == np.arange(len(images))[:, None]).argmax(axis=1)
    recalls = {f"t2i_R@{k}": float((t2i < k).mean()) for k in KS}
    recalls |= {f"i2t_R@{k}": float((i2t < k).mean()) for k in KS}
    return recalls


if __name__ == "__main__":
    main()
