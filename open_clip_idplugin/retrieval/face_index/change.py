"""The faces of an index whose images change: faces of more images are added, those of removed images leave.

Role: folder `faces/` of an index folder under construction -> the same with other rows. The old files may be links to those
that are being served, so that they are replaced and never written into.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np

from open_clip_idplugin.faces.calibration_files import keep_calibration
from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.retrieval.face_index.build import candidates_index, join_faces, table_arrays
from open_clip_idplugin.retrieval.face_index.reading import (
    ARRAYS,
    FAISS_FILE,
    FOLDER,
    INFO_FILE,
    MOST_EXACT,
    FaceIndexInfo,
    keys_digest,
    read_info,
)
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
from open_clip_idplugin.storage.atomic import PRIVATE

Arrays = dict[str, np.ndarray]


def require_fitting_faces(index: Path, model_id: str, what: str) -> None:
    """Refuse faces of another model than the index's, where it has some: raises ModelMismatch, which names `what`."""
    if (index / FOLDER).is_dir():
        require_same_model(read_info(index / FOLDER).model_id, model_id, f"the faces of the index '{index}' and {what}")


def extend_faces(folder: Path, face_table: str | Path) -> FaceIndexInfo:
    """Add the faces of images that the folder `faces/` does not cover yet.

    Raises:
        ModelMismatch: the table was made with another face model.
        IdClipError: the table knows none of these images.
    """
    table = load_face_table(face_table)
    require_fitting_faces(folder, table.model_id, f"those of the table '{table.folder}'")
    info, before = _read(folder / FOLDER)
    keys = read_keys(folder)
    rows, faces = join_faces(keys[info.images :], table, folder)
    new = table_arrays(table, rows + info.images, faces)
    together = {name: np.concatenate([before[name], new[name]]) for name in ARRAYS}
    info = replace(info, table=f"{info.table}+{table.info.fingerprint}")
    return _replace(folder / FOLDER, folder / FOLDER, together, info, keys)


def compact_faces(folder: Path, target: Path, left: np.ndarray) -> int:
    """Write `folder`/faces/ to `target`/faces/, whose images are the `left` [rows] bool; returns how many faces left.

    `target` must hold the metadata of the images that stay.
    """
    info, before = _read(folder / FOLDER)
    stays = left[before["rows"]]
    arrays = {name: values[stays] for name, values in before.items()}
    arrays["rows"] = (np.cumsum(left) - 1)[arrays["rows"]].astype(np.int64)
    keys = read_keys(target)[: int(left[: info.images].sum())]
    _replace(folder / FOLDER, target / FOLDER, arrays, info, keys)
    return int((~stays).sum())


def _read(folder: Path) -> tuple[FaceIndexInfo, Arrays]:
    info = read_info(folder)
    return info, {name: np.load(folder / f"{name}.npy", mmap_mode="r" if info.faces else None) for name in ARRAYS}


def _replace(before: Path, folder: Path, arrays: Arrays, info: FaceIndexInfo, keys: list[str]) -> FaceIndexInfo:
    """Write a folder in the place of `folder`, with the calibration of `before`; `keys`: of the images that it covers."""
    building = folder.with_name(f".{folder.name}.building")
    building.mkdir(mode=0o700)
    rows = arrays["rows"]
    info = replace(
        info, faces=len(rows), images=len(keys), images_with_faces=len(np.unique(rows)), keys=keys_digest(keys)
    )
    for name, values in arrays.items():
        np.save(building / f"{name}.npy", values)
    if len(rows) > MOST_EXACT:
        faiss.write_index(candidates_index(arrays["embeddings"]), str(building / FAISS_FILE))
    (building / INFO_FILE).write_text(info.to_json())
    keep_calibration(before, building)
    for path in building.iterdir():
        path.chmod(PRIVATE)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return info
