"""Rows of an index under construction, in the folders clip-retrieval reads: img_emb/, text_emb/, metadata/.

Role: clip-retrieval's writer, for its `Runner`: batches of embeddings, captions, records and thumbnails -> files of one
partition. It differs from the stock `NumpyWriter` in three things: records of any form never stop the run (the stock
writer fails at the end of a partition when two records disagree about a type), captions are kept without embedding
them, and files appear whole, so that a killed run goes on where it stopped.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.pictures.thumbnails import ThumbnailWriter
from open_clip_idplugin.retrieval.index_folder.metadata_columns import CAPTION_COLUMN, KEY_COLUMN, PREFIX
from open_clip_idplugin.storage.atomic import atomic_path
from open_clip_idplugin.storage.finite_json import json_text


class PartitionWriter:
    """Collects the rows of one partition and writes them when the `Runner` flushes."""

    def __init__(self, folder: Path, partition: int, thumbnails: ThumbnailWriter | None) -> None:
        self.keys: list[str] = []
        self._folder = folder
        self._name = f"{partition:06d}"
        self._captions: list[str] = []
        self._records: list[str] = []
        self._embeddings: dict[str, list[np.ndarray]] = {"img": [], "text": []}
        self._thumbnails = thumbnails

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """Take one batch as clip-retrieval's mapper returns it, with `thumbnails` beside."""
        self.keys.extend(batch["image_filename"])
        self._embeddings["img"].append(batch["image_embs"])
        if batch["text_embs"] is not None:
            self._embeddings["text"].append(batch["text_embs"])
        self._captions.extend(batch["text"] or ())
        self._records.extend(batch["metadata"] or ())
        if self._thumbnails is not None:
            self._thumbnails.add(batch["thumbnails"])

    def flush(self) -> None:
        """Write the partition's files; an empty partition writes none."""
        if self._thumbnails is not None:
            self._thumbnails.commit()
        if not self.keys:
            return
        for tower, blocks in self._embeddings.items():
            if blocks:
                with (
                    atomic_path(self._folder / f"{tower}_emb" / f"{tower}_emb_{self._name}.npy") as path,
                    path.open("wb") as file,
                ):
                    np.save(file, np.concatenate(blocks))
        self._write_metadata()

    def _write_metadata(self) -> None:
        import pyarrow.parquet

        columns: dict[str, Sequence[Any]] = {KEY_COLUMN: self.keys}
        if self._captions:
            columns[CAPTION_COLUMN] = self._captions
        for name, values in record_columns(self._records).items():
            while name in columns:  # of our own, or what another one was renamed to
                name = f"{PREFIX}{name}"
            columns[name] = values
        table = pyarrow.table({name: _column(values) for name, values in columns.items()})
        with atomic_path(self._folder / "metadata" / f"metadata_{self._name}.parquet") as path:
            pyarrow.parquet.write_table(table, path)


def record_columns(records: Sequence[str]) -> dict[str, list[Any]]:
    """JSON records -> columns of scalars, None where a record lacks one.

    Nested objects become dotted names ("attributes.stratum"), lists become JSON text; what is no JSON object counts as
    empty.
    """
    columns: dict[str, list[Any]] = {}
    for row, text in enumerate(records):
        for name, value in _flatten(_parse(text)).items():
            columns.setdefault(name, [None] * len(records))[row] = value
    return columns


def _parse(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = json_text(value, ensure_ascii=False) if isinstance(value, list) else value
    return flat


def _column(values: Sequence[Any]) -> Any:
    """A parquet column; values of mixed types are written as text."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        return pyarrow.array([None if value is None else str(value) for value in values])
