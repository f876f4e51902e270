"""Face detection over a collection: which engine looks, and which of the faces that it finds count.

Role: settings that every process of a job shares -> an engine, loaded once a process, and the faces of a picture.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from open_clip_idplugin.faces.engine import FaceEngine
from open_clip_idplugin.faces.face import Face
from open_clip_idplugin.faces.loading import load_face_engine


@dataclass(frozen=True)
class FaceFinding:
    """How faces are looked for; see `load_face_engine` for the first four."""

    spec: str
    det_size: int | None = None
    providers: tuple[str, ...] | None = None
    threads: int = 1
    min_face: int = 0  # pixels of the shorter side
    min_score: float = 0.0  # of the detector, in [0, 1]


@lru_cache(maxsize=1)
def load_engine(finding: FaceFinding) -> FaceEngine:
    """The engine of these settings, once a process."""
    return load_face_engine(finding.spec, finding.det_size, finding.providers, finding.threads)


def find_faces(engine: FaceEngine, pixels: np.ndarray, finding: FaceFinding) -> list[Face]:
    """The faces of a picture (RGB uint8 [H, W, 3]) that count, best score first; the recogniser does not run.

    Raises:
        ImageRejected: a picture that is too small for a detector.
    """
    return [face for face in engine.find(pixels) if _counts(face, finding)]


def _counts(face: Face, finding: FaceFinding) -> bool:
    sides = face.box[2:] - face.box[:2]
    return face.score >= finding.min_score and float(sides.min()) >= finding.min_face
