"""Tasks over processes and Spark: the same results, one preparation a worker, and failures that arrive here."""

import io
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import worker_pool_fixtures as fixtures
from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage import spark_session
from open_clip_idplugin.storage.locations import location
from webdataset_tools.worker_pool import DISTRIBUTORS, check_reachable, run_tasks


def run(tasks, workers=2, distributor="processes", bar=None):
    bar = bar if bar is not None else tqdm(total=2 * len(tasks), file=io.StringIO())
    results = list(run_tasks(fixtures.squares(), tasks, workers, bar, distributor))
    bar.refresh()
    return results


@pytest.fixture(params=[(1, "processes"), (2, "processes"), (2, "pyspark")], ids=lambda p: f"{p[0]} {p[1]}")
def pool(request, monkeypatch):
    """Keyword arguments of `run`; Spark's workers must find the fixtures too."""
    workers, distributor = request.param
    if distributor == "pyspark":
        request.getfixturevalue("spark")
    return {"workers": workers, "distributor": distributor}


@pytest.fixture(scope="module")
def spark():
    """A session of two local threads, as `--distributor pyspark` opens it."""
    pytest.importorskip("pyspark")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    context = spark_session.open_session(2)
    yield context
    fixtures.stop_spark()


def test_every_result_comes_once_and_the_bar_counts_items(pool):
    bar = tqdm(total=24, file=io.StringIO())
    results = run(fixtures.tasks(12, 0.02), bar=bar, **pool)
    assert sorted((r["number"], r["square"]) for r in results) == [(n, n * n) for n in range(12)]
    assert bar.n == 24
    preparations = {r["process"]: r["prepared"] for r in results}
    assert len(preparations) <= pool["workers"]
    if pool["workers"] > 1:
        assert os.getpid() not in preparations and set(preparations.values()) == {1}
    assert run([], **pool) == []


def test_spark_prepares_anew_for_another_run_in_the_same_workers(spark):
    first, second = (run(fixtures.tasks(6), distributor="pyspark") for _ in range(2))
    for before in first:
        for after in second:
            assert after["prepared"] == 1 + before["prepared"] or after["process"] != before["process"]


def test_results_come_as_they_finish(pool, tmp_path):
    if pool["workers"] == 1:
        pytest.skip("one worker has one order")
    tasks = fixtures.tasks(4, t0=f"wait for {tmp_path / 'others'}")
    bar = tqdm(total=8, file=io.StringIO())
    numbers = []
    for result in run_tasks(fixtures.squares(), tasks, pool["workers"], bar, pool["distributor"]):
        numbers.append(result["number"])
        if len(numbers) == 3:
            (tmp_path / "others").touch()
    assert numbers[-1] == 0 and sorted(numbers) == [0, 1, 2, 3]


def test_the_first_failure_is_raised_and_ends_the_rest(pool):
    with pytest.raises(IdClipError, match="1 is bad input"):
        run(fixtures.tasks(4, t1="bad input"), **pool)
    expected = RuntimeError if pool["distributor"] == "pyspark" else Exception
    with pytest.raises(expected, match="defect"):
        run(fixtures.tasks(1, t0="defect"), **pool)
    if pool["workers"] > 1:
        started = time.monotonic()
        with pytest.raises(IdClipError, match="bad input"):
            run([(0, 0.0, "bad input"), *((n, 20.0, "") for n in range(1, 9))], **pool)
        assert time.monotonic() - started < 60


def test_a_dead_worker_is_one_sentence(pool):
    if pool["workers"] == 1:
        pytest.skip("the only worker is this process")
    with pytest.raises(IdClipError, match=r"(died|failed).*memory") as caught:
        run([(0, 0.5, "death"), *fixtures.tasks(2)[1:]], **pool)
    assert "\n" not in str(caught.value)
    assert len(run(fixtures.tasks(2), **pool)) == 2


def test_unknown_distributors_and_unreachable_places_are_one_sentence(tmp_path):
    with pytest.raises(IdClipError, match="processes or pyspark, not 'slurm'"):
        run(fixtures.tasks(1), distributor="slurm")
    place = location("memory://x")
    check_reachable(place, 1)
    check_reachable(tmp_path, 8, "pyspark")
    for workers, distributor in ((2, "processes"), (1, "pyspark")):
        with pytest.raises(IdClipError, match="memory of one process"):
            check_reachable(place, workers, distributor)
    assert DISTRIBUTORS == ("processes", "pyspark")


def test_missing_pyspark_and_java_are_one_sentence(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyspark.sql", None)
        with pytest.raises(IdClipError, match=r"pip install 'open-clip-idplugin\[spark\]'"):
            run(fixtures.tasks(1), distributor="pyspark")
    pytest.importorskip("pyspark")
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(IdClipError, match="needs Java 17"):
        run(fixtures.tasks(1), distributor="pyspark")


def test_the_environment_may_name_another_master(monkeypatch, tmp_path):
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR", "SPARK_HOME"):
        monkeypatch.delenv(name, raising=False)
    asked = []

    class Builder:
        def __getattr__(self, name):
            return lambda *values: (asked.append((name, *values)), self)[1]

        def getOrCreate(self):
            raise RuntimeError("no such host")

    pytest.importorskip("pyspark")
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", Builder())
    monkeypatch.setattr(spark_session, "_check_java", lambda: None)

    def masters():
        asked.clear()
        with pytest.raises(IdClipError, match=r"Spark does not start \(no such host\)"):
            spark_session.open_session(3)
        return [values[1] for values in asked if values[0] == "master"]

    assert masters() == ["local[3]"]
    (tmp_path / "conf").mkdir()
    Path(tmp_path, "conf/spark-defaults.conf").write_text("# x\nspark.master  spark://host:7077\n")
    for name, value in (
        ("SPARK_HOME", str(tmp_path)),
        ("SPARK_CONF_DIR", str(tmp_path / "conf")),
        ("PYSPARK_SUBMIT_ARGS", "--master spark://host:7077 pyspark-shell"),
        ("PYSPARK_GATEWAY_PORT", "1234"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert masters() == []
