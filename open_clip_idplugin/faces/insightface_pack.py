"""insightface's models behind our interface: a pack -> detector and encoder (onnxruntime sessions made by insightface).

Pictures are RGB here and BGR in insightface; the reversal happens in this module alone.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.engine import Detection
from open_clip_idplugin.faces.errors import PackInvalid
from open_clip_idplugin.faces.pack_files import SHIPPED_PACK, Pack, find_pack

_TASKS = ("detection", "recognition", "genderage")
_DETECTION_THRESHOLD = 0.5
_MAX_COORDINATE = 1e6  # pixels; a landmark beyond is no landmark, and warping with it overflows
_MIN_SPREAD = 1.0  # pixels between landmarks below which an alignment means nothing
_announced: set[str] = set()


class InsightFaceDetector:
    """SCRFD detector, with the pack's gender and age model where it has one."""

    def __init__(self, model: Any, attributes: Any | None):
        self._model = model
        self._attributes = attributes

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """RGB uint8 [H, W, 3] -> detections with finite boxes, best first."""
        image = np.ascontiguousarray(picture[:, :, ::-1])
        boxes, landmarks = self._model.detect(image, max_num=0)
        found = []
        for row, points in zip(boxes, landmarks):
            if np.isfinite(row).all():
                gender, age = self._gender_and_age(image, row)
                box, points = row[:4].astype(np.float32), points.astype(np.float32)
                found.append(Detection(box, points, float(row[4]), gender, age))
        return found

    def _gender_and_age(self, image: np.ndarray, row: np.ndarray) -> tuple[str | None, float | None]:
        if self._attributes is None:
            return None, None
        from insightface.app.common import Face as HostFace

        gender, age = self._attributes.get(image, HostFace(bbox=row[:4], det_score=row[4]))
        return ("male" if gender == 1 else "female"), float(age)


class InsightFaceEncoder:
    """ArcFace recogniser; `encode` is one onnxruntime run over all crops given."""

    def __init__(self, model: Any, model_id: str):
        self._model = model
        self.model_id = model_id
        self.crop_size = int(model.input_size[0])
        self.embedding_size = int(model.output_shape[-1])
        batch = model.input_shape[0]
        self.batch: int | None = batch if isinstance(batch, int) and batch > 0 else None

    def align(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """Similarity transform of landmarks [5, 2] to ArcFace's reference points, as insightface does it."""
        import cv2
        from insightface.utils import face_align

        spread = float(np.ptp(landmarks, axis=0).max()) if np.isfinite(landmarks).all() else 0.0
        if spread < _MIN_SPREAD or np.abs(landmarks).max() > _MAX_COORDINATE:
            return None
        matrix = face_align.estimate_norm(landmarks, self.crop_size)
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
            return None
        return cv2.warpAffine(picture, matrix, (self.crop_size, self.crop_size), borderValue=0.0)

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops -> [N, D] float32, not normalised."""
        return self._model.get_feat([np.ascontiguousarray(crop[:, :, ::-1]) for crop in crops])


def load_pack(
    name: str, det_size: int | None, providers: Sequence[str] | None, threads: int | None
) -> tuple[InsightFaceDetector, InsightFaceEncoder]:
    """Open the pack's detector, recogniser and (optional) gender and age model; print a foreign pack's licence once."""
    pack = find_pack(name)
    options = _session_options(providers, threads)
    models = {
        task: _open(pack, task, options) for task in ("detection", "recognition", "genderage") if task in pack.files
    }
    detector, recogniser = models["detection"], models["recognition"]
    if not detector.use_kps:
        raise PackInvalid(f"The detector {pack.files['detection']} gives no landmarks; use one with 9 outputs.")
    if detector.static_input_size is None:
        side = det_size or pack.det_size
        detector.prepare(0, input_size=(side, side), det_thresh=_DETECTION_THRESHOLD)
    encoder = InsightFaceEncoder(recogniser, pack.model_id)
    if encoder.crop_size % 112 and encoder.crop_size % 128:
        raise PackInvalid(f"The recogniser {pack.files['recognition']} takes {encoder.crop_size} px; 112 or 128 align.")
    _announce_licence(pack)
    return InsightFaceDetector(detector, models.get("genderage")), encoder


def _session_options(providers: Sequence[str] | None, threads: int | None) -> dict[str, Any]:
    """Keyword arguments of `get_model`; onnxruntime itself would replace an unavailable provider without a word."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    chosen = list(providers or [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available])
    unknown = [provider for provider in chosen if provider not in available]
    if unknown:
        raise IdClipError(f"onnxruntime has no provider {', '.join(unknown)} here; available: {', '.join(available)}.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: models of old exporters cause pages of warnings
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return {"providers": chosen, "sess_options": options}


def _open(pack: Pack, task: str, options: dict[str, Any]) -> Any:
    from insightface.model_zoo import get_model

    path = pack.files[task]
    try:
        model = get_model(str(path), download=False, **options)
    except Exception as error:  # onnxruntime's errors share no base class; assertions come from insightface
        raise PackInvalid(
            f"The model file {path} cannot be loaded ({type(error).__name__}); fetch it again."
        ) from error
    if getattr(model, "taskname", None) != task:
        raise PackInvalid(f"The model file {path} does not work as the pack's {task} model.")
    return model


def _announce_licence(pack: Pack) -> None:
    if pack.name == SHIPPED_PACK or pack.name in _announced:
        return
    _announced.add(pack.name)
    if pack.manifest:
        note = "its licence is in its folder (MODEL.LICENSE)"
    else:
        note = "insightface's model packs are for non-commercial research only; see its licence before any other use"
    print(f"Face pack {pack.name!r}: {note}.", file=sys.stderr)
