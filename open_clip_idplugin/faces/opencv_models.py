"""OpenCV adapter: YuNet (MIT) -> faces, SFace (Apache 2.0) -> 128 numbers each.

Role: engine kind `opencv`, a folder with `face_detection_yunet_*.onnx` and `face_recognition_sface_*.onnx` of OpenCV's model
zoo. OpenCV's nets hold state, so that calls of several threads wait for each other. Pictures are RGB here, BGR there.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.faces.engine import Detection, EngineOptions, shrink_to
from open_clip_idplugin.faces.errors import (
    DetectorMissing,
    ModelUnreadable,
    PackNotFound,
    ProviderUnavailable,
    RecogniserMissing,
)
from open_clip_idplugin.faces.licences import announce
from open_clip_idplugin.faces.model_identity import ModelIdentity, weights_hash
from open_clip_idplugin.faces.onnx_files import read_graph
from open_clip_idplugin.model_store import how_to_get, opencv_folder

_DETECTOR, _RECOGNISER = "face_detection_yunet", "face_recognition_sface"
_DEFAULT = "default"  # the folder that `idclip models get opencv` makes
_DET_SIZE = 640
_THRESHOLD, _OVERLAP, _MOST = 0.6, 0.3, 5000  # score, non-maximum suppression, boxes before it
_CROP_SIZE = 112
_STRIDES = (8, 16, 32)
_YUNET_OUTPUTS = frozenset(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in _STRIDES)


class YuNetDetector:
    """Sees a picture scaled down until its longer side is `det_size`; small pictures as they are."""

    def __init__(self, model: Any, det_size: int):
        self._model = model
        self._det_size = det_size
        self._lock = threading.Lock()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """RGB uint8 [H, W, 3] -> detections with finite numbers, best first."""
        image, back = shrink_to(picture, self._det_size)
        with self._lock:
            self._model.setInputSize((image.shape[1], image.shape[0]))
            _, rows = self._model.detect(np.ascontiguousarray(image[:, :, ::-1]))
        found = [_detection(row, back) for row in (rows if rows is not None else ()) if np.isfinite(row).all()]
        return sorted(found, key=lambda detection: -detection.score)


class SFaceEncoder:
    """Embeds crop by crop: OpenCV's class takes one at a time."""

    batch = 1
    fixed_batch = True
    crop_size = _CROP_SIZE

    def __init__(self, model: Any, model_id: str):
        self._model = model
        self._lock = threading.Lock()
        self.model_id = model_id
        self.embedding_size = int(self.encode([np.zeros((_CROP_SIZE, _CROP_SIZE, 3), np.uint8)]).shape[1])

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops -> [N, D] float32, not normalised."""
        with self._lock:
            rows = [self._model.feature(np.ascontiguousarray(crop[:, :, ::-1])).reshape(-1) for crop in crops]
            return np.stack(rows).astype(np.float32)  # copies: OpenCV hands out its own buffer


def load_detector(name: str, options: EngineOptions) -> YuNetDetector:
    """Open the folder's YuNet."""
    import cv2

    path = _find(name, _DETECTOR, DetectorMissing, "YuNet detector")
    _prepare(options)
    if {
        value.name for value in read_graph(path).output
    } != _YUNET_OUTPUTS:  # OpenCV would read whatever it finds in their place
        raise ModelUnreadable(
            f"The model file {path} does not have YuNet's outputs (cls_8 to kps_32); fetch the version of 2023 or later."
        )
    side = options.det_size or _DET_SIZE

    def create() -> YuNetDetector:
        model = cv2.FaceDetectorYN.create(str(path), "", (side, side), _THRESHOLD, _OVERLAP, _MOST)
        detector = YuNetDetector(model, side)
        detector.detect(np.zeros((64, 64, 3), np.uint8))  # a graph that does not hold fails here, not at a picture
        return detector

    detector = _open(path, create)
    announce(f"Face detector {path.stem!r}", "YuNet is published under the MIT licence")
    return detector


def load_encoder(name: str, options: EngineOptions) -> SFaceEncoder:
    """Open the folder's SFace."""
    import cv2

    path = _find(name, _RECOGNISER, RecogniserMissing, "SFace recogniser")
    read_graph(path)
    _prepare(options)
    model_id = str(ModelIdentity("opencv", path.stem, weights_hash(path)))
    encoder = _open(path, lambda: SFaceEncoder(cv2.FaceRecognizerSF.create(str(path), ""), model_id))
    announce(f"Face recogniser {path.stem!r}", "SFace is published under the Apache 2.0 licence")
    return encoder


def _detection(row: np.ndarray, back: np.ndarray) -> Detection:
    """YuNet's row: x, y, width, height, five landmarks from the eye at the picture's left on, score."""
    corners = np.concatenate([row[:2] * back, (row[:2] + row[2:4]) * back]).astype(np.float32)
    landmarks = (row[4:14].reshape(5, 2) * back).astype(np.float32)
    return Detection(corners, landmarks, float(min(row[14], 1.0)))


def _find(name: str, stem: str, missing: type[Exception], word: str) -> Path:
    """The newest file of that name; the quantised ones, which are less exact, only when there is no other."""
    folder = opencv_folder() if name == _DEFAULT else Path(name).expanduser()
    if not folder.is_dir():
        raise PackNotFound(
            f"The folder {folder} of OpenCV's face models does not exist; {how_to_get('opencv')} as opencv:{_DEFAULT}, or put "
            f"{_DETECTOR}_*.onnx and {_RECOGNISER}_*.onnx there; nothing is downloaded by itself."
        )
    paths = sorted(folder.glob(f"{stem}_*.onnx"))
    exact = [path for path in paths if "int8" not in path.stem]
    if not paths:
        raise missing(
            f"The folder {folder} holds no {word} ({stem}_*.onnx); {how_to_get('opencv')} as opencv:{_DEFAULT}."
        )
    return (exact or paths)[-1]


def _prepare(options: EngineOptions) -> None:
    import cv2

    if options.providers and "CPUExecutionProvider" not in options.providers:
        raise ProviderUnavailable(
            f"OpenCV's face models run on the CPU alone, not with {', '.join(options.providers)}; "
            "name CPUExecutionProvider too."
        )
    if options.threads is not None:
        cv2.setNumThreads(options.threads)


def _open(path: Path, create: Callable[[], Any]) -> Any:
    import cv2

    try:
        with _quiet():
            return create()
    except cv2.error as error:
        raise ModelUnreadable(
            f"The model file {path} cannot be loaded by OpenCV {cv2.__version__}; fetch it again."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV logs pages about a file that it then refuses with an exception."""
    import cv2

    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)
