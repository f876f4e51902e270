"""What system calls and settings bring: `idclip serve` with one of them left out at a time, and the swap of index folders.

One service after the other, in turns: as it is, with glibc's own number of heaps, with Python's garbage collector at work
while it starts, with freed memory kept, and with weights that stay resident or in memory. Each is asked by many clients in
words, for people and by picture. Memory depends little on other work on the machine; of times the processor's count. Then two
folders are swapped many times while a process reads one of them, by renameat2 and by two renames.
"""

import argparse
import contextlib
import ctypes
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import serving
import serving_sides

_SERVICE = "open_clip_idplugin.retrieval.service"
LEFT_OUT = {  # title -> what is run before the service
    "as it is": "",
    "glibc's heaps, eight a core": f"import {_SERVICE}.heap as h; h.limit_heaps = lambda: None",
    "collections at the start": (
        f"import contextlib, {_SERVICE}.heap as h; h.without_collections = contextlib.nullcontext"
    ),
    "freed memory kept": f"import {_SERVICE}.heap as h; h.return_freed_memory = lambda: None",
    "weights read at the start stay": (
        f"import functools, {_SERVICE}.mapped_weights as m; m._mapped_tensors = functools.cache(m._mapped_tensors)"
    ),
    "weights in memory": f"import {_SERVICE}.mapped_weights as m; m.leave_weights_in_file = lambda loaded: 0",
}


def main() -> None:
    """Measure all of them, `--rounds` times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20, help="of questions, a service and round")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--vectors", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=list(LEFT_OUT), help="titles")
    parser.add_argument("--swaps", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where models and indices are kept")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measure_swaps(folder, arguments.swaps)
        serving_sides.prepare(folder)
        serving_sides.make_index(folder / f"faces_{arguments.vectors}", arguments.vectors, faces_an_image=1)
        found: dict[str, list[dict[str, float]]] = {title: [] for title in arguments.only}
        for number in range(arguments.rounds):
            for title in arguments.only[::-1] if number % 2 else arguments.only:
                found[title].append(measure(folder, title, arguments))
                print(f"  {title}: {found[title][-1]}", flush=True)
    for title, rounds in found.items():
        print(title)
        for what in rounds[0]:
            values = sorted(one[what] for one in rounds)
            ratio = statistics.median(
                one[what] / base[what] for one, base in zip(rounds, found[arguments.only[0]], strict=True)
            )
            print(
                f"  {what}: {statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f}), {ratio:.2f} of "
                f"'{arguments.only[0]}'"
            )


def measure(folder: Path, title: str, arguments: argparse.Namespace) -> dict[str, float]:
    """GB at the start and after many questions, seconds of processor time of the start and milliseconds a question."""
    with serving_sides.ours(
        folder, f"faces_{arguments.vectors}", arguments.threads, "--mmap", before=LEFT_OUT[title]
    ) as side:
        own, libraries, data = side.resident()
        at_start = {"own at start, GB": own, "resident at start, GB": own + libraries + data}
        before = side.processor_seconds()
        count, errors = serving.hammer(side, any_request, arguments.clients, arguments.seconds)
        if errors or not count:
            raise SystemExit(f"{title}: {errors} of {count + errors} requests failed")
        each = 1000 * (side.processor_seconds() - before) / count
        own, libraries, data = side.resident()
        after = {"own after, GB": own, "resident after, GB": own + libraries + data}
        return {
            **at_start,
            **after,
            "start, s": side.start,
            "start, processor s": side.start_processor,
            "processor ms a question": each,
        }


def measure_swaps(folder: Path, count: int) -> None:
    """How often a process that opens a file of a folder all the time finds no folder, while it is swapped."""
    from open_clip_idplugin.retrieval.index_folder.generations import exchange

    ways = {
        "renameat2": contextlib.nullcontext(),
        "two renames": mock.patch.object(ctypes, "CDLL", lambda *_, **__: None),
    }
    for title, way in ways.items():
        with tempfile.TemporaryDirectory(dir=folder) as place, way:
            old, new = Path(place) / "index", Path(place) / "new"
            for one in (old, new):
                one.mkdir()
                (one / "file").touch()
            context = multiprocessing.get_context("fork")
            over, missing = context.Event(), context.Queue()
            reader = context.Process(target=_open_often, args=(old / "file", over, missing))
            reader.start()
            begin = time.perf_counter()
            for _ in range(count):
                exchange(new, old)
            seconds = time.perf_counter() - begin
            over.set()
            opened, failed = missing.get()
            reader.join()
        print(
            f"{count} swaps by {title}, {1e6 * seconds / count:.0f} microseconds each: {failed} of {opened} times the "
            "folder was not there",
            flush=True,
        )


def _open_often(path: Path, over: Any, missing: Any) -> None:
    opened = failed = 0
    while not over.is_set():
        opened += 1
        try:
            path.open().close()
        except FileNotFoundError:
            failed += 1
    missing.put((opened, failed))


def any_request(turn: int) -> dict[str, Any]:
    """Text, person, person with faces and picture in turns."""
    kinds = (serving_sides.text_request, serving_sides.people_request, serving_sides.hybrid_request)
    return serving_sides.picture_request("JPEG", turn) if turn % 4 == 3 else kinds[turn % 4](turn)


if __name__ == "__main__":
    main()
