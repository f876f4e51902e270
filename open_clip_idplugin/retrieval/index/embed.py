"""Pictures -> image embeddings with captions, metadata and thumbnails: all partitions of a source.

Role: `ImageSource` + model -> img_emb/, metadata/ and thumbnails of a folder, partition by partition in this process or
through clip-retrieval's Spark distributor. What happens to a partition stands in `partition_pipeline`.
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.pictures.thumbnails import FILE_NAME, ThumbnailWriter, merge_parts
from open_clip_idplugin.retrieval.index.partition_pipeline import Pipeline
from open_clip_idplugin.retrieval.index.partitions import (
    DONE_FOLDER,
    PYSPARK,
    EmbedOptions,
    PartitionReport,
    Partitions,
    open_partitions,
)
from open_clip_idplugin.retrieval.index.sources import ImageSource


def embed_images(
    source: ImageSource, loaded: LoadedModel, folder: Path, options: EmbedOptions
) -> list[PartitionReport]:
    """Embed every picture of `source` into `folder`; partitions that an earlier run finished there are kept.

    Returns one report a partition, in order. A picture that cannot be read costs its row and one entry in the report.
    """
    partitions = open_partitions(source, folder, options)
    done = partitions.done()
    with tqdm(total=source.count, unit="img", desc="Embedding images") as progress:
        progress.update(sum(report.rows + len(report.skipped) for report in done.values()))
        left = [number for number in range(len(partitions)) if number not in done]
        if options.distributor == PYSPARK and left:
            from open_clip_idplugin.retrieval.index.embed_on_spark import embed_on_spark

            embed_on_spark(source, loaded, options, partitions, left, progress)
        elif left:
            _embed_here(source, loaded, options, partitions, left, progress)
    if options.thumbnail_size:
        merge_parts(folder / DONE_FOLDER, folder / FILE_NAME)
    done = partitions.done()
    return [done[number] for number in range(len(partitions))]


def _embed_here(
    source: ImageSource,
    loaded: LoadedModel,
    options: EmbedOptions,
    partitions: Partitions,
    left: list[int],
    progress: "tqdm[Any]",
) -> None:
    target = partitions.folder / FILE_NAME
    pipeline = Pipeline(source, loaded, options, partitions, progress, lambda number: ThumbnailWriter(target, number))
    for number in left:
        pipeline.run(number)
