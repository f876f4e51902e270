"""Faces: a picture in, typed faces with aligned crops and unit embeddings out (insightface packs, nothing downloaded).

`load_picture` is the one picture decoder, `load_face_engine` the one door to face models. Importing this package loads
NumPy only; insightface, onnxruntime and OpenCV are loaded with the first engine.
"""

from open_clip_idplugin.faces.engine import FaceEngine, load_face_engine
from open_clip_idplugin.faces.errors import ImageRejected, NoFace, PackInvalid, PackNotFound, SeveralFaces
from open_clip_idplugin.faces.face import Face, FacePolicy, choose_face
from open_clip_idplugin.faces.pictures import PictureSource, load_picture

__all__ = [
    "Face",
    "FaceEngine",
    "FacePolicy",
    "ImageRejected",
    "NoFace",
    "PackInvalid",
    "PackNotFound",
    "PictureSource",
    "SeveralFaces",
    "choose_face",
    "load_face_engine",
    "load_picture",
]
