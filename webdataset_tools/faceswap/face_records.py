"""Face records: `Face` of the engine <-> plain values that can lie on disk between two runs.

Role: `Face` of the engine <-> `FoundFace` <-> JSON. Embeddings are biometric: files that hold these records are PRIVATE.
"""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from webdataset_tools.faceswap.face_quality import FaceQuality


@dataclass(frozen=True, eq=False)
class FoundFace:
    """The one face of a picture.

    box [4], landmarks [5, 2] float32 pixels of the upright picture; embedding [D] float32 of length 1, made from an
    aligned crop of `crop_size` pixels a side; quality as measured in its picture.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    embedding: np.ndarray
    quality: FaceQuality
    gender: str | None = None
    age: float | None = None
    crop_size: int = 112

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` gives equal arrays."""
        return {
            "box": [float(value) for value in self.box],
            "landmarks": [float(value) for value in self.landmarks.reshape(-1)],
            "score": self.score,
            "embedding": base64.b64encode(self.embedding.astype("<f4").tobytes()).decode(),
            "gender": self.gender,
            "age": self.age,
            "crop_size": self.crop_size,
            "quality": self.quality.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FoundFace":
        """Read what `to_json` gave."""
        return cls(
            np.array(values["box"], np.float32),
            np.array(values["landmarks"], np.float32).reshape(5, 2),
            values["score"],
            np.frombuffer(base64.b64decode(values["embedding"]), "<f4").astype(np.float32),
            FaceQuality.from_json(values["quality"]),
            values["gender"],
            values["age"],
            values["crop_size"],
        )
