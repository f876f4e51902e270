"""Face tables as `idclip faces` writes them, from given embeddings."""

from pathlib import Path

import numpy as np

from open_clip_idplugin.faces.face_table import (
    EMBEDDINGS_FILE,
    METADATA_FILE,
    TABLE_FILE,
    FaceRow,
    FaceTableInfo,
    rows_to_table,
)
from open_clip_idplugin.storage.file_hash import file_sha256


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def write_face_table(
    folder: Path, faces: dict[str, list[np.ndarray | None]], model_id: str, size: int, side: float = 8
) -> Path:
    """`faces`: picture's key -> its faces' embeddings [size], None for one that could not be aligned; side: in pixels."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rows, embeddings = [], []
    for key, found in faces.items():
        for number, embedding in enumerate(found):
            place = None if embedding is None else len(embeddings)
            left = 4 + side * number
            box = np.array([left, 5, left + side, 5 + 1.25 * side], np.float32)
            rows.append(
                FaceRow("0.tar", key, f"{key}.jpg", number, box, np.zeros((5, 2)), 0.9, 48, 40, model_id, place)
            )
            embeddings += [] if embedding is None else [embedding]
    pq.write_table(rows_to_table(rows), folder / TABLE_FILE)
    np.save(folder / EMBEDDINGS_FILE, np.stack(embeddings).astype(np.float32))
    digest = file_sha256(folder / TABLE_FILE, folder / EMBEDDINGS_FILE)
    info = FaceTableInfo(model_id, size, len(rows), len(embeddings), len(faces), "test", digest)
    (folder / METADATA_FILE).write_text(info.to_json())
    return folder
