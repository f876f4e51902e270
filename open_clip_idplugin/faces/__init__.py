"""Faces: a picture in, typed faces with aligned crops and unit embeddings out (local model files, nothing downloaded).

`load_picture` is the one picture decoder (it lives in `pictures`), `load_face_engine` the one door to face models.
Importing this package loads NumPy only; insightface, onnxruntime, OpenCV and timm are loaded with the first engine that
needs them.
"""

from open_clip_idplugin.faces.engine import FaceEngine
from open_clip_idplugin.faces.errors import (
    EngineInvalid,
    EngineUnknown,
    FaceNotAligned,
    ModelMismatch,
    NoFace,
    PackInvalid,
    PackNotFound,
    ProviderUnavailable,
    SeveralFaces,
)
from open_clip_idplugin.faces.face import Face, FacePolicy, choose_face
from open_clip_idplugin.faces.loading import load_face_engine
from open_clip_idplugin.faces.model_identity import require_same_model, same_model
from open_clip_idplugin.pictures import ImageRejected, PictureSource, load_picture

__all__ = [
    "EngineInvalid",
    "EngineUnknown",
    "Face",
    "FaceEngine",
    "FaceNotAligned",
    "FacePolicy",
    "ImageRejected",
    "ModelMismatch",
    "NoFace",
    "PackInvalid",
    "PackNotFound",
    "PictureSource",
    "ProviderUnavailable",
    "SeveralFaces",
    "choose_face",
    "load_face_engine",
    "load_picture",
    "require_same_model",
    "same_model",
]
