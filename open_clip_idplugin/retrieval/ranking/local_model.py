"""Model loading for queries: the flags of a verb -> model, gallery and face engine on this machine.

Role: names and paths -> `LoadedModel` and `People`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_idplugin.command_line.devices import AUTO
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.retrieval.ranking.query_people import People

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints.loading import LoadedModel


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
    model_config: str | None = None  # where models of one's own are described

    def load(self) -> "tuple[LoadedModel, People]":
        """Load everything; any open_clip model will do (see `person_as`).

        Raises:
            IdClipError: parts are missing, or gallery and face model do not fit together.
        """
        from open_clip_idplugin.checkpoints.loading import load_model

        engine = None
        if self.faces is not None:
            from open_clip_idplugin.faces import load_face_engine

            engine = load_face_engine(self.faces, det_size=self.det_size)
            Gallery(self.gallery).require_model(engine.model_id)
        loaded = load_model(self.model, self.checkpoint, self.device, self.precision, self.model_config)
        return loaded, People(Gallery(self.gallery), engine)
