"""What the flags of a verb name: model, gallery and face model, loaded for answering queries on this machine.

Role: names and paths -> `LoadedModel` and `People`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_idplugin.devices import AUTO
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.retrieval.people import People
from open_clip_idplugin.training_facts import require_face_model

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints import LoadedModel


@dataclass(frozen=True)
class LocalModel:
    """Flags of `idclip serve` and `idclip search` that say with what a query is encoded."""

    model: str
    checkpoint: str | None = None
    gallery: str | None = None  # file; None: the default gallery
    faces: str | None = None  # face model; None: photos are not read
    det_size: int | None = None
    device: str = AUTO
    precision: str = "fp32"

    def load(self) -> "tuple[LoadedModel, People]":
        """Load everything; raises IdClipError where parts are missing or do not fit together."""
        from open_clip_idplugin.checkpoints import load_model

        engine = None
        if self.faces is not None:
            from open_clip_idplugin.faces import load_face_engine

            engine = load_face_engine(self.faces, det_size=self.det_size)
            Gallery(self.gallery).require_model(engine.model_id)
        loaded = load_model(self.model, self.checkpoint, device=self.device, precision=self.precision)
        config = getattr(loaded.model, "identity_cfg", None)
        if config is None:
            raise IdClipError("--model must be an IdCLIP model (IdCLIP-...): a plain CLIP cannot be asked for people")
        gallery = Gallery(self.gallery)
        photos = None if engine is None else engine.model_id
        require_face_model(loaded.face_model, photos, "the faces of photos")
        require_face_model(loaded.face_model, gallery.model_id, f"those of the gallery '{gallery.path}'")
        return loaded, People(config.face_dim, gallery, engine)
