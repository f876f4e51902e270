"""dlib adapter: its face nets -> detector and encoder of 128 numbers; the one real engine that pip alone brings (extra `dlib`).

Role: engine kind `dlib`. `dlib:hog` finds upright faces quickly, `dlib:cnn` turned ones too and slowly without a GPU; both embed
alike. The encoder cuts its own crops (`dlib.get_face_chip`, 150 pixels, padding 0.25): on ArcFace's it is bad. The files
come from the package face_recognition_models; of its landmark predictors only the one of five points is used, because that
of 68 was trained on data for non-commercial use. Source: http://dlib.net, https://github.com/davisking/dlib-models
"""

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.faces.engine import Detection, EngineOptions, shrink_to
from open_clip_idplugin.faces.errors import EngineUnknown, PackNotFound, ProviderUnavailable
from open_clip_idplugin.faces.licences import announce
from open_clip_idplugin.faces.model_identity import ModelIdentity, weights_hash

_PACKAGE = "face_recognition_models"
_PREDICTOR = "shape_predictor_5_face_landmarks.dat"
_CNN = "mmod_human_face_detector.dat"
_NET = "dlib_face_recognition_resnet_model_v1.dat"
_CHIP, _PADDING = 150, 0.25  # what the net was trained on
_BATCH = 32
_DET_SIZE = {"hog": 800, "cnn": 640}
_DOUBLED = {"hog": 1, "cnn": 0}  # times: HOG sees no face under 80 pixels
_STEEPNESS = 2.0  # of the logistic curve that makes a score in [0, 1] of a margin, 0.5 where dlib's own threshold lies
_SQUARE = 1.05  # sides that differ less are a square
_LARGEST_BOX = 32_767.0  # pixels, as of pictures
# dlib's five points are the corners of both eyes and the base of the nose. Where the tip of the nose and the corners of the
# mouth lie from that base, in units of the eyes' distance: ArcFace's reference points, and the base at (56.5, 81.6) among
# them, which is where YuNet's landmarks put it (median of 31 faces of real photographs).
_EYES_TO_RIGHT, _BASE = 36.03, np.array([56.46, 81.62])
_FROM_BASE = (np.array([[56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]) - _BASE) / _EYES_TO_RIGHT


class DlibDetector:
    """Sees a picture scaled down until its longer side is `det_size`; small pictures as they are."""

    def __init__(self, find: Callable[[np.ndarray], list[tuple[Any, float]]], predictor: Any, det_size: int):
        """`find`: RGB uint8 [H, W, 3] -> dlib's rectangles with their margins."""
        self._find = find
        self._predictor = predictor
        self._det_size = det_size
        self._lock = threading.Lock()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """RGB uint8 [H, W, 3] -> detections, best first."""
        image, back = shrink_to(picture, self._det_size)
        with self._lock:
            found = self._find(np.ascontiguousarray(image))
        detections = []
        for rectangle, margin in found:
            corners = (rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1)
            box = np.array(corners, np.float32) * np.tile(back, 2)
            landmarks = to_five_points(_points(_shape(self._predictor, picture, box)))
            detections.append(Detection(box, landmarks, float(1 / (1 + np.exp(-_STEEPNESS * margin)))))
        return sorted(detections, key=lambda detection: -detection.score)


class DlibEncoder:
    """The 128-number net on dlib's own crops; `encode` is one call over all crops given."""

    batch = _BATCH
    fixed_batch = False
    crop_size = _CHIP
    embedding_size = 128

    def __init__(self, net: Any, predictor: Any, model_id: str):
        self._net = net
        self._predictor = predictor
        self._lock = threading.Lock()
        self.model_id = model_id

    def align(self, picture: np.ndarray, found: Detection) -> np.ndarray | None:
        """RGB uint8 [H, W, 3] and a face in it -> crop [150, 150, 3], by dlib's own landmarks in the face's box."""
        import dlib

        sides = found.box[2:] - found.box[:2]
        if not np.isfinite(found.box).all() or np.abs(found.box).max() > _LARGEST_BOX or sides.min() < 1:
            return None
        shape = _shape(self._predictor, picture, _squared(found.box))
        if np.ptp(_points(shape), axis=0).max() < 1:
            return None
        return dlib.get_face_chip(np.ascontiguousarray(picture), shape, size=_CHIP, padding=_PADDING)

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops [150, 150, 3] -> [N, 128] float32, not normalised."""
        with self._lock:
            rows = self._net.compute_face_descriptor([np.ascontiguousarray(crop) for crop in crops])
        return np.array([np.asarray(row) for row in rows], np.float32)


def load_detector(name: str, options: EngineOptions) -> DlibDetector:
    """Open the detector `name` ("hog" or "cnn") and the landmark predictor."""
    _check(name, options)
    import dlib

    doubled = _DOUBLED[name]
    if name == "hog":
        host = dlib.get_frontal_face_detector()

        def find(image: np.ndarray) -> list[tuple[Any, float]]:
            rectangles, margins, _ = host.run(image, doubled, 0.0)
            return list(zip(rectangles, margins))
    else:
        cnn = dlib.cnn_face_detection_model_v1(str(_file(_CNN)))

        def find(image: np.ndarray) -> list[tuple[Any, float]]:
            return [(face.rect, face.confidence) for face in cnn(image, doubled)]

    detector = DlibDetector(find, dlib.shape_predictor(str(_file(_PREDICTOR))), options.det_size or _DET_SIZE[name])
    _announce("Face detector")
    return detector


def load_encoder(name: str, options: EngineOptions) -> DlibEncoder:
    """Open the 128-number net and the landmark predictor; the same for "hog" and "cnn"."""
    _check(name, options)
    import dlib

    path = _file(_NET)
    model_id = str(ModelIdentity("dlib", path.stem, weights_hash(path)))
    encoder = DlibEncoder(
        dlib.face_recognition_model_v1(str(path)), dlib.shape_predictor(str(_file(_PREDICTOR))), model_id
    )
    _announce("Face encoder")
    return encoder


def to_five_points(points: np.ndarray) -> np.ndarray:
    """dlib's five points [5, 2] -> eyes, tip of the nose and corners of the mouth [5, 2] float32, as in `Face`.

    The last three are not seen: they are put where they lie in ArcFace's reference face, from the base of the nose on.
    """
    left, right, base = points[[2, 3]].mean(axis=0), points[[0, 1]].mean(axis=0), points[4]
    across = right - left
    down = np.array([-across[1], across[0]])
    return np.concatenate([[left, right], base + _FROM_BASE @ np.stack([across, down])]).astype(np.float32)


def _points(shape: Any) -> np.ndarray:
    return np.array([(shape.part(number).x, shape.part(number).y) for number in range(5)], np.float64)


def _shape(predictor: Any, picture: np.ndarray, box: np.ndarray) -> Any:
    import dlib

    x0, y0, x1, y1 = (round(float(value)) for value in box)
    return predictor(np.ascontiguousarray(picture), dlib.rectangle(x0, y0, x1 - 1, y1 - 1))


def _squared(box: np.ndarray) -> np.ndarray:
    """A box as dlib's detectors give them, squares from the brows to the chin: others reach up to the hair."""
    middle, (width, height) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    side = min(width, height)
    if max(width, height) < _SQUARE * side:  # its own, exactly as found
        return box
    return np.concatenate([middle - side / 2, middle + side / 2])


def _check(name: str, options: EngineOptions) -> None:
    if name not in _DET_SIZE:
        raise EngineUnknown(f"dlib has no face detector {name!r}; give dlib:hog (fast) or dlib:cnn (turned faces too).")
    if options.providers and "CPUExecutionProvider" not in options.providers:
        raise ProviderUnavailable(
            f"dlib does not run on {', '.join(options.providers)}, but as it was built; name CPUExecutionProvider too."
        )
    if importlib.util.find_spec("dlib") is None:
        raise PackNotFound("The face engine dlib is not installed: pip install 'open-clip-idplugin[dlib]'.")


def _file(name: str) -> Path:
    """A file of the package with dlib's nets; its module is not imported, for it needs an old setuptools."""
    package = importlib.util.find_spec(_PACKAGE)
    folders = (package.submodule_search_locations or []) if package is not None else []
    path = next(
        (Path(folder) / "models" / name for folder in folders if (Path(folder) / "models" / name).is_file()), None
    )
    if path is None:
        raise PackNotFound(
            f"dlib's {name} is not there: it comes with the package {_PACKAGE} (100 MB); "
            "pip install 'open-clip-idplugin[dlib]'."
        )
    return path


def _announce(part: str) -> None:
    announce(
        f"{part} of dlib", "its nets are in the public domain (CC0) by their author; see their data before any use"
    )
