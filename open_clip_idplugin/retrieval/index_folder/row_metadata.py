"""Metadata of an index's rows, read where it lies on the disk.

Role: metadata/*.parquet -> Arrow files beside them, which are mapped into memory -> the columns of some rows. Parquet has to
be unpacked before a row can be read; clip-retrieval therefore holds all of it in memory. Answers are those of its
`ParquetMetadataProvider`.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.metadata_columns import shown_names
from open_clip_idplugin.storage.atomic import atomic_path

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "metadata_arrow"
_SOURCE = b"idclip_source"  # size and time of the parquet file
_BATCH = 65_536  # rows
_COLUMNS_KEPT = 4  # that filters used last


class RowMetadata:
    """Metadata of rows under the names of `metadata_columns`; missing values are left out.

    clip-retrieval calls the key `image_path` and would send whatever file of that name lies in the service's working
    directory. Safe to use from several threads.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: of the index.

        Raises:
            IndexMismatch: it has no metadata, or metadata that cannot be read.
        """
        paths = sorted((folder / "metadata").glob("*.parquet"))
        if not paths:
            raise IndexMismatch(f"'{folder}' holds no metadata/*.parquet: make the index again")
        try:
            self._batches = [batch for path in paths for batch in _mapped(path, folder / FOLDER)]
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IndexMismatch(f"the metadata of '{folder}' cannot be read ({reason}): make the index again") from None
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)
        names = list(dict.fromkeys(name for batch in self._batches for name in batch.schema.names))
        self._stored = {shown: stored for stored, shown in shown_names(names).items()}
        self._column = lru_cache(_COLUMNS_KEPT)(self.read)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def columns(self) -> list[str]:
        """Names of the columns of all files, in order."""
        return list(self._stored)

    def get(self, ids: Sequence[int], cols: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One dictionary of JSON values a row."""
        wanted = {stored: name for name, stored in self._stored.items() if cols is None or name in cols}
        rows = np.asarray(ids, np.int64).reshape(-1)
        owners = np.searchsorted(self._ends, rows, side="right")
        found: list[dict[str, Any]] = [{} for _ in rows]
        for number in np.unique(owners):
            batch = self._batches[number]
            places = np.flatnonzero(owners == number)
            local = rows[places] - (int(self._ends[number - 1]) if number else 0)
            names = [name for name in batch.schema.names if name in wanted]
            values = [batch.column(name).take(pa.array(local)).to_pylist() for name in names]
            for place, *row in zip(places, *values, strict=True):
                found[place] = {wanted[name]: value for name, value in zip(names, row, strict=True) if _is_json(value)}
        return found

    def __getitem__(self, name: str) -> "pd.Series[Any]":
        """A whole column, with pandas' types; raises KeyError."""
        return self._column(name)

    def read(self, name: str) -> "pd.Series[Any]":
        """The same, without keeping it for the next time."""
        import pandas as pd

        stored = self._stored[name]
        parts = [
            batch.column(stored) if stored in batch.schema.names else pa.nulls(batch.num_rows)
            for batch in self._batches
        ]
        if len({part.type for part in parts}) == 1:
            series: pd.Series[Any] = pa.chunked_array(parts).to_pandas()
            return series
        return pd.concat([part.to_pandas() for part in parts], ignore_index=True)


def _mapped(parquet: Path, folder: Path) -> Iterator[Any]:
    """Record batches of a parquet file, out of its Arrow file in `folder`, which is made where it is missing or old."""
    status = parquet.stat()
    source = f"{status.st_size} {status.st_mtime_ns}".encode()
    target = folder / f"{parquet.stem}.arrow"
    if _source_of(target) != source:
        try:
            with atomic_path(target) as path:
                _convert(parquet, path, source)
        except PermissionError:  # an index that is only read: a file that goes when it is closed
            with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
                _convert(parquet, Path(file.name), source)
                yield from _batches(Path(file.name))
                return
    yield from _batches(target)


def _batches(path: Path) -> list[Any]:
    reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _source_of(path: Path) -> bytes | None:
    try:
        with pa.memory_map(str(path), "r") as mapped:
            return (pa.ipc.open_file(mapped).schema.metadata or {}).get(_SOURCE)
    except (OSError, pa.ArrowException):
        return None


def _convert(parquet: Path, target: Path, source: bytes) -> None:
    """Unpack a parquet file, a batch at a time; a stored pandas index is no column, as in pandas itself."""
    with pq.ParquetFile(parquet) as file:
        index = (file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
        names = [name for name in file.schema_arrow.names if name not in index]
        fields = [file.schema_arrow.field(name) for name in names]
        schema = pa.schema(fields, metadata={_SOURCE: source})
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in file.iter_batches(_BATCH, columns=names):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _is_json(value: Any) -> bool:
    """Whether JSON has a form for a value: neither missing (None, NaN) nor infinite nor nested."""
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))
