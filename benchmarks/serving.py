"""Searching over HTTP: `idclip serve` against clip-retrieval's own backend, same model shape, index and machine.

Both services run as processes of their own on the loopback address, over an index of random vectors, with random weights. Single
requests take turns and the median of the ratios is what to quote; then many clients ask each side in turns, `--turns` times, and
the time that the service had on the processors is noted beside the rate: other work on the machine changes it less. `--minutes 5`
adds a soak (`serving_soak.py`): clients search while images join and leave the index and people come and go. `--growth 10000
1000000` shows how latency and memory grow with the index, every two images with three faces (memory-mapped; 4 GB of disk a
million, and half an hour to make it). `--folder` keeps the indices for the next run, and `--prepare` ends once they are there.
"""

import argparse
import contextlib
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from serving_sides import (
    Side,
    hybrid_request,
    make_index,
    ours,
    people_request,
    picture_request,
    prepare,
    stock,
    text_request,
    timed,
)
from serving_soak import soak


def main() -> None:
    """Compare single requests and throughput; measure soak and growth where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="single requests a side; 0 leaves the comparison out")
    parser.add_argument("--vectors", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="of throughput, a side and turn")
    parser.add_argument(
        "--turns", type=int, default=5, help="of throughput; the median of their ratios is what to quote"
    )
    parser.add_argument("--minutes", type=float, default=0, help="of soak, with 16 and 64 clients each")
    parser.add_argument("--growth", type=int, nargs="*", default=[])
    parser.add_argument("--growth-rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where models and indices are kept")
    parser.add_argument("--prepare", action="store_true", help="make models and indices, and measure nothing")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(folder)
        make_index(folder / f"faces_{arguments.vectors}", arguments.vectors, faces_an_image=1)
        for count in arguments.growth:
            make_index(folder / f"grown_{count}", count, faces_an_image=1.5)
        if not arguments.prepare:
            measure(folder, arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Everything that was asked for."""
    index = f"faces_{arguments.vectors}"
    if arguments.rounds:
        with ours(folder, index, arguments.threads) as our_side, stock(folder, index) as stock_side:
            compare(our_side, stock_side, arguments)
    if arguments.minutes:
        soak(folder, [16, 64], arguments.minutes, arguments.threads)
    for count in arguments.growth:
        with ours(folder, f"grown_{count}", arguments.threads, "--mmap") as side:
            at_start = side.memory()
            for title, request in (("identity", people_request), ("hybrid", hybrid_request)):
                times = [timed(side, request(turn)) for turn in range(arguments.growth_rounds)]
                print(
                    f"{count} vectors, {title}: p50 {1000 * statistics.median(times):.1f} ms, start {side.start:.1f} s"
                )
            print(f"  at start: {at_start}\n  after {2 * len(times)} queries: {side.memory()}")


def compare(our_side: Side, stock_side: Side, arguments: argparse.Namespace) -> None:
    """Start-up, single requests in turns, and many clients at once."""
    for title, side in (("ours", our_side), ("stock", stock_side)):
        print(f"{title}, start to first answer: {side.start:.1f} s, {side.start_processor:.1f} s of processor time")
    jpeg, png = partial(picture_request, "JPEG"), partial(picture_request, "PNG")
    queries = {"text": text_request, "identity": people_request, "hybrid": hybrid_request, "JPEG": jpeg, "PNG": png}
    for title, request in queries.items():
        theirs_is = title if request in (jpeg, png) else "text"
        mine, theirs = our_side.connect(), stock_side.connect()
        for turn in range(5):
            timed(our_side, request(turn), mine), timed(stock_side, queries[theirs_is](turn), theirs)
        pairs = [
            (timed(our_side, request(turn), mine), timed(stock_side, queries[theirs_is](turn), theirs))
            for turn in range(arguments.rounds)
        ]
        one, other = (1000 * statistics.median(times) for times in zip(*pairs))
        ratio = statistics.median(first / second for first, second in pairs)
        print(f"{title}: p50 {one:.1f} ms; stock {theirs_is} {other:.1f} ms; median of ratios {ratio:.2f}")
    compare_many(our_side, stock_side, arguments)


def compare_many(our_side: Side, stock_side: Side, arguments: argparse.Namespace) -> None:
    """Many clients at once, who ask one side after the other."""
    sides = {"ours, people": (our_side, people_request), "ours, text": (our_side, text_request)}
    sides["stock, text"] = (stock_side, text_request)
    rates: dict[str, list[float]] = {title: [] for title in sides}
    costs: dict[str, list[float]] = {title: [] for title in sides}
    for turn in range(arguments.turns):
        for title, (side, request) in sides.items():
            before = side.processor_seconds()
            count, errors = hammer(side, request, arguments.clients, arguments.seconds, turn * 10**9)
            if errors or not count:
                raise SystemExit(f"{title}: {errors} of {count + errors} requests failed")
            rates[title].append(count / arguments.seconds)
            costs[title].append(1000 * (side.processor_seconds() - before) / count)
    for title, values in rates.items():
        ratios = sorted(mine / other for mine, other in zip(values, rates["stock, text"], strict=True))
        print(
            f"{arguments.clients} clients, {title}: {statistics.median(values):.1f} answers a second, "
            f"{statistics.median(costs[title]):.0f} ms of processor time each; over stock's rate "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    print(f"after them: {our_side.memory()}")


def hammer(
    side: Side, request: Callable[[int], dict[str, Any]], clients: int, seconds: float, first: int = 0
) -> tuple[int, int]:
    """(answers, errors) of many clients that ask one request after the other, no two of them the same."""
    end = time.perf_counter() + seconds
    counts, errors = [0] * clients, [0] * clients

    def ask(number: int) -> None:
        connection = side.connect()
        while time.perf_counter() < end:
            try:
                timed(side, request(first + number * 1_000_000 + counts[number]), connection)
                counts[number] += 1
            except (OSError, http.client.HTTPException, SystemExit):
                errors[number] += 1
                connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), sum(errors)


if __name__ == "__main__":
    main()
