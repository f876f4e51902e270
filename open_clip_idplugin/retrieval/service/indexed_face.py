"""A face of an indexed image, as a gallery keeps faces.

Role: index + row + number of the face -> `PhotoFace`. Its picture is cut from the image's thumbnail; the index has neither
landmarks nor the detector's score, so that its size alone is its quality.
"""

import numpy as np

from open_clip_idplugin.gallery.enrolment import encode_crop
from open_clip_idplugin.gallery.photo_face import PhotoFace
from open_clip_idplugin.gallery.quality import LEAST_QUALITY
from open_clip_idplugin.pictures import ImageRejected, load_image
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest
from open_clip_idplugin.retrieval.service.resources import IdentityResource

_SIDE = 112  # pixels of the kept picture
_MARGIN = 0.15  # of the box's longer side, on each side


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
