"""Faces of one picture: of an indexed image or a photo -> boxes, names and cosines, or one `PhotoFace` for the gallery.

Embeddings are compared here and never leave. The picture of a face to be enrolled is cut from the image's thumbnail; an index has
neither landmarks nor the detector's score, so that the face's size alone is its quality.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.enrolment import encode_crop
from open_clip_idplugin.gallery.quality import LEAST_QUALITY
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.pictures import ImageRejected, load_image
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest
from open_clip_idplugin.retrieval.service.resources import IdentityResource

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face

_SIDE = 112  # pixels of the kept picture
_MARGIN = 0.15  # of the box's longer side, on each side

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


def require_row(resource: IdentityResource, row: int) -> None:
    """Refuse a row that the index does not have, or has no more."""
    if row >= resource.rows:
        raise BadRequest(f"'image_id' must lie between 0 and {resource.rows - 1}")
    if np.isin(row, resource.removed.ids):
        raise BadRequest("'image_id' names an image that was removed from the index")


def indexed_face(resource: IdentityResource, row: int, number: int) -> tuple[PhotoFace, str]:
    """The face and its face model.

    Raises:
        BadRequest: the index holds no faces, or the image has none of that number.
    """
    faces = resource.faces
    if faces is None:
        raise BadRequest("this index holds no faces: add them with `idclip index_faces`, or give a photo")
    found = faces.faces_of(row)
    if number >= len(found):
        raise BadRequest(f"image {row} has {len(found)} faces in this index, not one of number {number}")
    face = found[number]
    box, relative = faces.box(face)
    size = min(box[2] - box[0], box[3] - box[1]) / _SIDE
    (thumbnail,) = resource.thumbnails.get([row])
    crop = None if thumbnail is None else cut_face(thumbnail, relative)
    embedding = np.array(faces.embeddings[face], np.float32)
    label = f"image {row}, face {number}"
    return PhotoFace(label, embedding, float(np.clip(size, LEAST_QUALITY, 1)), crop), faces.model_id


def cut_face(jpeg: bytes, box: list[float]) -> bytes | None:
    """JPEG of a square around a box (shares of the sides) of a picture; None where the picture cannot be read."""
    from PIL import Image

    try:
        picture = load_image(jpeg)
    except ImageRejected:
        return None
    width, height = picture.size
    x0, y0, x1, y1 = (share * side for share, side in zip(box, (width, height) * 2, strict=True))
    half = max(x1 - x0, y1 - y0) * (0.5 + _MARGIN)
    half = min(half, width / 2, height / 2)
    x, y = np.clip((x0 + x1) / 2, half, width - half), np.clip((y0 + y1) / 2, half, height - half)
    if half < 1:
        return None
    cut = picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=(x - half, y - half, x + half, y + half))
    return encode_crop(np.asarray(cut))
