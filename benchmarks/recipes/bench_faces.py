"""Faces of a world that every cell ranks by: those found in the searched images, and those of identity photos.

Role: shards and photos -> `DetectedFaces` and embeddings, found once and kept in the benchmark's folder. Face embeddings are
private: the files are readable by their owner alone.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.recipes.world import DETECTOR_SIDE, FACES
from open_clip_idplugin.assets import WEIGHTS
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.face_scores import DetectedFaces
from open_clip_idplugin.evaluation.protocols import EvaluationSet
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.evaluation_data import detect_faces, samples_of

if TYPE_CHECKING:
    from benchmarks.recipes.cells import Bench
    from open_clip_idplugin.faces.engine import FaceEngine

FOLDER = "faces"
PACK = WEIGHTS / "miniature_faces"


class BenchFaces:
    """Finds faces by the world's own face model, each only once."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench

    def detected(self, split: str, evaluation_set: EvaluationSet) -> DetectedFaces:
        """The faces in the images of the set."""

        def find() -> dict[str, np.ndarray]:
            shards = self._bench.world.shards(split)
            found = detect_faces(shards, evaluation_set, self._engine, progress=False)
            return {"embeddings": found.embeddings, "images": found.image_of_face, "heights": found.heights}

        values = self._kept(f"{split}-images", [split, evaluation_set.keys], find)
        known = load_calibration(self._engine.model_id)
        return DetectedFaces(values["embeddings"], values["images"], len(evaluation_set), values["heights"], known)

    def photos(self, split: str, evaluation_set: EvaluationSet) -> list[Path] | None:
        """The identity photo that each image's query face was made from; None where the world keeps no photos."""
        paths: list[Path | None] = [None] * len(evaluation_set)
        row_of = {key: row for row, key in enumerate(evaluation_set.keys)}
        for row, sample in samples_of(self._bench.world.shards(split), row_of):
            name = sample.record.attributes.get("photo")  # drawn worlds note it
            name = f"{sample.record.identity_id}/{name}" if name else sample.record.face_photo
            paths[row] = self._bench.world.photos / name if name else None
        known = [path for path in paths if path is not None and path.is_file()]
        return known if len(known) == len(paths) else None

    def enrolled(self, split: str, evaluation_set: EvaluationSet) -> Mapping[str, np.ndarray]:
        """Identity id -> embeddings [photos, D] of that person's identity photos, in the order of their names."""

        def embed() -> dict[str, np.ndarray]:
            owners, rows = [], []
            for identity in sorted(set(evaluation_set.identity_ids)):
                for embedding in self._embed_photos(self._bench.world.photos / identity):
                    owners.append(identity)
                    rows.append(embedding)
            size = evaluation_set.faces.shape[1]
            return {"owners": np.array(owners), "embeddings": np.array(rows, np.float32).reshape(-1, size)}

        values = self._kept(f"{split}-photos", [split, sorted(set(evaluation_set.identity_ids))], embed)
        owners = values["owners"]
        return {str(identity): values["embeddings"][owners == identity] for identity in np.unique(owners)}

    def _embed_photos(self, folder: Path) -> list[np.ndarray]:
        embeddings = []
        for path in sorted(folder.glob("*.jpg")):
            try:
                face = self._engine.the_face(path)
            except IdClipError:  # no face, or several: such a photo would not be enrolled
                continue
            if face.embedding is not None:
                embeddings.append(face.embedding)
        return embeddings

    @cached_property
    def _engine(self) -> "FaceEngine":
        from open_clip_idplugin.faces import load_face_engine

        return load_face_engine(FACES, DETECTOR_SIDE, threads=self._bench.threads)

    @cached_property
    def _model(self) -> list[str]:
        """Digests of the face model's files: another detector finds other faces."""
        return [f"{path.name} {file_sha256(path)}" for path in sorted(PACK.iterdir()) if path.is_file()]

    def _kept(self, name: str, data: Any, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        world = self._bench.world.digest(name.partition("-")[0])
        key = hashlib.sha256(json_text([world, self._model, DETECTOR_SIDE, data]).encode()).hexdigest()
        path = self._bench.output / FOLDER / f"{name}-{key[:12]}.npz"
        if not path.exists():
            with atomic_path(path, PRIVATE) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **make())
        try:
            with np.load(path) as values:
                return dict(values)
        except (OSError, ValueError, KeyError) as error:
            raise IdClipError(f"{path} is damaged ({error}); delete it, and the faces are looked for again") from None
