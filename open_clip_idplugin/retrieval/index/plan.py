"""Everything that determines an index, in a form that can be compared.

Role: pictures + model + options -> `IndexPlan`, whose digest stands in the index card.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.faces.finding import FaceFinding
from open_clip_idplugin.pictures import DECODER_VERSION
from open_clip_idplugin.retrieval.face_index.passing_faces import passing_engine
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import ImageSource
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text


@dataclass(frozen=True)
class IndexPlan:
    """Everything that determines an index; two runs with the same plan make the same one."""

    source: dict[str, Any]
    image_tower: str
    precision: str
    thumbnail_size: int
    text_tower: str | None  # of embedded captions
    index_key: str | None
    faces: str | None = None  # how faces were found in the same pass
    decoder: int = DECODER_VERSION

    def to_json(self) -> str:
        """One text a plan."""
        values = asdict(self)
        if self.faces is None:
            del values["faces"]
        return json_text(values, sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def make_plan(source: ImageSource, loaded: LoadedModel, options: EmbedOptions, index_key: str | None) -> IndexPlan:
    """The plan of an index over `source`."""
    tower = fingerprint_image_tower(loaded.model)
    text = f"{loaded.name} {checkpoint_digest(loaded)}" if options.embed_captions else None
    faces = None if options.faces is None else _describe_faces(options.faces)
    return IndexPlan(source.describe(), tower, loaded.precision, options.thumbnail_size, text, index_key, faces)


def _describe_faces(finding: FaceFinding) -> str:
    """What determines which faces are found; where they are computed does not."""
    values = {name: value for name, value in asdict(finding).items() if name not in ("providers", "threads")}
    return json_text({**values, "model_id": passing_engine(finding).model_id}, sort_keys=True)


def checkpoint_digest(loaded: LoadedModel) -> str | None:
    """SHA-256 of the checkpoint file; None for a pretrained tag or random weights."""
    if loaded.checkpoint and Path(loaded.checkpoint).is_file():
        return file_sha256(Path(loaded.checkpoint))
    return None
