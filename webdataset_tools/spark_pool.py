"""The tasks of `worker_pool` on Spark: on this machine or on a cluster.

Role: a list of tasks -> their results, in the order of completion. Each task is a Spark job of its own, as many at a time
as there are cores: no task waits for a slow one of its wave, and only those under way are in memory. Every Python worker
of Spark prepares itself once. Exceptions travel back as values, so that Spark does not repeat what fails again.
"""

import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError

if TYPE_CHECKING:
    from pyspark import Broadcast, SparkContext

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
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        return future.result()
    except (Py4JError, PySparkException) as error:
        reasons = [line for line in str(error).splitlines() if "Exception: " in line or "crashed" in line]
        reason = (reasons or str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise IdClipError(
            f"a Spark task failed ({reason[:300]}), perhaps for lack of memory or because this package is not installed on "
            "every machine of the cluster; run the same command again to go on"
        ) from error


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


def open_session(workers: int) -> "SparkContext":
    """Return the context of the Spark session there is, or else of a new one: the environment's, or local[`workers`].

    The environment's is what `spark-submit`, `PYSPARK_SUBMIT_ARGS --master` or `spark-defaults.conf` name. Raises IdClipError
    when pyspark or Java is missing.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise IdClipError(
            "--distributor pyspark needs the package pyspark: pip install 'open-clip-idplugin[spark]'"
        ) from None
    session = SparkSession.getActiveSession()
    if session is None:
        builder = SparkSession.builder.appName("idclip")
        if not _environment_names_master():
            _check_java()
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's own default is whatever python3 is
            # Nothing but this machine talks to a local session.
            for name, value in (
                ("spark.driver.host", "127.0.0.1"),
                ("spark.driver.bindAddress", "127.0.0.1"),
                ("spark.ui.enabled", "false"),
                ("spark.ui.showConsoleProgress", "false"),
                ("spark.log.level", "ERROR"),
            ):
                builder = builder.config(name, value)
            builder = builder.master(f"local[{workers}]")
        try:
            session = builder.getOrCreate()
        except Exception as error:  # Java that does not start, a master that does not answer
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise IdClipError(f"Spark does not start ({reason}); check Java (17 or later) and SPARK_HOME") from error
    if not hasattr(session, "sparkContext") or "connect" in type(session).__module__:
        raise IdClipError(
            "--distributor pyspark needs a classic Spark session, not one of Spark Connect; unset SPARK_REMOTE"
        )
    return session.sparkContext


def _environment_names_master() -> bool:
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # under spark-submit
        return True
    if "--master" in os.environ.get("PYSPARK_SUBMIT_ARGS", ""):
        return True
    folders = [os.environ.get("SPARK_CONF_DIR"), os.environ.get("SPARK_HOME") and os.environ["SPARK_HOME"] + "/conf"]
    files = [Path(folder, "spark-defaults.conf") for folder in folders if folder]
    return any(
        line.split()[:1] == ["spark.master"]
        for file in files
        if file.is_file()
        for line in file.read_text(encoding="utf-8").splitlines()
    )


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not (shutil.which("java") or (home and Path(home, "bin", "java").is_file())):
        raise IdClipError("--distributor pyspark needs Java 17 or later; install it, or set JAVA_HOME")
