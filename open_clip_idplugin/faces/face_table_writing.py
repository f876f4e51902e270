"""From the parts to the table: one Parquet file, one array of embeddings, and what describes them.

Role: the parts in their order, one at a time in memory. The metadata is written last: a folder that has it is finished.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_parts import PARTS_FOLDER, PartNotes, read_part
from open_clip_idplugin.faces.face_table import (
    EMBEDDINGS_FILE,
    METADATA_FILE,
    TABLE_FILE,
    FaceTableInfo,
    fingerprint,
    schema,
)
from open_clip_idplugin.locations import Location, remove_folder

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
            digest = fingerprint(rows, array)
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
