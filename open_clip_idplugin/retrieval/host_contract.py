"""What retrieval relies on in clip-retrieval: rows of the patch table that change nothing, checked before use.

Role: a clip-retrieval that has moved on is refused in a sentence instead of failing in the middle of a run.
"""

from open_clip_idplugin import host_patches
from open_clip_idplugin.host_patches import PatchRow

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
        (f"{_INFERENCE}.reader:WebdatasetReader",),
        "reads shards; its `preprocess` may return a dictionary, which its collation keeps",
        _CHECKED,
        parameters=(
            "sampler",
            "preprocess",
            "tokenizer",
            "input_dataset",
            "enable_text",
            "enable_metadata",
            "wds_image_key",
        ),
    ),
    PatchRow(
        (f"{_INFERENCE}.reader:dataset_to_dataloader",),
        "the folder reader's data loader",
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


def verify_hosts() -> None:
    """Raise HostMismatchError where clip-retrieval no longer offers what this package builds on."""
    host_patches.verify(CLIP_RETRIEVAL)
