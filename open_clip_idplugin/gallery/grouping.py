"""Unknown faces of a collection: a face table and a gallery -> the rows that are nobody enrolled, to be grouped."""

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.face_table import FaceTable
from open_clip_idplugin.faces.grouping import group_faces as group_faces
from open_clip_idplugin.gallery import Gallery

_BLOCK = 1 << 16  # faces compared with the enrolled people at a time


def find_unknown(table: FaceTable, gallery: Gallery, threshold: float) -> npt.NDArray[np.int64]:
    """Rows of the table's embeddings whose cosine with every enrolled person's mean is below the threshold.

    Raises:
        ModelMismatch: the gallery's face model is another one.
    """
    with gallery.one_state():
        model_id, (names, means) = gallery.model_id, gallery.means()
    if model_id is not None:
        table.require_model(model_id, f"the gallery '{gallery.path}'")
    count = len(table.embeddings)
    if not names:
        return np.arange(count)
    known = [
        (table.embeddings[start : start + _BLOCK] @ means.T).max(axis=1) >= threshold
        for start in range(0, count, _BLOCK)
    ]
    return np.flatnonzero(~np.concatenate([*known, np.zeros(0, bool)]))
