"""What retrieval relies on in clip-retrieval: rows of the patch table that change nothing, checked before use.

Role: a clip-retrieval that has moved on is refused in a sentence instead of failing in the middle of a run.
"""

from collections.abc import Callable

from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.patches import PatchRow

_CHECKED = "clip-retrieval 2.45"
_INFERENCE = "clip_retrieval.clip_inference"
_BACK = "clip_retrieval.clip_back"

CLIP_RETRIEVAL: tuple[PatchRow, ...] = (
    PatchRow(
        (f"{_INFERENCE}.runner:Runner",),
        "runs a partition with injected reader, mapper, writer and logger",
        _CHECKED,
        parameters=("reader_builder", "mapper_builder", "writer_builder", "logger_builder", "output_partition_count"),
    ),
    PatchRow(
        (f"{_INFERENCE}.reader:dataset_to_dataloader",),
        "the readers' data loader, for folders and shards; its collation keeps dictionaries",
        _CHECKED,
        parameters=("dataset", "batch_size", "num_prepro_workers", "input_format"),
    ),
    PatchRow(
        (f"{_INFERENCE}.mapper:ClipMapper.__call__",),
        "embeds a batch with the attributes that our subclass sets",
        _CHECKED,
        parameters=("item",),
        marker="self.model_img(",
    ),
    PatchRow(
        (f"{_BACK}:KnnService.compute_query",),
        "the one place where a query becomes a vector; a text of ours reaches it through `query` unchanged",
        _CHECKED,
        parameters=("clip_resource", "text_input", "image_input", "image_url_input", "embedding_input"),
    ),
    PatchRow(
        (f"{_BACK}:KnnService.query",),
        "from a request to results",
        _CHECKED,
        parameters=(
            "text_input",
            "embedding_input",
            "modality",
            "num_images",
            "num_result_ids",
            "indice_name",
            "deduplicate",
        ),
    ),
)

_DISTRIBUTOR = f"{_INFERENCE}.distributor"


def spark_rows(worker: Callable[..., None]) -> tuple[PatchRow, ...]:
    """Rows for embedding on Spark: `worker` takes the place of the function that Spark's workers call."""
    return (
        PatchRow(
            (f"{_DISTRIBUTOR}:worker",),
            "the Spark distributor calls this global in the workers and takes no other; replaced while it hands out tasks",
            _CHECKED,
            replacement=lambda _original: worker,
            parameters=("tasks", "output_partition_count"),
        ),
        PatchRow(
            (f"{_DISTRIBUTOR}:PysparkDistributor",),
            "check only: what it takes",
            _CHECKED,
            parameters=("tasks", "worker_args"),
        ),
        PatchRow(
            (f"{_DISTRIBUTOR}:PysparkDistributor.__call__",),
            "check only: one Spark task a partition, in the session there is, each a call of the global with one number",
            _CHECKED,
            marker="worker(tasks=[partition_id], **self.worker_args)",
        ),
        PatchRow(
            ("autofaiss:build_index",),
            "check only: fills inverted files on Spark",
            "autofaiss 2.18",
            parameters=("index_key", "metric_type", "distributed", "temporary_indices_folder"),
        ),
        PatchRow(
            ("autofaiss.external.optimize:get_optimal_index_keys_v2",),
            "check only: the type of index that autofaiss chooses",
            "autofaiss 2.18",
            parameters=("nb_vectors", "dim_vector", "max_index_memory_usage"),
        ),
    )


def all_rows() -> tuple[PatchRow, ...]:
    """Everything that retrieval relies on, on Spark too."""
    return (*CLIP_RETRIEVAL, *spark_rows(lambda **_task: None))


def verify_hosts() -> None:
    """Raise HostMismatchError where clip-retrieval no longer offers what this package builds on."""
    host_patches.verify(CLIP_RETRIEVAL)
