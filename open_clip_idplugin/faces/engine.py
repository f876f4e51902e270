"""Face engine: pictures -> typed faces with aligned crops and unit embeddings.

Detection runs picture by picture (detectors' graphs take one), the recogniser over the crops of all pictures in batches.
Detectors and encoders are anything with the two small interfaces here; `loading.py` makes them from a spec.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.alignment import align_face
from open_clip_idplugin.faces.errors import EmbeddingBroken, EngineInvalid
from open_clip_idplugin.faces.face import Face, FacePolicy, choose_aligned_face, choose_face
from open_clip_idplugin.pictures import PictureSource, load_picture

_MOST_SIDE = 8192  # a detector's input of this side takes 800 MB


@dataclass(frozen=True)
class EngineOptions:
    """Options of `load_face_engine`.

    det_size: side of the square in which the detector sees a picture, in pixels; None: the engine's own.
    providers: of onnxruntime; None: CUDA where it is available, else the CPU. threads: of one call; None: the host's.
    """

    det_size: int | None = None
    providers: tuple[str, ...] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.det_size is not None and (not 64 <= self.det_size <= _MOST_SIDE or self.det_size % 32):
            raise IdClipError(
                f"det_size {self.det_size} does not fit the detector; give a multiple of 32 from 64 to {_MOST_SIDE}."
            )
        if self.threads is not None and self.threads < 1:
            raise IdClipError(f"threads must be at least 1, got {self.threads}.")


@dataclass(frozen=True)
class Detection:
    """What a detector tells of one face: box [4] and landmarks [5, 2] float32 in pixels, score in [0, 1]."""

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    gender: str | None = None
    age: float | None = None


class FaceDetector(Protocol):
    """Finds faces in one RGB picture; may be called from several threads."""

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """RGB uint8 [H, W, 3] -> detections, best first."""
        ...


class FaceEncoder(Protocol):
    """Embeds aligned crops; may be called from several threads."""

    model_id: str  # changes with the weights
    embedding_size: int
    crop_size: int
    batch: int  # crops a run
    fixed_batch: bool  # the graph takes exactly `batch` crops, else up to so many

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """1 to `batch` RGB uint8 crops [crop_size, crop_size, 3] -> [N, D] float32, not normalised."""
        ...


@runtime_checkable
class AligningEncoder(Protocol):
    """An encoder that cuts its own crops: nets that were not trained on ArcFace's crops are bad on them."""

    def align(self, picture: np.ndarray, found: Detection) -> np.ndarray | None:
        """RGB uint8 [H, W, 3] and a face in it -> crop [crop_size, crop_size, 3]; None where it cannot be aligned."""
        ...


class FaceEngine:
    """A detector and an encoder behind one small interface; safe to use from several threads.

    Crops are cut as the encoder does it where it is an `AligningEncoder`, else to ArcFace's five points.
    """

    def __init__(self, detector: FaceDetector, encoder: FaceEncoder):
        self._detector = detector
        self._encoder = encoder
        self._cut = encoder.align if isinstance(encoder, AligningEncoder) else self._arcface_crop

    @property
    def model_id(self) -> str:
        """Stable name of the recogniser; embeddings with different ids must never be compared."""
        return self._encoder.model_id

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding."""
        return self._encoder.embedding_size

    @property
    def crop_size(self) -> int:
        """S, the side of an aligned crop."""
        return self._encoder.crop_size

    def detect(self, picture: PictureSource) -> list[Face]:
        """All faces of one picture, best score first."""
        return self.detect_many([picture])[0]

    def detect_many(self, pictures: Iterable[PictureSource]) -> list[list[Face]]:
        """The faces of each picture; the recogniser runs over all of them together.

        Raises:
            ImageRejected: for the first picture that `load_picture` refuses.
        """
        found = [self.find(picture) for picture in pictures]
        embedded = iter(self.embed([face for faces in found for face in faces]))
        return [[next(embedded) for _ in faces] for faces in found]

    def the_face(self, picture: PictureSource, policy: FacePolicy = "largest") -> Face:
        """The one face that is the person; see `choose_face` for the policies and errors."""
        pixels = load_picture(picture)
        return choose_face(self.detect(pixels), pixels.shape[1], pixels.shape[0], policy)

    def find(self, picture: PictureSource) -> list[Face]:
        """All faces of one picture with their crops, best score first; the recogniser does not run."""
        pixels = load_picture(picture)
        return [self._align(pixels, detection) for detection in self._detector.detect(pixels)]

    def embed(self, faces: Sequence[Face]) -> list[Face]:
        """The same faces (of any number of pictures) with embeddings, as far as they are aligned."""
        rows = iter(self._encode([face.crop for face in faces if face.aligned]))
        return [replace(face, embedding=next(rows)) if face.aligned else face for face in faces]

    def crop_at(self, picture: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """The crop [S, S, 3] of a face whose place in RGB uint8 [H, W, 3] is known already, cut as the encoder wants it.

        None where it cannot be aligned. For `embed_crops`, where detecting again would judge the detector.
        """
        return self._cut(picture, Detection(box, landmarks, 1.0))

    def crops_of(self, picture: PictureSource) -> list[np.ndarray]:
        """Aligned crops [S, S, 3] RGB uint8 of all faces that can be aligned; the recogniser does not run."""
        return [face.crop for face in self.find(picture) if face.aligned]

    def the_crop(self, picture: PictureSource, policy: FacePolicy = "largest") -> np.ndarray:
        """The aligned crop of the person, without running the recogniser; policies and errors as in `choose_face`."""
        pixels = load_picture(picture)
        return choose_aligned_face(self.find(pixels), pixels.shape[1], pixels.shape[0], policy).crop

    def embed_crops(self, crops: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Aligned RGB uint8 crops, [N, S, S, 3] or a list of [S, S, 3] -> [N, D] float32 rows of length 1.

        Raises:
            IdClipError: a crop of another shape or type.
            EmbeddingBroken: the recogniser gave numbers that are not finite, or zeros.
        """
        for crop in crops:
            if crop.ndim != 3 or crop.shape[0] != crop.shape[1] or crop.shape[2] != 3 or crop.dtype != np.uint8:
                raise IdClipError(f"Crops must be square RGB uint8 [S, S, 3], got {crop.shape} {crop.dtype}.")
        rows = self._encode([self._resized(crop) for crop in crops])
        broken = sum(row is None for row in rows)
        if broken:
            raise EmbeddingBroken(
                f"The recogniser {self.model_id} gave no usable numbers for {broken} of {len(rows)} crops; "
                "its file is damaged or meant for another input."
            )
        return np.stack([row for row in rows if row is not None]) if rows else np.zeros((0, self.embedding_size), "f4")

    def _resized(self, crop: np.ndarray) -> np.ndarray:
        if crop.shape[0] == self.crop_size:
            return crop
        import cv2

        return cv2.resize(crop, (self.crop_size, self.crop_size), interpolation=cv2.INTER_LINEAR)

    def _align(self, picture: np.ndarray, found: Detection) -> Face:
        if np.shape(found.box) != (4,) or np.shape(found.landmarks) != (5, 2):
            raise EngineInvalid(
                f"The face detector gave a box of the shape {list(np.shape(found.box))} and landmarks of "
                f"{list(np.shape(found.landmarks))}, not [4] and [5, 2]."
            )
        crop = self._cut(picture, found)
        side = self.crop_size
        if crop is not None and (crop.shape != (side, side, 3) or crop.dtype != np.uint8):
            raise EngineInvalid(
                f"The encoder {self.model_id} cut a crop of {list(crop.shape)} {crop.dtype}, not [{side}, {side}, 3] uint8."
            )
        pixels = np.zeros((self.crop_size, self.crop_size, 3), np.uint8) if crop is None else crop
        return Face(
            found.box, found.landmarks, found.score, pixels, None, found.gender, found.age, aligned=crop is not None
        )

    def _arcface_crop(self, picture: np.ndarray, found: Detection) -> np.ndarray | None:
        return align_face(picture, found.landmarks, self.crop_size)

    def _encode(self, crops: list[np.ndarray]) -> list[np.ndarray | None]:
        """Unit rows in order; None where the numbers are not finite or zero."""
        step = self._encoder.batch
        rows: list[np.ndarray | None] = []
        for start in range(0, len(crops), step):
            chunk = crops[start : start + step]
            padding = [chunk[-1]] * (step - len(chunk)) if self._encoder.fixed_batch else []
            raw = self._encoder.encode(chunk + padding)
            if raw.shape != (len(chunk) + len(padding), self.embedding_size):
                raise EmbeddingBroken(
                    f"The recogniser {self.model_id} gave numbers of the shape {list(raw.shape)} for {len(chunk)} crops, not "
                    f"{self.embedding_size} for each."
                )
            raw = raw[: len(chunk)].astype(np.float32)
            norms = np.linalg.norm(raw, axis=1)
            usable = np.isfinite(raw).all(axis=1) & np.isfinite(norms) & (norms > 0)
            rows.extend(row / norm if good else None for row, norm, good in zip(raw, norms, usable))
        return rows


def shrink_to(picture: np.ndarray, det_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale RGB uint8 [H, W, 3] down until its longer side is `det_size` pixels; smaller pictures stay as they are.

    Returns the picture and [2] float32: what x and y in it are multiplied with to be those of the original.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, det_size / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    return image, np.array([width / size[0], height / size[1]], np.float32)
