"""Face record: one face as every detector and encoder reports it, and which of several faces is the person."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.errors import FaceNotAligned, NoFace, SeveralFaces

FacePolicy = Literal["largest", "center", "only"]


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        box: [4] float32, x0, y0, x1, y1 in pixels of the picture.
        landmarks: [5, 2] float32, x, y in pixels: left eye, right eye, nose, left and right mouth corner as seen in
            the picture (x grows to the right).
        score: detection confidence in [0, 1].
        crop: [S, S, 3] uint8 RGB, aligned for the recogniser (S = 112 for nearly all); black where the picture ends.
        embedding: [D] float32 of length 1, or None when the landmarks cannot be aligned (or it was not asked for).
        gender: "female", "male" or None where the pack has no such model.
        age: in years, or None.
        aligned: False when the landmarks cannot be aligned; the crop is black then.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    crop: np.ndarray
    embedding: np.ndarray | None
    gender: str | None = None
    age: float | None = None
    aligned: bool = True

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return float(max(self.box[2] - self.box[0], 0) * max(self.box[3] - self.box[1], 0))


def choose_face(faces: list[Face], width: int, height: int, policy: FacePolicy = "largest") -> Face:
    """The face that is the person a picture of `width` x `height` pixels shows.

    "largest" takes the largest box, "center" the box whose middle is nearest to the picture's, "only" refuses more
    than one face. Faces without an embedding do not count.

    Raises:
        NoFace: no face; `FaceNotAligned` of it: none with an embedding.
        SeveralFaces: several under "only".
    """
    return _choose([face for face in faces if face.embedding is not None], len(faces), width, height, policy)


def choose_aligned_face(faces: list[Face], width: int, height: int, policy: FacePolicy = "largest") -> Face:
    """As `choose_face`, of faces that need no embedding."""
    return _choose([face for face in faces if face.aligned], len(faces), width, height, policy)


def _choose(usable: list[Face], found: int, width: int, height: int, policy: FacePolicy) -> Face:
    if policy not in get_args(FacePolicy):
        raise IdClipError(f"Unknown face policy {policy!r}; choose one of {', '.join(get_args(FacePolicy))}.")
    if not usable:
        kind, words = (FaceNotAligned, "only faces that cannot be aligned were") if found else (NoFace, "no face was")
        raise kind(f"In the picture ({width}x{height}) {words} found; give a clearer, larger picture of the face.")
    if policy == "only" and len(usable) > 1:
        raise SeveralFaces(
            f"The picture shows {len(usable)} faces where one is wanted; cut it to the person, "
            'or choose the policy "largest" or "center".'
        )
    if policy == "center":
        middle = np.array([width / 2, height / 2])
        return min(usable, key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)))
    return max(usable, key=lambda face: face.area)
