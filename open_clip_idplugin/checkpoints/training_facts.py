"""What whoever uses a checkpoint must know of its training: its base weights, the face model and the recipe.

Role: training writes `training_facts.json` beside its checkpoints; loading and export read it, and delta files and model
folders carry it on. Vectors of different face models mean nothing to each other, so that a query's face must come from
the model that the adaptor was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from open_clip_idplugin.checkpoints.model_view import read_view
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import ModelMismatch, same_model
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text

FILE_NAME = "training_facts.json"


@dataclass(frozen=True)
class TrainingFacts:
    """Everything is None or empty where it is not known.

    model: open_clip's name of the model. base: tag or file of the weights that training began from. face_model: id of the
    model that made the face embeddings (`FaceEngine.model_id`). recipe: training flags and their values. view: how the
    model reads pictures and texts (see `model_view`). config: open_clip's config of a user's own model.
    """

    model: str | None = None
    base: str | None = None
    face_model: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    view: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, path: str | Path) -> TrainingFacts:
        """Build from the JSON form found in `path`; unknown keys are left out. Raises IdClipError on another form."""
        known = {item.name for item in fields(cls)}
        facts = (
            cls(**{key: value for key, value in values.items() if key in known}) if isinstance(values, dict) else None
        )
        texts = facts and (facts.model, facts.base, facts.face_model)
        if facts is None or not all(isinstance(text, (str, type(None))) for text in texts or ()):
            raise IdClipError(f"{path} does not say how a model was trained; get the file again or delete it.")
        if not isinstance(facts.recipe, dict) or not isinstance(facts.config, dict):
            raise IdClipError(f"{path} holds no table of training flags or no config; get the file again or delete it.")
        return replace(facts, view=read_view(facts.view, path))


def write_facts(folder: Path, facts: TrainingFacts) -> None:
    """Write `training_facts.json` into a folder of checkpoints."""
    atomic_write(folder / FILE_NAME, json_text(facts.to_dict(), indent=1) + "\n")


def facts_beside(checkpoint: str | Path) -> TrainingFacts:
    """What stands beside a checkpoint; empty facts where nothing does. Raises IdClipError for a damaged file."""
    path = Path(checkpoint).parent / FILE_NAME
    if not path.is_file():
        return TrainingFacts()
    try:
        return TrainingFacts.from_dict(json.loads(path.read_text(encoding="utf-8")), path)
    except ValueError as error:
        raise IdClipError(f"{path} is not JSON ({error}); get the file again or delete it.") from None


def require_face_model(trained_with: str | None, other: str | None, whose: str) -> None:
    """Raise ModelMismatch where `whose` embeddings come from another face model than the adaptor was trained with."""
    if not same_model(trained_with, other):
        raise ModelMismatch(
            f"this IdCLIP was trained with embeddings of the face model '{trained_with}', and {whose} come from '{other}', "
            "whose vectors mean nothing to it; use the face model it was trained with."
        )
