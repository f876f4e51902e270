"""insightface adapter: a pack -> detector and encoder (onnxruntime sessions made by insightface).

Role: engine kind `insightface`. Pictures are RGB here and BGR in insightface; the reversal happens in this module alone.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from open_clip_idplugin.faces.engine import Detection, EngineOptions
from open_clip_idplugin.faces.errors import DetectorMissing, ModelUnreadable, PackInvalid
from open_clip_idplugin.faces.licences import UNKNOWN_LICENCE, announce
from open_clip_idplugin.faces.onnx_files import GPU, session_settings, usable_cores
from open_clip_idplugin.faces.pack_files import Pack, find_pack
from open_clip_idplugin.model_store.registry import MODELS

_DETECTION_THRESHOLD = 0.5
_BATCH = 32  # beyond, nothing is gained on a CPU: the layers no longer fit its caches
_GPU_BATCH = 128
# Threads that share each layer of a small net wait for each other most of the time: they get whole crops instead.
_SMALL_NET = 16 << 20  # bytes of the file
_CROPS_A_TURN = 4  # few, so that no thread waits long for the last one
_TURNS = 16  # of each thread in a call
_MOST_LANES = 16
_WORDS = {"detection": "detector", "recognition": "recogniser"}


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
    """ArcFace recogniser; `encode` is one onnxruntime run over all crops given, or one for every thread.

    `lanes` threads run `lane_session`, which has one thread itself, over a few crops each.
    """

    def __init__(self, model: Any, model_id: str, lane_session: Any | None = None, lanes: int = 1):
        self._model = model
        self.model_id = model_id
        self.crop_size = int(model.input_size[0])
        self.embedding_size = int(model.output_shape[-1])
        fixed = model.input_shape[0]
        self.fixed_batch = isinstance(fixed, int) and fixed > 0
        self._lane_session = None if self.fixed_batch else lane_session
        self._lanes = lanes
        self._pool = ThreadPoolExecutor(lanes, "face encoder") if self._lane_session is not None else None
        on_gpu = GPU in model.session.get_providers()
        self.batch = fixed if self.fixed_batch else _GPU_BATCH if on_gpu else _BATCH
        if self._pool is not None:
            self.batch = _TURNS * _CROPS_A_TURN * lanes

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops -> [N, D] float32, not normalised."""
        if self._pool is None or len(crops) == 1:
            return self._run(self._model.session, crops)
        size = min(_CROPS_A_TURN, -(-len(crops) // self._lanes))
        chunks = [crops[start : start + size] for start in range(0, len(crops), size)]
        return np.concatenate(list(self._pool.map(partial(self._run, self._lane_session), chunks)))

    def _run(self, session: Any, crops: list[np.ndarray]) -> np.ndarray:
        import cv2

        # As the host's get_feat, which swaps the channels of BGR crops: ours are RGB already.
        mean = (self._model.input_mean,) * 3
        blob = cv2.dnn.blobFromImages(crops, 1.0 / self._model.input_std, (self.crop_size,) * 2, mean, swapRB=False)
        return session.run(self._model.output_names, {self._model.input_name: blob})[0]


def load_detector(name: str, options: EngineOptions) -> InsightFaceDetector:
    """Open the pack's detector and its (optional) gender and age model; print a foreign pack's licence once."""
    pack = find_pack(name, "detection")
    host_options = session_settings(options)
    detector = _open(pack, "detection", host_options)
    attributes = _open(pack, "genderage", host_options) if "genderage" in pack.files else None
    if not detector.use_kps:
        raise DetectorMissing(f"The detector {pack.files['detection']} gives no landmarks; use one with 9 outputs.")
    if detector.static_input_size is None:
        side = options.det_size or pack.det_size
        detector.prepare(0, input_size=(side, side), det_thresh=_DETECTION_THRESHOLD)
    _announce_licence(pack, "detection")
    return InsightFaceDetector(detector, attributes)


def load_encoder(name: str, options: EngineOptions) -> InsightFaceEncoder:
    """Open the pack's recogniser; print a foreign pack's licence once."""
    pack = find_pack(name, "recognition")
    model = _open(pack, "recognition", session_settings(options))
    lanes = min(options.threads or usable_cores(), _MOST_LANES)
    small = pack.files["recognition"].stat().st_size <= _SMALL_NET and GPU not in model.session.get_providers()
    lane_session = None
    if small and lanes > 1:
        lane_session = _open(pack, "recognition", session_settings(replace(options, threads=1))).session
    encoder = InsightFaceEncoder(model, pack.model_id, lane_session, lanes if lane_session is not None else 1)
    if encoder.crop_size % 112 and encoder.crop_size % 128:
        raise PackInvalid(f"The recogniser {pack.files['recognition']} takes {encoder.crop_size} px; 112 or 128 align.")
    _announce_licence(pack, "recognition")
    return encoder


def _open(pack: Pack, task: str, host_options: dict[str, Any]) -> Any:
    from insightface.model_zoo import get_model

    path = pack.files[task]
    try:
        model = get_model(str(path), download=False, **host_options)
    except Exception as error:  # onnxruntime's errors share no base class; assertions come from insightface
        raise ModelUnreadable(
            f"The model file {path} cannot be loaded ({type(error).__name__}); fetch it again."
        ) from error
    if getattr(model, "taskname", None) != task:
        raise ModelUnreadable(f"The model file {path} does not work as the pack's {task} model.")
    return model


def _announce_licence(pack: Pack, task: str) -> None:
    """What is known of the licence of the files that were opened for this task."""
    if pack.shipped:
        return
    if pack.manifest:
        note = "its licence is in its folder (MODEL.LICENSE)"
    elif pack.name in MODELS:
        note = f"insightface's model packs are for {MODELS[pack.name].licence}; see {MODELS[pack.name].terms}"
    else:
        note = UNKNOWN_LICENCE
    announce(f"Face {_WORDS[task]} {pack.files[task].stem!r} of the pack {pack.name!r}", note)
