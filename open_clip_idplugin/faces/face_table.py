"""Face table: the faces of a picture collection on disk, as `idclip faces` writes and searches for faces read them.

Role: the format, and its reader. A folder holds `faces.parquet` (a row a face), `embeddings.npy` ([N, D] float32, rows of
length 1) and `metadata.json` (model id, counts, fingerprint). Both are mapped into memory, not read; both hold biometric
data. Embeddings of different face models never meet: the model id is in the metadata and in every row.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.errors import ModelMismatch
from open_clip_idplugin.faces.model_identity import require_same_model, same_model
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Place, location

if TYPE_CHECKING:
    import pyarrow

TABLE_FILE, EMBEDDINGS_FILE, METADATA_FILE = "faces.parquet", "embeddings.npy", "metadata.json"
FORMAT = "faces-v1"


class FaceTableError(IdClipError):
    """A folder holds no face table, or one whose files do not belong together."""


@dataclass(frozen=True, eq=False)
class FaceRow:
    """One face of a picture.

    Attributes:
        shard: file name of the tar that holds the picture; None for a picture of its own.
        key: the sample's key in the tar, or the picture's path below the collection's folder.
        path: name of the tar's member, or again the path.
        face: number of the face in its picture, from 0, best score first.
        box: [4] float32, x0, y0, x1, y1 in pixels.
        landmarks: [5, 2] float32, as in `Face`.
        score: the detector's, in [0, 1].
        width, height: of the picture, upright, in pixels.
        model_id: of the recogniser.
        embedding_row: row in the embeddings; None for a face that could not be aligned.
        gender: "female", "male" or None.
        age: in years, or None.
    """

    shard: str | None
    key: str
    path: str
    face: int
    box: np.ndarray
    landmarks: np.ndarray
    score: float
    width: int
    height: int
    model_id: str
    embedding_row: int | None = None
    gender: str | None = None
    age: float | None = None


@dataclass(frozen=True)
class FaceTableInfo:
    """`metadata.json`: what the table is about."""

    model_id: str
    embedding_size: int
    faces: int  # rows of the table
    embeddings: int  # rows of the embeddings
    pictures: int  # looked at, with and without faces
    input: str  # name of the collection
    fingerprint: str  # SHA-256 over both files

    def to_json(self) -> str:
        """The file's content."""
        return json_text({"format": FORMAT, **vars(self)}, indent=1, ensure_ascii=False) + "\n"


def schema() -> "pyarrow.Schema":
    """Columns of `faces.parquet`."""
    import pyarrow as pa

    wanted, text = {"nullable": False}, pa.string()
    return pa.schema(
        [
            pa.field("shard", text),
            pa.field("key", text, **wanted),
            pa.field("path", text, **wanted),
            pa.field("face", pa.int32(), **wanted),
            pa.field("box", pa.list_(pa.field("element", pa.float32(), **wanted), 4), **wanted),
            pa.field("landmarks", pa.list_(pa.field("element", pa.float32(), **wanted), 10), **wanted),
            pa.field("score", pa.float32(), **wanted),
            pa.field("width", pa.int32(), **wanted),
            pa.field("height", pa.int32(), **wanted),
            pa.field("model_id", text, **wanted),
            pa.field("embedding_row", pa.int64()),
            pa.field("gender", text),
            pa.field("age", pa.float32()),
        ]
    )


def rows_to_table(rows: Sequence[FaceRow]) -> "pyarrow.Table":
    """Rows in the table's form."""
    import pyarrow as pa

    columns: dict[str, Any] = {field.name: [getattr(row, field.name) for row in rows] for field in schema()}
    for name, length in (("box", 4), ("landmarks", 10)):
        flat = np.concatenate([np.ravel(value) for value in columns[name]] or [np.zeros(0)]).astype(np.float32)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), length).cast(schema().field(name).type)
    return pa.table(columns, schema=schema())


class FaceTable:
    """A table that was opened with `load_face_table`."""

    def __init__(self, folder: Path, info: FaceTableInfo, table: "pyarrow.Table", embeddings: np.ndarray):
        self.folder = folder
        self.info = info
        self._table = table
        self.embeddings = embeddings
        """[N, D] float32, rows of length 1, mapped read-only."""

    @property
    def model_id(self) -> str:
        """The recogniser of all embeddings."""
        return self.info.model_id

    def __len__(self) -> int:
        """Faces, also those without an embedding."""
        return self._table.num_rows

    def column(self, name: str) -> np.ndarray:
        """A whole column; "box" as [N, 4], "landmarks" as [N, 5, 2], texts as objects, -1 for no embedding row.

        Raises FaceTableError for a name that the format does not know.
        """
        if name not in self._table.column_names:
            raise FaceTableError(f"Face tables have no column {name!r}; choose one of {', '.join(schema().names)}.")
        column = self._table.column(name)
        if name in ("box", "landmarks"):
            chunks = [np.asarray(chunk.flatten()) for chunk in column.chunks] or [np.zeros(0, np.float32)]
            return np.concatenate(chunks).reshape((-1, 4) if name == "box" else (-1, 5, 2))
        if name == "embedding_row":
            column = column.fill_null(-1)
        return column.to_numpy()

    @property
    def arrow(self) -> "pyarrow.Table":
        """All rows, with the columns of `schema`."""
        return self._table

    @cached_property
    def face_of_embedding(self) -> np.ndarray:
        """[N] int64: for each row of the embeddings its row of the table."""
        rows = self.column("embedding_row")
        return np.flatnonzero(rows >= 0)[np.argsort(rows[rows >= 0], kind="stable")]

    def row(self, number: int) -> FaceRow:
        """One face; raises IndexError when there is none of that number."""
        if not 0 <= number < len(self):
            raise IndexError(f"the table has {len(self)} faces, not one of number {number}")
        return _to_row(self._table.slice(number, 1).to_pylist()[0])

    def rows(self) -> Iterator[FaceRow]:
        """All faces in order, a few at a time in memory."""
        for batch in self._table.to_batches(max_chunksize=4096):
            yield from (_to_row(values) for values in batch.to_pylist())

    def require_model(self, model_id: str | None, what: str = "the query") -> None:
        """Refuse embeddings of another face model than the table's.

        Raises:
            ModelMismatch: with both ids; `what` names the other place.
        """
        require_same_model(self.model_id, model_id, f"the face table '{self.folder}' and {what}")

    def verify(self) -> None:
        """Read both files and compare them with the fingerprint; raises FaceTableError when they have changed."""
        if file_sha256(self.folder / TABLE_FILE, self.folder / EMBEDDINGS_FILE) != self.info.fingerprint:
            raise FaceTableError(f"The face table '{self.folder}' has changed since it was written; make it again.")


def load_face_table(folder: Place, model_id: str | None = None) -> FaceTable:
    """Open the face table in a local folder without reading the embeddings.

    Args:
        folder: what was given to `idclip faces` as --output.
        model_id: the face model of what will be compared with it, where known.

    Raises:
        FaceTableError: no table there, of another version, or files that do not belong together.
        ModelMismatch: made with another face model than `model_id`, or rows of several.
    """
    import pyarrow.parquet as pq

    place = location(folder)
    if not isinstance(place, Path):
        raise FaceTableError(
            f"A face table is mapped into memory, which {folder} cannot be; copy it to a local folder."
        )
    info = _read_info(place)
    require_same_model(info.model_id, model_id, f"the face table '{place}' and the query")
    try:
        embeddings = np.load(place / EMBEDDINGS_FILE, mmap_mode="r" if info.embeddings else None, allow_pickle=False)
        file = pq.ParquetFile(place / TABLE_FILE, memory_map=True)
        models = _models_in(file)
        table = file.read()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise FaceTableError(f"The face table '{place}' cannot be read ({error}); make it again.") from error
    if (
        embeddings.shape != (info.embeddings, info.embedding_size)
        or embeddings.dtype != np.float32
        or table.num_rows != info.faces
        or not table.schema.equals(schema())
    ):
        raise FaceTableError(f"The files of the face table '{place}' do not belong together; make it again.")
    if not all(same_model(model, info.model_id) for model in models):
        raise ModelMismatch(
            f"The face table '{place}' says '{info.model_id}' but holds faces of {', '.join(sorted(models))}, whose "
            "embeddings cannot be compared; make it again with one face model."
        )
    return FaceTable(place, info, table, embeddings)


def load_face_tables(folders: Iterable[Place], model_id: str | None = None) -> list[FaceTable]:
    """Open several tables that will be searched together; raises ModelMismatch when their face models differ."""
    tables = [load_face_table(folder, model_id) for folder in folders]
    for table in tables[1:]:
        require_same_model(
            tables[0].model_id, table.model_id, f"the face tables '{tables[0].folder}' and '{table.folder}'"
        )
    return tables


def _read_info(folder: Path) -> FaceTableInfo:
    try:
        values = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        version = values.pop("format")
        if version == FORMAT:
            return FaceTableInfo(**values)
    except OSError:
        raise FaceTableError(
            f"There is no face table in '{folder}'; make one with `idclip faces --input PICTURES --output {folder}`."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FaceTableError(f"'{folder / METADATA_FILE}' is not readable ({error}); make the table again.") from error
    raise FaceTableError(f"The face table '{folder}' is of the format {version!r}, this version reads {FORMAT!r}.")


def _models_in(file: Any) -> set[str]:
    """Model ids in the rows: read from the file's statistics, which name the first and the last in order."""
    place = schema().get_field_index("model_id")
    found: set[str] = set()
    for group in range(file.metadata.num_row_groups):
        leaf = next(
            column
            for column in (file.metadata.row_group(group).column(i) for i in range(file.metadata.num_columns))
            if column.path_in_schema == schema().names[place]
        )
        if leaf.statistics is not None and leaf.statistics.has_min_max:
            found |= {leaf.statistics.min, leaf.statistics.max}
    return found


def _to_row(values: dict[str, Any]) -> FaceRow:
    box = np.asarray(values.pop("box"), np.float32)
    landmarks = np.asarray(values.pop("landmarks"), np.float32).reshape(5, 2)
    return FaceRow(box=box, landmarks=landmarks, **values)
