"""The real face engines that tests try on real photographs, and the table of cosines between their people."""

import importlib.util
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from real_photos import REAL

from open_clip_idplugin.faces import FaceEngine

needs_dlib = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None,
    reason="the extra dlib is not installed",
)
MOBILE_FACE_NET = {
    "name": "MobileFaceNet",
    "licence": "Apache 2.0, trained on MS-Celeb-1M: for trying only",
    "input_size": 112,
    "channels": "RGB",
    "pixel_range": 1,
    "mean": [0.485, 0.456, 0.406],
    "deviation": [0.229, 0.224, 0.225],
    "alignment": "arcface",
}
IDENTIFICATION = {"Family1-Mom", "Family1-Dad", "Family1-Daughter", "Family1-Son"}  # who is in identification1.jpg


def write_mobile_face_net(folder: Path) -> str:
    """Copy the real net into `folder` with a description beside it; returns the engine's spec, behind the real YuNet."""
    shutil.copy(REAL / "models" / "MobileFaceNet.onnx", folder)
    (folder / "MobileFaceNet.onnx.json").write_text(json.dumps(MOBILE_FACE_NET))
    return f"opencv:{REAL / 'models'}+onnx:{folder / 'MobileFaceNet.onnx'}"


def embed_people(engine: FaceEngine) -> dict[str, np.ndarray]:
    """Name -> embeddings [K, D] of all photographs of `identities/`, each of which must show one face."""
    people = {}
    for folder in sorted((REAL / "identities").iterdir()):
        faces = [engine.the_face(photo, "only") for photo in sorted(folder.glob("*.jpg"))]
        people[folder.name] = np.stack([face.embedding for face in faces])
    return people


def cosines(people: dict[str, np.ndarray]) -> tuple[dict[str, list[float]], list[float]]:
    """Cosines of two photographs of one person, by name, and of different people."""
    same = {
        name: [float(rows[a] @ rows[b]) for a, b in itertools.combinations(range(len(rows)), 2)]
        for name, rows in people.items()
    }
    different = [float(c) for one, other in itertools.combinations(people.values(), 2) for c in (one @ other.T).ravel()]
    return same, different


def who_is_in(engine: FaceEngine, people: dict[str, np.ndarray], scene: str) -> list[tuple[str, float]]:
    """The nearest person of every face of a scene, and the cosine with the mean of that person's photographs."""
    means = np.stack([rows.mean(0) / np.linalg.norm(rows.mean(0)) for rows in people.values()])
    found = []
    for face in engine.detect(REAL / "scenes" / f"{scene}.jpg"):
        scores = means @ face.embedding
        found.append((list(people)[int(scores.argmax())], float(scores.max())))
    return found
