"""Looking for faces: COCO images and identity photos -> the one face of each, or the reason why it cannot be used.

Role: the work of one process in the two scanning stages. A picture counts when it decodes, shows exactly one face that is
large and certain enough, and (for COCO) lies inside the annotated person.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import Face, ImageRejected, load_picture
from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap import face_quality, reasons
from webdataset_tools.faceswap.coco import CocoImage
from webdataset_tools.faceswap.face_quality import QualityRules
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.geometry import SwapFailed
from webdataset_tools.faceswap.identities import Identity
from webdataset_tools.worker_pool import Tick

Decoded = TypeVar("Decoded")
LOOKED_AT = 3  # times photos_per_identity: how many photos are tried until enough are usable


class FaceEngine(Protocol):
    """What is used here of `open_clip_idplugin.faces.FaceEngine`."""

    @property
    def model_id(self) -> str:
        """Name of the recogniser."""
        ...

    def detect(self, picture: np.ndarray) -> list[Face]:
        """RGB uint8 [H, W, 3] -> faces."""
        ...

    def crop_at(self, picture: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """The crop of a face whose place is known; None where it cannot be aligned."""
        ...

    def embed_crops(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Aligned crops -> [N, D] float32 unit rows."""
        ...


EngineLoader = Callable[[], FaceEngine]  # picklable


@dataclass(frozen=True)
class ScanRules:
    """When a face counts: shorter side of its box in pixels, detector score, share of the box inside the person, quality
    (any where it is None)."""

    min_face: int
    min_score: float
    min_inside: float
    quality: QualityRules | None
    photos_per_identity: int


def load_engine(spec: str, det_size: int | None) -> FaceEngine:
    """Load the face engine `spec`; one thread, so that results do not depend on the number of processes."""
    from open_clip_idplugin.faces import load_face_engine

    return load_face_engine(spec, det_size, threads=1)


class ImageScanner:
    """Scans COCO images; a task is (number, images). The folders are by subset."""

    def __init__(self, load: EngineLoader, folders: Mapping[str, Location], rules: ScanRules) -> None:
        self.engine, self.folders, self.rules = load(), folders, rules

    def __call__(self, task: tuple[int, list[CocoImage]], tick: Tick) -> tuple[int, dict[str, Any]]:
        """Return (number, record): for each image its face, or a skip."""
        entries: list[dict[str, Any]] = []
        for image in task[1]:
            path = self.folders[image.subset] / image.file_name
            found = scan_picture(self.engine, path, image.label, self.rules, image)
            entries.append(_entry(found))
            tick()
        return task[0], {"face_model": self.engine.model_id, "images": entries}


class PhotoScanner:
    """Scans identity photos; a task is (number, identities). Photos are looked at by name until enough are usable."""

    def __init__(self, load: EngineLoader, folder: Location, rules: ScanRules) -> None:
        self.engine, self.folder, self.rules = load(), folder, rules

    def __call__(self, task: tuple[int, list[Identity]], tick: Tick) -> tuple[int, dict[str, Any]]:
        """Return (number, record): for each identity its usable photos with their faces, and the skips."""
        people = []
        for identity in task[1]:
            photos: dict[str, Any] = {}
            skipped: list[dict[str, str]] = []
            for photo in identity.photos[: LOOKED_AT * self.rules.photos_per_identity]:
                label = f"{identity.identity_id}/{photo}"
                found = scan_picture(
                    self.engine, place_of(self.folder / identity.identity_id, photo), label, self.rules
                )
                if isinstance(found, Skip):
                    skipped.append(vars(found))
                else:
                    photos[photo] = found.to_json()
                if len(photos) == self.rules.photos_per_identity:
                    break
            people.append({"identity_id": identity.identity_id, "photos": photos, "skipped": skipped})
            tick()
        return task[0], {"face_model": self.engine.model_id, "identities": people}


def read_entry(entry: dict[str, Any]) -> "FoundFace | Skip":
    """Read one image of an ImageScanner's record."""
    return FoundFace.from_json(entry["face"]) if "face" in entry else Skip(**entry["skip"])


def _entry(found: "FoundFace | Skip") -> dict[str, Any]:
    return {"skip": vars(found)} if isinstance(found, Skip) else {"face": found.to_json()}


def open_picture(path: Location, label: str) -> "np.ndarray | Skip":
    """Decode a picture to RGB uint8 [H, W, 3], upright; Skip says why not, without naming a path of this machine."""
    return read_picture(path, label, load_picture)


def read_picture(path: Location, label: str, decode: Callable[[bytes], Decoded]) -> "Decoded | Skip":
    """Return what `decode`, which raises ImageRejected, makes of a file's bytes; Skip as in `open_picture`."""
    try:
        return decode(locations.read_bytes(path))
    except FileNotFoundError:
        return Skip(label, reasons.MISSING_IMAGE)
    except OSError as error:
        return Skip(label, reasons.UNREADABLE_IMAGE, error.strerror or type(error).__name__)
    except ImageRejected as error:
        return Skip(label, reasons.REJECTED_PICTURE, error.reason)


def scan_picture(
    engine: FaceEngine, path: Location, label: str, rules: ScanRules, annotated: CocoImage | None = None
) -> "FoundFace | Skip":
    """Find the one face of a picture, in the annotated person where there is one."""
    picture = open_picture(path, label)
    if isinstance(picture, Skip):
        return picture
    height, width = picture.shape[:2]
    if annotated is not None and annotated.size not in (None, (width, height)):
        detail = f"{width}x{height}, annotated {annotated.size[0]}x{annotated.size[1]}" if annotated.size else ""
        return Skip(label, reasons.OTHER_SIZE, detail)
    try:
        found = engine.detect(picture)
    except IdClipError as error:  # such as an embedding that is not finite: of this picture, not of the run
        return Skip(label, reasons.ENGINE_FAILED, str(error))
    faces = [face for face in found if face.score >= rules.min_score]
    if len(faces) != 1:
        return Skip(label, reasons.SEVERAL_FACES if faces else reasons.NO_FACE, f"{len(faces)} faces" if faces else "")
    return _check(picture, faces[0], label, rules, annotated)


def _check(
    picture: np.ndarray, face: Face, label: str, rules: ScanRules, annotated: CocoImage | None
) -> "FoundFace | Skip":
    side = float(min(face.box[2] - face.box[0], face.box[3] - face.box[1]))
    if side < rules.min_face:
        return Skip(label, reasons.SMALL_FACE, f"{side:.0f} pixels, {rules.min_face} wanted")
    if face.embedding is None:
        return Skip(label, reasons.BAD_LANDMARKS)
    if annotated is not None and _inside(face.box, annotated.person_box) < rules.min_inside:
        return Skip(label, reasons.FACE_OUTSIDE)
    try:
        quality = face_quality.measure(picture, face.landmarks, face.box)
    except SwapFailed:
        return Skip(label, reasons.BAD_LANDMARKS)
    if rules.quality is not None:
        why = face_quality.unusable(face.landmarks, quality, rules.quality, lent=annotated is None)
        if why is None and annotated is not None:
            why = face_quality.covered_by_annotated(face.landmarks, face.box, annotated)
        if why is not None:
            return Skip(label, *why)
    score, size = float(face.score), face.crop.shape[0]
    return FoundFace(face.box, face.landmarks, score, face.embedding, quality, face.gender, face.age, size)


def _inside(face: np.ndarray, person: tuple[float, float, float, float]) -> float:
    """Return the share of the face's box that lies in the person's."""
    width = min(face[2], person[2]) - max(face[0], person[0])
    height = min(face[3], person[3]) - max(face[1], person[1])
    area = float((face[2] - face[0]) * (face[3] - face[1]))
    return float(max(width, 0) * max(height, 0)) / area if area > 0 else 0.0
