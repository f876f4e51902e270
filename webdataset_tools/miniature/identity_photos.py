"""Photos of an identity on disk and their face embeddings: a person -> JPEG files -> [photos, D] float32.

Role: the face half of a release. Photos are no scene pictures; embeddings are made from the stored files by a face engine, as
those of the published release were, so that an enrolled photo and a release embedding mean the same.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from open_clip_idplugin.faces import FaceEngine, load_face_engine, load_picture
from open_clip_idplugin.faces.alignment import align_face
from webdataset_tools.miniature.drawing import DrawnFace
from webdataset_tools.miniature.people import Person
from webdataset_tools.miniature.photos import identity_photo
from webdataset_tools.miniature.streams import stream

# Pictures with known landmarks -> unit rows [N, D] float32.
Embedder = Callable[[list[DrawnFace]], np.ndarray]
_DETECTOR_SIDE = 192  # the photos' own size


def photo_name(index: int) -> str:
    """Return the file name of photo `index`, as VGGFace2 numbers them."""
    return f"{index + 1:04d}_01.jpg"


def draw_identity_photo(person: Person, index: int) -> DrawnFace:
    """Draw photo number `index` of `person`."""
    return identity_photo(person, stream(int(person.identity_id[1:]), "photo", index))


def stored_photo(path: Path, drawn: DrawnFace) -> DrawnFace:
    """Return `drawn` with the pixels of its file, as everybody else will see them."""
    return drawn._replace(picture=load_picture(path))


def engine_embedder(face_model: str) -> Embedder:
    """Return an embedder that runs face engine `face_model`, single-threaded (worker processes fill the cores).

    The detector aligns the faces; where it finds none, the drawn landmarks do.
    """
    engine = load_face_engine(face_model, det_size=_DETECTOR_SIDE, threads=1)
    return lambda photos: _embed(engine, photos)


def _embed(engine: FaceEngine, photos: list[DrawnFace]) -> np.ndarray:
    found = engine.detect_many([photo.picture for photo in photos])
    rows: list[np.ndarray | None] = []
    for faces in found:
        largest = max(faces, key=lambda face: float((face.box[2:] - face.box[:2]).prod()), default=None)
        rows.append(largest.embedding if largest is not None else None)
    missed = [photo for photo, row in zip(photos, rows) if row is None]
    rest = iter(engine.embed_crops([aligned_crop(photo) for photo in missed]))
    return np.stack([next(rest) if row is None else row for row in rows])


def aligned_crop(photo: DrawnFace) -> np.ndarray:
    """Return the aligned crop uint8 [112, 112, 3] that the drawn landmarks give."""
    crop = align_face(photo.picture, photo.landmarks, 112)
    assert crop is not None  # drawn landmarks lie apart
    return crop
