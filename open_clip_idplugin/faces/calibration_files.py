"""Calibration files: a face model's id -> its calibration, and back onto the disk.

Role: where calibrations are looked for, the first one counts: beside the faces of a collection, in the user's data folder,
among those shipped with the package. A model without any is given ArcFace's scale, and says so. Files hold statistics of
scores, no embedding; those of the user are readable by their owner alone, like the gallery beside them.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from open_clip_idplugin.faces.calibration import Calibration, assumed_calibration
from open_clip_idplugin.faces.model_identity import ModelIdentity, same_model
from open_clip_idplugin.faces.score_distributions import CalibrationError
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.locations import user_folder

FILE = "calibration.json"
_FOLDER = "calibrations"
_MOST_BYTES = 1 << 20
_LOGGER = logging.getLogger(__name__)


def calibration_folder() -> Path:
    """Where the user's own calibrations are: beside the gallery."""
    return user_folder() / _FOLDER


def load_calibration(model_id: str | None, beside: Path | None = None) -> Calibration:
    """The calibration of a face model; that of ArcFace's scale (`assumed`) where nobody has measured the model.

    Args:
        model_id: of the face model; None where it is not known.
        beside: a folder with faces of a collection, whose own calibration counts before others.
    """
    if model_id is None:
        return assumed_calibration("")
    for found in _candidates(model_id, beside):
        if same_model(found.model_id, model_id):
            return replace(found, model_id=model_id)
    return assumed_calibration(model_id)


def read_calibration(path: Path) -> Calibration:
    """One file; raises CalibrationError naming it where it is missing, too large or damaged."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise CalibrationError("it is too large")
        return Calibration.from_json(content.decode("utf-8"))
    except (OSError, ValueError, CalibrationError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CalibrationError(
            f"the calibration '{path}' cannot be read: {reason}; make it again with `idclip calibrate`"
        ) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write whole or not at all; only the owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    atomic_write(path, calibration.to_json(), PRIVATE)


def keep_calibration(before: Path, after: Path) -> None:
    """Let a folder of faces have the calibration of the one whose place it takes: it holds no face, and outlives changes."""
    if (before / FILE).exists():
        atomic_write(after / FILE, (before / FILE).read_bytes(), PRIVATE)


def user_file(model_id: str) -> Path:
    """Where the user's calibration of this model is kept: named by the model's kind and digest, or its name."""
    identity = ModelIdentity.parse(model_id)
    words = f"{identity.kind}-{identity.digest or identity.name}"
    return calibration_folder() / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', words)}.json"


def _candidates(model_id: str, beside: Path | None) -> Iterator[Calibration]:
    for path in ([] if beside is None else [beside / FILE]) + [user_file(model_id)]:
        if path.exists():
            try:
                yield read_calibration(path)
            except CalibrationError as error:  # a search must not fail because of a file that it can do without
                _LOGGER.warning("%s", error)
    yield from _shipped()


@cache
def _shipped() -> tuple[Calibration, ...]:
    folder = resources.files("open_clip_idplugin.faces") / _FOLDER
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return tuple(Calibration.from_json(entry.read_text(encoding="utf-8")) for entry in files)
