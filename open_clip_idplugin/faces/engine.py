"""The face engine: pictures -> typed faces with aligned crops and unit embeddings.

Detection runs picture by picture (SCRFD graphs take one), the recogniser once over the crops of all pictures. Where
detectors and encoders come from is told by the part of a spec before the colon (see `load_face_engine`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.errors import PackInvalid
from open_clip_idplugin.faces.face import Face, FacePolicy, choose_face
from open_clip_idplugin.faces.pictures import PictureSource, load_picture

_MAX_BATCH = 128  # crops a recogniser run: beyond some 32 nothing is gained, and memory stays bounded


@dataclass(frozen=True)
class Detection:
    """What a detector tells of one face: box [4] and landmarks [5, 2] float32 in pixels, score in [0, 1]."""

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    gender: str | None = None
    age: float | None = None


class FaceDetector(Protocol):
    """Finds faces in one RGB picture."""

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """RGB uint8 [H, W, 3] -> detections, best first."""
        ...


class FaceEncoder(Protocol):
    """Embeds aligned crops."""

    model_id: str
    embedding_size: int
    crop_size: int
    batch: int | None  # the only batch size the graph accepts, None when any is fine

    def align(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """Picture and landmarks [5, 2] -> RGB uint8 crop [crop_size, crop_size, 3]; None for degenerate landmarks."""
        ...

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops -> [N, D] float32, not normalised."""
        ...


class FaceEngine:
    """A detector and an encoder behind one small interface; safe to use from several threads."""

    def __init__(self, detector: FaceDetector, encoder: FaceEncoder):
        self._detector = detector
        self._encoder = encoder

    @property
    def model_id(self) -> str:
        """Stable name of the recogniser; embeddings with different ids must never be compared."""
        return self._encoder.model_id

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding."""
        return self._encoder.embedding_size

    def detect(self, picture: PictureSource) -> list[Face]:
        """All faces of one picture, best score first."""
        return self.detect_many([picture])[0]

    def detect_many(self, pictures: Iterable[PictureSource]) -> list[list[Face]]:
        """The faces of each picture; the recogniser runs once over all of them.

        Raises:
            ImageRejected: for the first picture that `load_picture` refuses.
        """
        found = [self._detect_and_align(load_picture(picture)) for picture in pictures]
        aligned = [crop for faces in found for _, crop in faces if crop is not None]
        embeddings = iter(self._encode(aligned))
        return [[self._face(detection, crop, embeddings) for detection, crop in faces] for faces in found]

    def the_face(self, picture: PictureSource, policy: FacePolicy = "largest") -> Face:
        """The one face that is the person; see `choose_face` for the policies and errors."""
        pixels = load_picture(picture)
        return choose_face(self.detect(pixels), pixels.shape[1], pixels.shape[0], policy)

    def embed_crops(self, crops: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Aligned RGB uint8 crops, [N, S, S, 3] or a list of [S, S, 3] -> [N, D] float32 rows of length 1.

        Raises:
            IdClipError: a crop of another shape or type.
            PackInvalid: the recogniser gave numbers that are not finite, or zeros.
        """
        for crop in crops:
            if crop.ndim != 3 or crop.shape[0] != crop.shape[1] or crop.shape[2] != 3 or crop.dtype != np.uint8:
                raise IdClipError(f"Crops must be square RGB uint8 [S, S, 3], got {crop.shape} {crop.dtype}.")
        rows = self._encode(list(crops))
        broken = sum(row is None for row in rows)
        if broken:
            raise PackInvalid(
                f"The recogniser {self.model_id} gave no usable numbers for {broken} of {len(rows)} crops."
            )
        return np.stack([row for row in rows if row is not None]) if rows else np.zeros((0, self.embedding_size), "f4")

    def _detect_and_align(self, picture: np.ndarray) -> list[tuple[Detection, np.ndarray | None]]:
        return [(found, self._encoder.align(picture, found.landmarks)) for found in self._detector.detect(picture)]

    def _face(self, found: Detection, crop: np.ndarray | None, embeddings: Iterator[np.ndarray | None]) -> Face:
        embedding = None if crop is None else next(embeddings)
        if crop is None:
            crop = np.zeros((self._encoder.crop_size, self._encoder.crop_size, 3), np.uint8)
        return Face(found.box, found.landmarks, found.score, crop, embedding, found.gender, found.age)

    def _encode(self, crops: list[np.ndarray]) -> list[np.ndarray | None]:
        """Unit rows in order; None where the numbers are not finite or zero."""
        step = self._encoder.batch or _MAX_BATCH
        rows: list[np.ndarray | None] = []
        for start in range(0, len(crops), step):
            chunk = crops[start : start + step]
            padding = [chunk[-1]] * (step - len(chunk)) if self._encoder.batch else []
            raw = self._encoder.encode(chunk + padding)[: len(chunk)].astype(np.float32)
            norms = np.linalg.norm(raw, axis=1)
            usable = np.isfinite(raw).all(axis=1) & np.isfinite(norms) & (norms > 0)
            rows.extend(row / norm if good else None for row, norm, good in zip(raw, norms, usable))
        return rows


def load_face_engine(
    spec: str = "insightface:buffalo_l",
    det_size: int | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
) -> FaceEngine:
    """Load a face engine; never touches the network.

    Args:
        spec: `insightface:<name>` for a pack in insightface's folder (`~/.insightface/models/<name>`),
            `insightface:<folder>` for a pack elsewhere (with a slash in it), `insightface:miniature` for the shipped
            pack of drawn faces.
        det_size: side of the square the detector sees a picture in, a multiple of 32 from 64 on; None takes what the
            pack's manifest recommends (192 for the shipped pack), else 640.
        providers: onnxruntime execution providers; None takes CUDA where it is available, else the CPU.
        threads: threads of one onnxruntime call; None leaves it to onnxruntime.

    Raises:
        PackNotFound, PackInvalid: with what is missing and where it belongs.
        IdClipError: unknown kind of engine, impossible option.
    """
    kind, separator, name = str(spec).partition(":")
    if not separator or kind not in _LOADERS or not name:
        kinds = ", ".join(f"{known}:<pack>" for known in _LOADERS)
        raise IdClipError(f"Unknown face engine {spec!r}; give one of: {kinds}.")
    if det_size is not None and (det_size < 64 or det_size % 32):
        raise IdClipError(f"det_size {det_size} does not fit the detector; give a multiple of 32 from 64 on.")
    if threads is not None and threads < 1:
        raise IdClipError(f"threads must be at least 1, got {threads}.")
    detector, encoder = _LOADERS[kind](name, det_size, providers, threads)
    return FaceEngine(detector, encoder)


def _load_insightface(
    name: str, det_size: int | None, providers: Sequence[str] | None, threads: int | None
) -> tuple[FaceDetector, FaceEncoder]:
    from open_clip_idplugin.faces.insightface_pack import load_pack

    return load_pack(name, det_size, providers, threads)


_Loader = Callable[[str, "int | None", "Sequence[str] | None", "int | None"], tuple[FaceDetector, FaceEncoder]]
_LOADERS: dict[str, _Loader] = {"insightface": _load_insightface}
