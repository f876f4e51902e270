"""Spark session: the one there is, the environment's, or a local one, for `--distributor pyspark`.

Role: number of threads -> `SparkContext`; and Spark's errors -> one sentence.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError

if TYPE_CHECKING:
    from pyspark import SparkContext

_OUR_ERROR = re.compile(r"^open_clip_idplugin\.[\w.]*: (.+)$", re.MULTILINE)  # in a traceback of a Python worker


@contextmanager
def failures_in_a_sentence() -> Iterator[None]:
    """Raise what Spark says of a failed task as an IdClipError."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, PySparkException) as error:
        ours = _OUR_ERROR.search(str(error))
        if ours is not None:
            raise IdClipError(ours[1]) from error
        reasons = [line for line in str(error).splitlines() if "Exception: " in line or "crashed" in line]
        reason = (reasons or str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise IdClipError(
            f"a Spark task failed ({reason[:300]}), perhaps for lack of memory or because this package is not installed on "
            "every machine of the cluster; run the same command again to go on"
        ) from error


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
