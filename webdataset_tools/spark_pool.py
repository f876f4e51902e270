"""Spark pool: the tasks of `worker_pool` -> results, on this machine or on a cluster.

Role: a list of tasks -> their results, in the order of completion. Each task is a Spark job of its own, as many at a time
as there are cores: no task waits for a slow one of its wave, and only those under way are in memory. Every Python worker
of Spark prepares itself once. Exceptions travel back as values, so that Spark does not repeat what fails again.
"""

import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tqdm import tqdm

from open_clip_idplugin.storage.spark_session import failures_in_a_sentence, open_session

if TYPE_CHECKING:
    from pyspark import Broadcast

_state: dict[str, Any] = {}  # of a Python worker: the run it is prepared for, and its work


def run_on_spark(prepare: Callable[[], Any], tasks: Sequence[Any], workers: int, bar: tqdm) -> Iterator[Any]:
    """Yield the result of every task; see `worker_pool.run_tasks`. The bar advances with every finished task.

    Raises IdClipError when there is no Spark, or when one of its Python workers dies.
    """
    context = open_session(workers)
    run = f"idclip-{uuid4().hex}"
    shared = context.broadcast(pickle.dumps(prepare))
    stop = threading.Event()

    def work_on(task: Any) -> tuple[int, bool, Any]:
        if stop.is_set():  # the job would start after the others were cancelled
            return 0, False, None
        context.setJobGroup(run, "idclip", interruptOnCancel=True)
        rows = context.parallelize([pickle.dumps(task)], 1).mapPartitions(partial(_work, run, sys.path, shared))
        return pickle.loads(rows.collect()[0])

    threads = min(len(tasks), max(workers, context.defaultParallelism))
    pool = ThreadPoolExecutor(threads)
    try:
        pending: set[Future[tuple[int, bool, Any]]] = {pool.submit(work_on, task) for task in tasks}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                ticks, failed, result = _result(future)
                bar.update(ticks)
                if failed:
                    raise result
                yield result
    finally:  # also when the caller stops listening
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        context.cancelJobGroup(run)
        shared.unpersist()


def _result(future: "Future[tuple[int, bool, Any]]") -> tuple[int, bool, Any]:
    with failures_in_a_sentence():
        return future.result()


def _work(run: str, paths: list[str], shared: "Broadcast[bytes]", rows: Iterator[bytes]) -> Iterator[bytes]:
    """Run in a Python worker of Spark: yield (ticks, whether it failed, result or exception) of each task, pickled."""
    sys.path.extend(path for path in paths if path not in sys.path)  # as in worker processes: modules beside a script
    for row in rows:
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        try:
            if _state.get("run") != run:
                _state.clear()  # what an earlier run prepared goes first
                _state.update(work=pickle.loads(shared.value)(), run=run)
            result = _state["work"](pickle.loads(row), tick)
            answer = pickle.dumps((ticks, False, result))
        except Exception as error:
            answer = pickle.dumps((ticks, True, _portable(error)))
        yield answer


def _portable(error: Exception) -> Exception:
    """Return the error, or one that says the same where it cannot be pickled and made again."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
