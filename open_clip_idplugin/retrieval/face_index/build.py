"""The verb `idclip index_faces`: a face table joins an image index, so that searches can compare faces.

Role: index folder + face table of the same pictures -> the index's folder `faces/`, whole or not at all.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.calibrating import calibrate_beside
from open_clip_idplugin.faces.calibration_files import keep_calibration
from open_clip_idplugin.faces.face_table import FaceTable, load_face_table
from open_clip_idplugin.faces.model_identity import same_model
from open_clip_idplugin.retrieval.face_index.reading import (
    FAISS_FILE,
    FOLDER,
    INFO_FILE,
    MOST_EXACT,
    FaceIndexInfo,
    keys_digest,
    read_info,
)
from open_clip_idplugin.retrieval.index_folder.generations import changing, replacing_part
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
from open_clip_idplugin.storage.atomic import PRIVATE

_BLOCK = 65_536  # faces that are copied at a time
_SAMPLE_A_LIST = 64  # faces that a list of faces.index is trained with


def index_faces(index: str, face_table: str) -> None:
    """Add the faces of the same pictures to an image index, for searches that compare faces.

    Args:
        index: folder made by `idclip index` or by clip-retrieval.
        face_table: folder made by `idclip faces` from the same pictures.
    """
    info = add_faces(Path(index), face_table)
    print(f"{index}: {info.faces} faces in {info.images_with_faces} of {info.images} images, by {info.model_id}")
    print(f"Next: {command('serve', index=index, model='MODEL', checkpoint='FILE')}")


def add_faces(index: Path, face_table: str | Path) -> FaceIndexInfo:
    """Join a face table to an image index by the pictures' keys; faces of other pictures are left out.

    Raises:
        IndexMismatch: no index there.
        FaceTableError: no face table there.
        IdClipError: the two have no picture in common, keys that tell nothing apart, or another process changes the index.
    """
    with changing(index):  # read keys and written faces belong to the same rows
        return add_faces_to_held(index, face_table)


def add_faces_to_held(index: Path, face_table: str | Path) -> FaceIndexInfo:
    """`add_faces` for a folder that the caller holds already."""
    keys = read_keys(index)
    table = load_face_table(face_table)
    digest, target = keys_digest(keys), index / FOLDER
    known = read_info(target) if (target / INFO_FILE).exists() else None
    if known is not None and (known.keys, known.table) == (digest, table.info.fingerprint):
        print(f"{target} holds the faces of this table already; nothing to do")
        return known
    rows, faces = join_faces(keys, table, index)
    info = FaceIndexInfo(
        table.model_id,
        table.info.embedding_size,
        len(rows),
        len(keys),
        len(np.unique(rows)),
        digest,
        table.info.fingerprint,
    )
    with replacing_part(target) as building:
        building.mkdir(mode=0o700)
        _write(building, table, rows, faces, info)
        if known is not None and same_model(known.model_id, info.model_id):
            keep_calibration(target, building)
        said = calibrate_beside(table, building)
    if said is not None:
        print(said)
    return info


def join_faces(keys: list[str], table: FaceTable, index: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image row and table row of every face that has an embedding and whose picture is indexed, by image row.

    `keys`: of the index's rows. Raises IdClipError where the two have nothing in common, or keys that come twice.
    """
    import pandas as pd

    faces = np.flatnonzero(table.column("embedding_row") >= 0)
    pictures = pd.DataFrame({"key": table.column("key"), "shard": table.column("shard")})
    places = pictures.drop_duplicates()["key"]
    known = pd.Series(keys)
    twice = set(known[known.duplicated()]) | set(places[places.duplicated()])
    if shared := twice & set(keys) & set(places):
        raise IdClipError(
            f"several pictures have the key '{min(shared)}', so that nobody can tell whose face it is: give the pictures "
            "distinct keys, and make index and face table again"
        )
    unique = known[~known.duplicated()]
    found = pd.Index(unique).get_indexer(pictures["key"].to_numpy()[faces])
    if len(faces) and not (found >= 0).any():
        raise IdClipError(
            f"the face table '{table.folder}' knows none of the pictures in '{index}' (for example '{pictures['key'][0]}' "
            f"and '{keys[0]}'): make it with `idclip faces` from the pictures that were indexed"
        )
    faces, rows = faces[found >= 0], unique.index.to_numpy()[found[found >= 0]]
    order = np.lexsort((table.column("face")[faces], rows))
    return rows[order].astype(np.int64), faces[order]


def _write(folder: Path, table: FaceTable, rows: np.ndarray, faces: np.ndarray, info: FaceIndexInfo) -> None:
    for name, array in _small_arrays(table, rows, faces).items():
        np.save(folder / f"{name}.npy", array)
    shape = (len(faces), info.embedding_size)
    if len(faces):
        embeddings = np.lib.format.open_memmap(folder / "embeddings.npy", mode="w+", dtype=np.float32, shape=shape)
        order = table.column("embedding_row")[faces].astype(np.int64)
        for start in range(0, len(faces), _BLOCK):
            embeddings[start : start + _BLOCK] = table.embeddings[order[start : start + _BLOCK]]
        embeddings.flush()
        if len(faces) > MOST_EXACT:
            faiss.write_index(candidates_index(embeddings), str(folder / FAISS_FILE))
    else:
        np.save(folder / "embeddings.npy", np.zeros(shape, np.float32))
    (folder / INFO_FILE).write_text(info.to_json())
    for path in folder.iterdir():
        path.chmod(PRIVATE)


def table_arrays(table: FaceTable, rows: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a face index for rows `faces` of a table, which belong to the images `rows`; all in memory."""
    order = table.column("embedding_row")[faces].astype(np.int64)
    embeddings = np.asarray(table.embeddings[order], np.float32)
    return {"embeddings": embeddings, **_small_arrays(table, rows, faces)}


def _small_arrays(table: FaceTable, rows: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    sizes = np.stack([table.column("width"), table.column("height")], axis=1).astype(np.int32).reshape(-1, 2)
    return {"boxes": table.column("box")[faces], "sizes": sizes[faces], "rows": rows}


def candidates_index(embeddings: np.ndarray) -> faiss.Index:
    """An inverted-file index of half-precision vectors over unit rows [M, D], which faiss can map into memory."""
    count, size = embeddings.shape
    lists = 1 << int(np.log2(4 * np.sqrt(count)))
    index: Any = faiss.index_factory(size, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    step = max(count // (lists * _SAMPLE_A_LIST), 1)
    index.train(np.ascontiguousarray(embeddings[::step]))
    for start in range(0, count, _BLOCK):
        index.add(np.ascontiguousarray(embeddings[start : start + _BLOCK]))
    return index
