"""Face models on this disk: which there are, where they lie, and how they get there when somebody asks for them."""

from open_clip_idplugin.model_store.installation import (
    THERE,
    folder_of,
    get_model,
    insightface_folder,
    opencv_folder,
    other_packs,
    remove_model,
    state_of,
)
from open_clip_idplugin.model_store.registry import MODELS, FaceModel, ModelFile, how_to_get

__all__ = [
    "MODELS",
    "THERE",
    "FaceModel",
    "ModelFile",
    "folder_of",
    "get_model",
    "how_to_get",
    "insightface_folder",
    "opencv_folder",
    "other_packs",
    "remove_model",
    "state_of",
]
