"""Provenance of an evaluation: its inputs -> everything that determines its numbers, for the head of results.json.

Role: what was asked, loaded and used -> a table of plain JSON values.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from open_clip_idplugin import prompts
from open_clip_idplugin.checkpoints.loading import LoadedModel, base_and_delta, checkpoint_path, described_model
from open_clip_idplugin.checkpoints.model_folders import PREFIX, WEIGHTS
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts, facts_beside
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.evaluation.protocols import Settings
from open_clip_idplugin.faces.calibration import Calibration
from open_clip_idplugin.pictures import DECODER_VERSION
from open_clip_idplugin.queries.fusion import Fusion
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text

PACKAGES = (
    "open-clip-idplugin", "open_clip_torch", "torch", "torchvision", "timm", "numpy", "pillow", "webdataset", "insightface",
    "onnxruntime", "opencv-python-headless", "opencv-python", "transformers", "tokenizers",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Version of Python and of every package that is here and on which a number may depend."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def model_facts(loaded: LoadedModel) -> dict[str, Any]:
    """Weights and settings of a model: files by their SHA-256, config, preprocessing, the face model it was trained with."""
    config = getattr(loaded.model, "identity_cfg", None)
    return {
        "model": loaded.name,
        "checkpoint": loaded.checkpoint,
        "weights": _weights(loaded),
        "model_config": _digest(_config(loaded)),
        "identity_cfg": config.to_dict() if isinstance(config, IdentityConfig) else None,
        "preprocessing": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in sorted(getattr(loaded.model.visual, "preprocess_cfg", {}).items())
        },
        "precision": loaded.precision,
        "trained_with_face_model": loaded.face_model,
        "training": _training(loaded).recipe,
    }


def asked_facts(settings: Settings) -> dict[str, Any]:
    """What was asked and how it was worded; "person_as" says how each configuration writes the person."""
    indices = settings.template_indices()
    numbers = range(len(prompts.GENERAL_TEMPLATES)) if indices is None else indices
    return {
        **asdict(settings),
        "wordings": {str(number): prompts.GENERAL_TEMPLATES[number] for number in numbers},
        "entity_wordings": list(prompts.ENTITY_TEMPLATES),
        "person_as": {name: _person_as(name) for name in settings.configurations},
    }


def rival_facts(
    engine: Any, det_size: int | None, data: Any, weight: float | None, rules: Mapping[str, Fusion], calibration: Calibration
) -> dict[str, Any]:  # fmt: skip
    """The face model that looked for faces, and the rules by which it ranked (`fusion`), tuned on `data` where there are some."""
    return {
        "rival_face_model": engine.model_id,
        "det_size": det_size if det_size is not None else getattr(engine, "det_size", None),
        "rival_data": None if data is None else str(data),
        "rival_weight": weight,
        "fusion": {name: asdict(rule) for name, rule in rules.items()},
        "calibration": asdict(calibration),
    }


def file_facts(path: str | None) -> dict[str, str] | None:
    """A file's name and SHA-256."""
    return (
        None
        if path is None
        else {"file": path, "sha256": file_sha256(Path(path))}
        if Path(path).is_file()
        else {"file": path}
    )


def general_facts() -> dict[str, Any]:
    """What holds for every evaluation of this installation."""
    return {"decoder": DECODER_VERSION, "versions": versions()}


def _person_as(configuration: str) -> str:
    if configuration == "captions":
        return "nothing"
    named, shown = prompts.needs_name(configuration), prompts.needs_face(configuration)
    return "token and name" if named and shown else "token" if shown else "name"


def _weights(loaded: LoadedModel) -> dict[str, str]:
    """Name of each file of weights -> its SHA-256; a delta file stands beside its base."""
    if loaded.name.startswith(PREFIX):
        return {WEIGHTS: file_sha256(Path(loaded.name.removeprefix(PREFIX)) / WEIGHTS)}
    if loaded.checkpoint is None:
        return {}
    base, delta = base_and_delta(loaded.name, loaded.checkpoint)
    files = [checkpoint_path(loaded.name, base)]
    if delta is not None:
        given = Path(loaded.checkpoint)
        files.append(given if given.is_file() else Path(loaded.checkpoint.rpartition("+")[2]))
    return {file.name: file_sha256(file) for file in files}


def _config(loaded: LoadedModel) -> Any:
    if loaded.name.startswith(PREFIX):
        return None  # the folder's weights are named, and its digest was compared
    return described_model(loaded.name, loaded.checkpoint)


def _training(loaded: LoadedModel) -> TrainingFacts:
    path = loaded.checkpoint
    return facts_beside(path) if path and Path(path).is_file() else TrainingFacts()


def _digest(config: Any) -> str | None:
    return None if config is None else hashlib.sha256(json_text(config, sort_keys=True).encode()).hexdigest()
