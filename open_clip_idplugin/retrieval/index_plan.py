"""Everything that determines an index, in a form that can be compared.

Role: pictures + model + options -> `IndexPlan`, whose digest stands in the index card.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_clip_idplugin.checkpoints import LoadedModel
from open_clip_idplugin.retrieval.card import file_sha256, fingerprint_image_tower
from open_clip_idplugin.retrieval.partitions import EmbedOptions
from open_clip_idplugin.retrieval.sources import ImageSource


@dataclass(frozen=True)
class IndexPlan:
    """Everything that determines an index; two runs with the same plan make the same one."""

    source: dict[str, Any]
    image_tower: str
    precision: str
    thumbnail_size: int
    text_tower: str | None  # of embedded captions
    index_key: str | None

    def to_json(self) -> str:
        """One text a plan."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def make_plan(source: ImageSource, loaded: LoadedModel, options: EmbedOptions, index_key: str | None) -> IndexPlan:
    """The plan of an index over `source`."""
    tower = fingerprint_image_tower(loaded.model)
    text = f"{loaded.name} {checkpoint_digest(loaded)}" if options.embed_captions else None
    return IndexPlan(source.describe(), tower, loaded.precision, options.thumbnail_size, text, index_key)


def checkpoint_digest(loaded: LoadedModel) -> str | None:
    """SHA-256 of the checkpoint file; None for a pretrained tag or random weights."""
    if loaded.checkpoint and Path(loaded.checkpoint).is_file():
        return file_sha256(Path(loaded.checkpoint))
    return None
