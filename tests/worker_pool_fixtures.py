"""Work for the tests of worker pools; importable, because worker processes are spawned."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from open_clip_idplugin.errors import IdClipError

Task = tuple[int, float, str]  # number, seconds, what happens at the end


class Squares:
    """Squares numbers in a process that knows how often it was prepared."""

    prepared = 0

    def __init__(self, label: str) -> None:
        Squares.prepared += 1
        self.label = label

    def __call__(self, task: Task, tick: Callable[[], object]) -> dict:
        number, seconds, end = task
        for _ in range(2):
            time.sleep(seconds / 2)
            tick()
        if end.startswith("wait for "):
            deadline = time.monotonic() + 120
            while not Path(end.removeprefix("wait for ")).exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        if end == "bad input":
            raise IdClipError(f"{number} is bad input")
        if end == "defect":
            raise Peculiar(number, "defect")
        if end == "death":
            os._exit(3)
        return {"number": number, "square": number**2, "process": os.getpid(), "prepared": Squares.prepared}


class Peculiar(ValueError):
    """An exception that cannot be made again from its message alone, as pickle tries."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what} in {number}")


def squares() -> "partial[Squares]":
    return partial(Squares, "squares")


def tasks(count: int, seconds: float = 0.0, **ends: str) -> list[Task]:
    """Numbers from 0; `ends` say what happens in which, such as t3="defect"."""
    return [(number, seconds, ends.get(f"t{number}", "")) for number in range(count)]


def stop_spark() -> None:
    """End the session that a test opened, so that the next one opens its own."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()
