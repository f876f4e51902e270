"""Embedding on Spark through clip-retrieval's own distributor, with the plugin in Spark's workers.

Role: partitions that are not done -> Spark tasks, each of which embeds one partition as this process would. Every machine
must see pictures, checkpoint and output folder under the same paths; a task says so in a sentence where one does not.
clip-retrieval's `PysparkDistributor` calls a global of its module in the workers. That global is replaced while it hands
out the tasks: Spark pickles our function by name, so that the workers import this module, and with it the plugin.
"""

import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from open_clip_idplugin.checkpoints import model_folders
from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.clip_retrieval import spark_rows
from open_clip_idplugin.hosts.registration import add_config, own_config
from open_clip_idplugin.pictures.thumbnails import ThumbnailPart
from open_clip_idplugin.retrieval.index.partition_pipeline import Pipeline
from open_clip_idplugin.retrieval.index.partitions import DONE_FOLDER, EmbedOptions, Partitions, split
from open_clip_idplugin.retrieval.index.plan import checkpoint_digest
from open_clip_idplugin.retrieval.index.sources import ImageSource
from open_clip_idplugin.storage.spark_session import failures_in_a_sentence, open_session

_LOOK_SECONDS = 1.0  # between two looks at what is done
_opened: dict[str, Pipeline] = {}  # of a Python worker of Spark: the pipeline of the job that it works for


@dataclass(frozen=True)
class SparkJob:
    """What a worker needs to embed any partition."""

    name: str
    source: ImageSource
    folder: Path
    count: int  # of partitions
    options: EmbedOptions
    model: str
    checkpoint: str | None
    precision: str
    image_tower: str  # fingerprint
    weights: str | None  # SHA-256 of the checkpoint
    own_config: Mapping[str, Any] | None  # of a user's own model, which Spark's machines do not know
    paths: tuple[str, ...]  # of Python's modules


def embed_on_spark(
    source: ImageSource,
    loaded: LoadedModel,
    options: EmbedOptions,
    partitions: Partitions,
    left: list[int],
    progress: "tqdm[Any]",
) -> None:
    """Embed the partitions `left` on Spark: in the session there is, the environment's, or a local one.

    Raises:
        IdClipError: no Spark, or a task failed; what is done stays done.
        HostMismatchError: clip-retrieval's distributor is not one that this was built for.
    """
    if loaded.checkpoint is None and not loaded.name.startswith(model_folders.PREFIX):
        raise IdClipError("--distributor pyspark needs --checkpoint: every worker would have random weights of its own")
    job = _job(source, loaded, options, partitions)
    open_session(max(1, (os.cpu_count() or 1) // max(options.workers, 1)))
    with _our_worker(), _showing(progress, partitions, left), failures_in_a_sentence():
        from clip_retrieval.clip_inference.distributor import PysparkDistributor

        PysparkDistributor(tasks=left, worker_args={"job": job})()
    if any(partitions.report(number) is None for number in left):
        raise IdClipError(
            f"Spark's machines did not write to '{partitions.folder.parent}': give an --output that all share"
        )


def embed_partitions(tasks: list[int], job: SparkJob) -> None:
    """Run in a Python worker of Spark: embed partitions, as clip-retrieval's own worker would.

    A task that Spark repeats finds what the first attempt finished.
    """
    sys.path.extend(path for path in job.paths if path not in sys.path)
    partitions = Partitions(job.folder, split(job.source, job.count))
    for number in tasks:
        if partitions.report(number) is None:
            _require_shared(job, partitions.parts[number])
            _pipeline(job, partitions).run(number)


_ROWS = spark_rows(embed_partitions)


@contextmanager
def indexing_on_spark(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the arguments with which autofaiss fills an index on Spark; its partial indices lie in `folder` meanwhile."""
    host_patches.verify(_ROWS)
    open_session(os.cpu_count() or 1)
    partial = folder / DONE_FOLDER / "faiss"
    try:
        with failures_in_a_sentence():
            yield {"distributed": "pyspark", "temporary_indices_folder": str(partial)}
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _job(source: ImageSource, loaded: LoadedModel, options: EmbedOptions, partitions: Partitions) -> SparkJob:
    """Workers have other working folders, so that every path is made absolute."""
    shards = tuple(replace(shard, path=shard.path.absolute()) for shard in source.shards)
    folder = source.folder.absolute() if source.folder is not None else None
    model = loaded.name
    if model.startswith(model_folders.PREFIX):
        model = model_folders.PREFIX + str(Path(model.removeprefix(model_folders.PREFIX)).absolute())
    return SparkJob(
        uuid4().hex,
        replace(source, shards=shards, folder=folder),
        partitions.folder.absolute(),
        len(partitions),
        options,
        model,
        _absolute(loaded.checkpoint) if loaded.checkpoint else None,
        loaded.precision,
        fingerprint_image_tower(loaded.model),
        checkpoint_digest(loaded),
        own_config(loaded.name),
        tuple(sys.path),
    )


def _absolute(checkpoint: str) -> str:
    """A file, a tag, or BASE+DELTA."""
    if Path(checkpoint).is_file():
        return str(Path(checkpoint).absolute())
    base, plus, delta = checkpoint.rpartition("+")
    return f"{_absolute(base)}+{_absolute(delta)}" if plus and Path(delta).is_file() else checkpoint


@contextmanager
def _our_worker() -> Iterator[None]:
    host_patches.apply(_ROWS)
    try:
        yield
    finally:
        host_patches.restore(_ROWS)


@contextmanager
def _showing(progress: "tqdm[Any]", partitions: Partitions, left: list[int]) -> Iterator[None]:
    """Advance the bar by every partition that is reported done."""
    end = threading.Event()

    def look() -> None:
        waiting = set(left)
        while waiting:
            last = end.is_set()
            for number in sorted(waiting):
                report = partitions.report(number)
                if report is not None:
                    progress.update(report.rows + len(report.skipped))
                    waiting.discard(number)
            if last:
                return
            end.wait(_LOOK_SECONDS)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _pipeline(job: SparkJob, partitions: Partitions) -> Pipeline:
    if job.name not in _opened:
        _opened.clear()  # what an earlier job loaded goes first
        parts = partitions.folder / DONE_FOLDER
        _opened[job.name] = Pipeline(
            job.source,
            _load(job),
            job.options,
            partitions,
            tqdm(disable=True),
            lambda number: ThumbnailPart(parts, number),
        )
    return _opened[job.name]


def _load(job: SparkJob) -> LoadedModel:
    """The model, on the worker's device; refused where it is not the one that the run began with."""
    if job.own_config is not None:
        add_config(job.model, job.own_config, "of the job")
    loaded = load_model(job.model, job.checkpoint, device=job.options.spark_device, precision=job.precision)
    if fingerprint_image_tower(loaded.model) != job.image_tower or checkpoint_digest(loaded) != job.weights:
        raise IdClipError(
            f"the checkpoint {job.checkpoint} holds other weights on one of Spark's machines: give one that all share"
        )
    return loaded


def _require_shared(job: SparkJob, part: list[Any]) -> None:
    """Refuse a machine that lacks something: it would count every picture as one that cannot be read."""
    needed = [shard.path for shard in part] if job.source.shards else [job.source.folder or Path()]
    missing = [path for path in (*needed, job.folder) if not path.exists()]
    if missing:
        raise IdClipError(
            f"one of Spark's machines has no '{missing[0]}': pictures and output must lie on storage that all machines share"
        )
