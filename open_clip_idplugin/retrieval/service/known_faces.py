"""Who the faces of one picture are, as far as the gallery knows them.

Role: faces of an indexed image or of a photo -> boxes, names and cosines. Embeddings are compared here and never leave.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face

Described = list[dict[str, Any]]


def faces_in_image(faces: FaceIndex | None, row: int, gallery: Gallery | None, threshold: float | None) -> Described:
    """The faces of an indexed image, best detection first: `face`, `box`, `box_relative`, and who it is where known.

    threshold: cosine from which a face has a name; None takes the false match rate of names.

    Raises:
        ModelMismatch: the gallery's people come from another face model.
    """
    if faces is None:
        return []
    found = list(faces.faces_of(row))
    described = []
    for number, face in enumerate(found):
        box, relative = faces.box(face)
        described.append({"face": number, "box": box, "box_relative": relative, "usable": True})
    if found:
        _add_names(described, np.asarray(faces.embeddings[found]), faces.calibration, gallery, threshold)
    return described


def faces_in_photo(
    faces: "list[Face]", width: int, height: int, model_id: str, gallery: Gallery | None, threshold: float | None
) -> Described:
    """The same for faces that were found in a photo of `width` x `height` pixels; `usable`: it has an embedding."""
    described: Described = []
    for number, face in enumerate(faces):
        box = [round(float(value), 1) for value in face.box]
        shares = np.clip(face.box / np.array([width, height, width, height]), 0, 1)
        relative = [round(float(share), 4) for share in shares]
        described.append({"face": number, "box": box, "box_relative": relative, "usable": face.embedding is not None})
    usable = [number for number, face in enumerate(faces) if face.embedding is not None]
    if usable:
        rows = np.stack([np.asarray(faces[number].embedding) for number in usable])
        _add_names([described[number] for number in usable], rows, load_calibration(model_id), gallery, threshold)
    return described


def _add_names(
    described: Described, embeddings: np.ndarray, scale: Calibration, gallery: Gallery | None, threshold: float | None
) -> None:
    """Put `name` and `similarity` to the faces [F, D] that are somebody enrolled: nobody twice, the best cosine first."""
    if gallery is None:
        return
    with gallery.one_state():
        (names, means), model_id = gallery.means(), gallery.model_id
    if not names:
        return
    threshold = scale.threshold(FMR_NAMES) if threshold is None else threshold
    require_same_model(scale.model_id or None, model_id, "the faces of the picture and the enrolled people")
    cosines = embeddings @ means.T
    order = np.argsort(-cosines, axis=None, kind="stable")
    for face, person in zip(*np.unravel_index(order, cosines.shape), strict=True):
        if cosines[face, person] < threshold:
            return
        if "name" not in described[face] and np.isfinite(cosines[face, person]):
            described[face] |= {"name": names[person], "similarity": round(float(cosines[face, person]), 4)}
            cosines[:, person] = np.nan  # one person is one face of a picture
