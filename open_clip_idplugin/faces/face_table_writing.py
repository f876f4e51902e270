"""Face table writing: parts -> one Parquet file, one array of embeddings, and what describes them.

Role: the parts in their order, one at a time in memory. The metadata is written last: a folder that has it is finished.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_parts import PARTS_FOLDER, PartNotes, read_part
from open_clip_idplugin.faces.face_table import (
    EMBEDDINGS_FILE,
    METADATA_FILE,
    TABLE_FILE,
    FaceTable,
    FaceTableInfo,
    schema,
)
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.locations import Location, remove_folder

if TYPE_CHECKING:
    import pyarrow

_ROWS_PER_GROUP = 65_536


def write_table(folder: Location, notes: Sequence[PartNotes], model_id: str, size: int, name: str) -> FaceTableInfo:
    """Put the parts below `folder` together there; `name` is the collection's.

    Raises IdClipError when the output cannot be written.
    """
    count = sum(part.embeddings for part in notes)
    try:
        with atomic_path(folder / EMBEDDINGS_FILE, PRIVATE) as array, atomic_path(folder / TABLE_FILE, PRIVATE) as rows:
            _put_together(folder / PARTS_FOLDER, notes, (count, size), rows, array)
            digest = file_sha256(rows, array)
        faces, pictures = (sum(getattr(part, field) for part in notes) for field in ("faces", "pictures"))
        info = FaceTableInfo(model_id, size, faces, count, pictures, name, digest)
        atomic_write(folder / METADATA_FILE, info.to_json())
    except OSError as error:
        raise IdClipError(f"cannot write to {folder}: {error}; run the same command again to go on") from error
    return info


def _put_together(parts: Location, notes: Sequence[PartNotes], shape: tuple[int, int], rows: Path, array: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with array.open("wb") as stream, pq.ParquetWriter(rows, schema()) as writer:
        np.lib.format.write_array_header_1_0(stream, header)
        written, waiting = 0, list["pyarrow.Table"]()
        for part in notes:
            table, embeddings = read_part(parts, part.name)
            if embeddings.shape != (part.embeddings, shape[1]) or table.num_rows != part.faces:
                raise IdClipError(
                    f"the part {part.name} in {parts} is damaged; delete that folder and run the command again"
                )
            stream.write(np.ascontiguousarray(embeddings, "<f4").tobytes())
            waiting.append(_shift(table, written))
            written += len(embeddings)
            if sum(each.num_rows for each in waiting) >= _ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _shift(table: "pyarrow.Table", start: int) -> "pyarrow.Table":
    """Embedding rows counted from the whole table's beginning."""
    import pyarrow.compute as pc

    place = schema().get_field_index("embedding_row")
    return table.set_column(place, schema().field(place), pc.add(table.column(place), start))


def remove_parts(folder: Location) -> None:
    """Remove the parts of a finished table."""
    remove_folder(folder / PARTS_FOLDER)


def join_tables(
    folder: Path,
    parts: Sequence[tuple[FaceTable, np.ndarray]],
    pictures: int,
    names: Mapping[str, str] | None = None,
) -> FaceTableInfo:
    """Write a table of chosen rows of tables of one face model, in their order.

    Args:
        folder: new.
        parts: a table and [faces] bool, which of its rows are taken; at least one.
        pictures: looked at, with and without faces.
        names: old -> new key of pictures that have a file of their own.
    """
    import pyarrow.parquet as pq

    folder.mkdir(mode=0o700)
    first = parts[0][0].info
    count = sum(int((table.column("embedding_row")[mask] >= 0).sum()) for table, mask in parts)
    with atomic_path(folder / EMBEDDINGS_FILE, PRIVATE) as array, atomic_path(folder / TABLE_FILE, PRIVATE) as rows:
        with array.open("wb") as stream, pq.ParquetWriter(rows, schema()) as writer:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, first.embedding_size)}
            np.lib.format.write_array_header_1_0(stream, header)
            written = faces = 0
            for table, mask in parts:
                taken, order = _renumbered(table, mask, written)
                for start in range(0, len(order), _ROWS_PER_GROUP):
                    block = table.embeddings[order[start : start + _ROWS_PER_GROUP]]
                    stream.write(np.ascontiguousarray(block, "<f4").tobytes())
                writer.write_table(_with_names(taken, names or {}), row_group_size=_ROWS_PER_GROUP)
                written += len(order)
                faces += taken.num_rows
        digest = file_sha256(rows, array)
    info = FaceTableInfo(first.model_id, first.embedding_size, faces, count, pictures, first.input, digest)
    atomic_write(folder / METADATA_FILE, info.to_json())
    return info


def _renumbered(table: FaceTable, mask: np.ndarray, start: int) -> "tuple[pyarrow.Table, np.ndarray]":
    """The chosen rows with embedding rows counted from `start` on, and the embedding rows that they had."""
    import pyarrow as pa

    before = table.column("embedding_row")[mask]
    order = before[before >= 0].astype(np.int64)
    after = np.full(len(before), -1, np.int64)
    after[before >= 0] = np.arange(start, start + len(order))
    place = schema().get_field_index("embedding_row")
    column = pa.array(after, pa.int64(), mask=before < 0)
    return table.arrow.filter(pa.array(mask)).set_column(place, schema().field(place), column), order


def _with_names(rows: "pyarrow.Table", names: Mapping[str, str]) -> "pyarrow.Table":
    import pyarrow as pa

    if not names:
        return rows
    alone = [shard is None for shard in rows.column("shard").to_pylist()]
    for name in ("key", "path"):
        place = schema().get_field_index(name)
        values = rows.column(place).to_pylist()
        renamed = [names.get(value, value) if own else value for value, own in zip(values, alone, strict=True)]
        rows = rows.set_column(place, schema().field(place), pa.array(renamed, pa.string()))
    return rows
