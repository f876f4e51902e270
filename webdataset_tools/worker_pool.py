"""Worker pool: tasks -> results, over processes or Spark, with one progress bar that counts items, not tasks.

Role: a list of tasks -> their results, in the order of completion. Every worker prepares itself once (loads its face
engine), dies when the parent dies, and stops at the next item when another worker fails. Spark is in `spark_pool`.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import Location, is_private_to_process

Task = TypeVar("Task")
Result = TypeVar("Result")
Tick = Callable[[], object]  # called by the work after every item

PROCESSES, PYSPARK = "processes", "pyspark"
DISTRIBUTORS = (PROCESSES, PYSPARK)

_POLL_SECONDS = 0.2
_state: dict[str, Any] = {}  # of a worker process: its work, the shared counter and the stop flag


class Stopped(RuntimeError):
    """Another worker failed or the user interrupted; raised at the next tick."""


def check_distributor(name: object) -> None:
    """Raise IdClipError for a --distributor that is not known."""
    if name not in DISTRIBUTORS:
        raise IdClipError(f"--distributor must be {' or '.join(DISTRIBUTORS)}, not {name!r}")


def check_reachable(place: Location, workers: int, distributor: str = PROCESSES) -> None:
    """Raise IdClipError for a place in this process's memory when other processes are to work there."""
    if is_private_to_process(place) and (workers > 1 or distributor != PROCESSES):
        raise IdClipError(f"{place} lies in the memory of one process; use --workers 1 and --distributor {PROCESSES}")


def run_tasks(
    prepare: Callable[[], Callable[[Task, Tick], Result]],
    tasks: Sequence[Task],
    workers: int,
    bar: tqdm,
    distributor: str = PROCESSES,
) -> Iterator[Result]:
    """Yield the result of every task; `bar` advances by one at each tick (on Spark: by a task's ticks when it is finished).

    `prepare` is called once in each worker and returns the work; it, the tasks and the results must be picklable when
    `workers` > 1 and on Spark. One worker of `processes` runs in this process. On Spark, a new local session gets
    `workers` threads; any other session as many tasks at a time as it has cores, and at least `workers`. The first
    exception of a task is raised here.
    """
    check_distributor(distributor)
    workers = min(workers, len(tasks))
    if not tasks:
        return
    if distributor == PYSPARK:
        from webdataset_tools.spark_pool import run_on_spark

        yield from run_on_spark(prepare, tasks, workers, bar)
    elif workers > 1:
        yield from _run_in_processes(prepare, tasks, workers, bar)
    else:
        work = prepare()
        for task in tasks:
            yield work(task, bar.update)


def _run_in_processes(
    prepare: Callable[[], Callable[[Task, Tick], Result]], tasks: Sequence[Task], workers: int, bar: tqdm
) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside threads (ONNX Runtime, OpenMP)
    counter, stop = context.Value("q", 0), context.Event()
    shown = 0
    with ProcessPoolExecutor(workers, context, _start_worker, (prepare, counter, stop)) as pool:
        try:
            pending: set[Future[Result]] = {pool.submit(_work_on, task) for task in tasks}
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                shown, before = counter.value, shown
                if shown > before:
                    bar.update(shown - before)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise IdClipError(
                "a worker process died, perhaps for lack of memory; run the same command with fewer --workers to go on"
            ) from None
        finally:  # also when the caller stops listening
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(prepare: Callable[[], Any], counter: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and sets the stop flag
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _state.update(prepare=prepare, counter=counter, stop=stop)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a killed parent leaves its workers waiting for ever


def _work_on(task: Any) -> Any:
    if "work" not in _state:  # not in _start_worker: an exception there would only break the pool
        _state["work"] = _state["prepare"]()
    return _state["work"](task, _tick)


def _tick() -> None:
    with _state["counter"].get_lock():
        _state["counter"].value += 1
    if _state["stop"].is_set():
        raise Stopped
