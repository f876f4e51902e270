"""Enrolment: photos -> what a gallery keeps of them, an embedding, a quality and a small picture of the face.

Role: one photo -> `PhotoFace`; several of one person -> an enrolment.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery.quality import photo_quality
from open_clip_idplugin.gallery.rows import Person, PhotoFace
from open_clip_idplugin.gallery.store import Gallery
from open_clip_idplugin.pictures.keys import key_of

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face, FaceEngine, FacePolicy

_JPEG_QUALITY = 90


def read_photo(photo: str | Path, engine: "FaceEngine", policy: "FacePolicy" = "only", crops: bool = True) -> PhotoFace:
    """Find the person's face in a picture file.

    Raises:
        IdClipError: no such file, no picture, or no usable face.
    """
    from open_clip_idplugin.faces import load_picture

    path = Path(photo)
    if not path.is_file():
        raise IdClipError("there is no such file")
    return to_photo_face(key_of(path.name), engine.the_face(load_picture(path), policy=policy), engine.model_id, crops)


def to_photo_face(label: str, face: "Face", model_id: str, crops: bool = True) -> PhotoFace:
    """What is kept of a found face; refuses one without an embedding."""
    if face.embedding is None:
        raise IdClipError(f"the face model '{model_id}' gives no embeddings: choose one with a recogniser")
    return PhotoFace(label, face.embedding, photo_quality(face), encode_crop(face.crop) if crops else None)


def encode_crop(crop: np.ndarray) -> bytes:
    """RGB uint8 [S, S, 3] -> JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(crop).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


def enroll_faces(
    gallery: Gallery,
    name: str,
    faces: Sequence[PhotoFace],
    model_id: str,
    details: Mapping[str, str | None] | None = None,
) -> Person:
    """Add the faces of one or more photos to a person; `details` as in `Gallery.enroll`."""
    return gallery.enroll(
        name,
        np.stack([face.embedding for face in faces]),
        model_id,
        photos=[face.label for face in faces],
        qualities=[face.quality for face in faces],
        crops=[face.crop for face in faces],
        details=details,
    )
