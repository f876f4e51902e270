"""The card of an image index: which image tower made it, so that an index is never searched with another one.

Role: card <-> index_card.json, with the fingerprint of an image tower (`checkpoints.fingerprint`): of weights, structure and
preprocessing of the image tower only. A plain CLIP and an IdCLIP that keeps its image tower frozen (no visual prompts)
therefore have the same one, and an index made with the first answers identity queries of the second.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.decoder_version import DECODER_VERSION, pictures_read_otherwise
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text

FILE_NAME = "index_card.json"
VERSION = 1


class IndexMismatch(IdClipError):
    """An index that cannot be used: damaged, or made with another image tower."""


@dataclass(frozen=True)
class IndexCard:
    """What is known about an image index."""

    model: str
    checkpoint: str | None  # file name or pretrained tag
    checkpoint_sha256: str | None  # of the file
    image_tower: str  # fingerprint
    embedding_size: int
    images: int  # rows
    skipped: int  # pictures that could not be read
    synthetic: int  # rows whose metadata says that the picture is synthetic
    partitions: tuple[int, ...]  # rows of each, in order
    plan: str  # digest of everything that determines the index; see `index_plan.IndexPlan`
    source: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION
    decoder: int = 1  # version of the picture decoder; see `pictures.decoder_version`. Cards of before lack it

    def write(self, folder: Path) -> None:
        """Write index_card.json."""
        atomic_write(folder / FILE_NAME, json_text(asdict(self), indent=1) + "\n")


def load_card(folder: Path) -> IndexCard | None:
    """Read the card of an index folder; None when it has none (an index made by clip-retrieval itself).

    Raises:
        IndexMismatch: the card is damaged or of a newer version.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        if values["version"] > VERSION:
            raise IndexMismatch(f"'{path}' was written by a newer version of this program: update open-clip-idplugin")
        known = {name: values[name] for name in IndexCard.__dataclass_fields__ if name in values}
        return IndexCard(**{**known, "partitions": tuple(known["partitions"])})
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise IndexMismatch(f"'{path}' is damaged ({error}): make the index again") from None


def require_same_tower(card: IndexCard, image_tower: str, model: str, folder: Path) -> None:
    """Refuse an index whose embeddings another image tower made than the one that is loaded."""
    if card.image_tower != image_tower:
        made_with = card.model + (f" ({card.checkpoint})" if card.checkpoint else "")
        raise IndexMismatch(
            f"the index '{folder}' was made with the image tower of {made_with}, which differs from that of {model} in "
            "weights, visual prompts or preprocessing: load the model it was made with, or make the index again"
        )


def require_same_decoder(card: IndexCard, folder: Path) -> None:
    """Refuse to add to an index whose pictures another decoder read: two vectors of one picture would differ."""
    others = pictures_read_otherwise(card.decoder)
    if others is not None:
        raise IndexMismatch(
            f"the index '{folder}' was made with version {card.decoder} of the picture decoder and this is version "
            f"{DECODER_VERSION}: pictures {others} would not fit those that are there, so make the index again"
        )
