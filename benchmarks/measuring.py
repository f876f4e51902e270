"""Paired measurement: two sides that take turns in one process -> ratios of their times; and what a call holds of memory."""

import itertools
import statistics
import sys
import time
from collections.abc import Callable

CAPTIONS = (  # as long as COCO's
    "A man in a red jacket is feeding a horse over a wooden fence.",
    "Two people are looking at a map in front of a train station.",
    "A woman holds a tennis racket while waiting for the ball.",
    "A child sits at a table with a large birthday cake.",
    "A man riding a wave on top of a surfboard.",
    "A young girl is standing in the kitchen with a bowl of fruit.",
    "A person in a black suit talking on a phone near the window.",
    "A boy jumps over a ramp on his skateboard at the park.",
)


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[float]:
    """Time both in turns and return ours / theirs for each round, after one warm-up of each."""
    ours(), theirs()
    return [seconds(ours) / seconds(theirs) for _ in range(rounds)]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for what a GPU still computes."""
    torch = sys.modules.get("torch")  # what never imported it computes nothing on one
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def report(title: str, ratios: list[float]) -> None:
    """Print the median of the ratios and their range."""
    median = statistics.median(ratios)
    print(f"{title}: {median:.2f} (median of {len(ratios)}; {min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def peak_on_gpu(work: Callable[[], object]) -> int:
    """Most bytes that a call holds at a time beyond those held before it."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(work: Callable[[], object]) -> int:
    """Most bytes that a call holds at a time beyond those held before it: torch's allocations and releases in order."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes), default=0)
