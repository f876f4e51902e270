"""Manifest of a release: every decision of a run, kept or not -> a row of `manifest.parquet`.

Role: splits with their images and decisions -> a table. Rows without an identity are COCO images that were left out before
anybody was swapped in. Boxes and landmarks are pixels of the upright picture; similarities are cosines. It holds no embedding.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap.swapping import SplitResult
from webdataset_tools.marking import short_name
from webdataset_tools.release import swapped_file_name

MANIFEST_FILE = "manifest.parquet"
_ROWS_AT_ONCE = 10_000


def write_manifest(
    path: Location, splits: Iterable[SplitResult], unsplit: Iterable[Skip], common: dict[str, Any]
) -> None:
    """Write the table.

    `unsplit` are images left out before splitting, `common` the columns equal for the whole run (swapper, face model, seed).
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("split", pyarrow.string()),
            ("image_id", pyarrow.int64()),
            ("coco_file", pyarrow.string()),
            ("identity_id", pyarrow.string()),
            ("identity_name", pyarrow.string()),
            ("file_name", pyarrow.string()),
            ("kept", pyarrow.bool_()),
            ("reason", pyarrow.string()),
            ("detail", pyarrow.string()),
            ("photo", pyarrow.string()),
            ("face_photo", pyarrow.string()),
            ("tries", pyarrow.int32()),
            ("similarity_identity", pyarrow.float32()),
            ("similarity_original", pyarrow.float32()),
            ("matched", pyarrow.string()),
            ("face_box", pyarrow.list_(pyarrow.float32())),
            ("landmarks", pyarrow.list_(pyarrow.float32())),
            ("face_score", pyarrow.float32()),
            ("digital_source_type", pyarrow.string()),
            ("swapper", pyarrow.string()),
            ("swapper_model", pyarrow.string()),
            ("face_model", pyarrow.string()),
            ("seed", pyarrow.int64()),
        ]
    )
    with atomic_path(path, PRIVATE) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        left_out = (_skip_row(skip, None, common) for skip in unsplit)
        for rows in _batches(chain(left_out, *(_rows(split, common) for split in splits))):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _skip_row(skip: Skip, split: str | None, common: dict[str, Any]) -> dict[str, Any]:
    row = {"split": split, "coco_file": skip.key, "kept": False, "reason": skip.reason, "detail": skip.detail}
    return {**common, **row}


def _rows(split: SplitResult, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for skip in split.skipped:
        yield _skip_row(skip, split.split, common)
    for swapped in split.images:
        for decision in swapped.decisions:
            yield {
                **common,
                **vars(decision),
                "split": split.split,
                "image_id": swapped.image.image_id,
                "coco_file": swapped.image.label,
                "identity_name": split.names[decision.identity_id],
                "file_name": swapped_file_name(swapped.image.image_id, decision.identity_id) if decision.kept else None,
                "matched": json_text(swapped.values, ensure_ascii=False),
                "face_box": swapped.face.box.tolist(),
                "landmarks": swapped.face.landmarks.reshape(-1).tolist(),
                "face_score": swapped.face.score,
                "digital_source_type": short_name(split.digital_source_type) if decision.kept else None,
            }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch = []
    yield batch
