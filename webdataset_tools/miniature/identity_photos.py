"""Photos of an identity: a person -> drawn portraits -> JPEG files -> face embeddings [photos, D] float32.

Role: the face half of a release. Photos are no scene pictures; embeddings are made from the stored files by a face engine, as
those of the published release were, so that an enrolled photo and a release embedding mean the same.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from open_clip_idplugin.faces import FaceEngine, load_face_engine, load_picture
from open_clip_idplugin.faces.alignment import align_face
from webdataset_tools.miniature import hair
from webdataset_tools.miniature.body import Clothes, Figure, draw_body
from webdataset_tools.miniature.canvas import oval
from webdataset_tools.miniature.drawing import DrawnFace, FacePose, HeadFrame, apply_camera, paint_head
from webdataset_tools.miniature.palette import CLOTHES, clip_colour, mix, shade
from webdataset_tools.miniature.people import Person
from webdataset_tools.miniature.streams import stream

# Pictures with known landmarks -> unit rows [N, D] float32.
Embedder = Callable[[list[DrawnFace]], np.ndarray]
_DETECTOR_SIDE = 192  # the photos' own size
_COLOURS = tuple(CLOTHES.values())


def identity_photo(person: Person, rng: np.random.Generator, size: int = 192) -> DrawnFace:
    """Draw a portrait [size, size, 3] of `person`; the face is 35-60 % of its height."""
    pose = sample_pose(rng)
    canvas = _backdrop(size, rng)
    scale = size * float(rng.uniform(0.35, 0.58)) / 105
    centre = (size * float(rng.uniform(0.44, 0.56)), size * float(rng.uniform(0.42, 0.50)))
    frame = HeadFrame(pose, scale, centre)
    clothes = Clothes(
        str(rng.choice(["shirt", "sweater", "jacket"])), _COLOURS[int(rng.integers(len(_COLOURS)))], (60, 60, 70)
    )
    figure = Figure((centre[0] - 14 * scale * np.sin(np.radians(pose.roll)), centre[1] + 82 * scale), scale)
    hair.draw_back_hair(canvas, person.head, pose, frame)
    draw_body(canvas, person, clothes, figure)
    landmarks, box = paint_head(canvas, person, pose, frame, figure.shoulders)
    return DrawnFace(apply_camera(canvas, pose, rng), landmarks, box)


def sample_pose(rng: np.random.Generator, turn: float = 22.0) -> FacePose:
    """Return the pose of an ordinary photo; `turn` is the standard deviation of the yaw in degrees."""
    return FacePose(
        yaw=float(np.clip(rng.normal(0, turn), -55, 55)),
        pitch=float(np.clip(rng.normal(0, 7), -20, 20)),
        roll=float(np.clip(rng.normal(0, 6), -18, 18)),
        smile=float(rng.uniform(-0.4, 1.0)),
        mouth_open=float(max(0.0, rng.normal(-0.1, 0.35))),
        eyes_open=float(np.clip(rng.normal(1.0, 0.16), 0.15, 1.25)),
        brow_raise=float(rng.normal(0, 0.4)),
        gaze=float(rng.normal(0, 0.35)),
        light=float(rng.uniform(-1, 1)),
        exposure=float(np.clip(rng.normal(0.94, 0.10), 0.6, 1.15)),
        warmth=float(rng.normal(0, 0.5)),
        blur=float(max(0.0, rng.normal(0.3, 0.5))),
        noise=float(abs(rng.normal(0, 3.0))),
    )


def _backdrop(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return an out-of-focus background: a vertical gradient with a few soft blobs."""
    first, second = (clip_colour(tuple(rng.uniform(60, 225, 3))) for _ in range(2))
    small = np.empty((24, 24, 3), np.uint8)
    for row in range(24):
        small[row] = mix(first, second, row / 23)
    for _ in range(int(rng.integers(0, 5))):
        oval(
            small, tuple(rng.uniform(0, 24, 2)), tuple(rng.uniform(2, 7, 2)), shade(first, float(rng.uniform(0.6, 1.3)))
        )
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


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
