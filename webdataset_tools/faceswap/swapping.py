"""The swapping itself: one COCO image and its identities -> marked JPEGs and a decision for each identity.

Role: the work of one process in the swapping stage. For each identity its photos are tried in the order of how well the head's
pose fits, until the result is recognised as the identity; then the JPEG is written.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_picture
from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap import reasons
from webdataset_tools.faceswap.coco import CocoImage
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_scan import EngineLoader, open_picture, read_picture
from webdataset_tools.faceswap.original import Original, open_original
from webdataset_tools.faceswap.pairing import PairRules, photos_for, skin_of
from webdataset_tools.faceswap.swappers import FaceInPicture, Swapper
from webdataset_tools.faceswap.verification import Similarity, SimilarityRules, identity_embedding, verify
from webdataset_tools.release import swapped_file_name
from webdataset_tools.worker_pool import Tick

_PHOTOS_KEPT = 64  # decoded photos in memory


@dataclass(frozen=True)
class SwapJob:
    """One COCO image, its file and its face, the folder of the results, and the identities to put there.

    identities  id -> photo -> the photo's face
    """

    image: CocoImage
    original: Location
    target: Location
    face: FoundFace
    identities: Mapping[str, Mapping[str, FoundFace]]


@dataclass(frozen=True)
class SwapSettings:
    """What all jobs of a run share; goes to every worker once."""

    load_engine: EngineLoader
    create_swapper: Callable[[], Swapper]  # picklable
    tries: int
    similarity: SimilarityRules
    pairs: PairRules | None
    quality: int | None
    seed: int


@dataclass(frozen=True)
class Decision:
    """What became of one identity in one image.

    photo is the one swapped in, face_photo the one whose embedding goes into the release (another one where the identity has
    several); both are file names inside the identity's folder. Similarities are those of the last try.
    """

    identity_id: str
    kept: bool
    reason: str = ""
    detail: str = ""
    photo: str | None = None
    face_photo: str | None = None
    tries: int = 0
    similarity_identity: float | None = None
    similarity_original: float | None = None


class ImageSwapper:
    """Swaps the identities into image after image; a task is (number, jobs)."""

    def __init__(self, settings: SwapSettings, photo_folder: Location) -> None:
        self.settings = settings
        self.photo_folder = photo_folder
        self.engine = settings.load_engine()
        self.swapper = settings.create_swapper()
        self.photo = lru_cache(maxsize=_PHOTOS_KEPT)(self._load_photo)

    def __call__(self, task: tuple[int, list[SwapJob]], tick: Tick) -> tuple[int, dict[str, Any]]:
        """Return (number, record) with the decisions of each job, after its JPEGs are on disk."""
        jobs = []
        for job in task[1]:
            decisions = self._swap_all(job)
            jobs.append({"image_id": job.image.image_id, "decisions": [vars(decision) for decision in decisions]})
            tick()
        return task[0], {"digital_source_type": self.swapper.digital_source_type, "jobs": jobs}

    def _swap_all(self, job: SwapJob) -> list[Decision]:
        original = read_picture(job.original, job.image.label, open_original)
        if isinstance(original, Skip):  # it was readable when it was scanned
            return [Decision(identity_id, False, original.reason, original.detail) for identity_id in job.identities]
        return [self._swap(job, original, identity_id) for identity_id in job.identities]

    def _swap(self, job: SwapJob, original: Original, identity_id: str) -> Decision:
        last = Decision(identity_id, False, reasons.SWAP_FAILED)
        photos = photos_for(job.face, job.identities[identity_id], self.settings.pairs)
        for number, photo in enumerate(photos[: self.settings.tries], 1):
            try:
                jpeg, similarity = self._attempt(job, original, identity_id, photo)
            except (ValueError, cv2.error) as error:  # ValueError includes all of ours: this photo cannot be swapped in
                detail = f"{photo}: {error}".splitlines()[0]
                last = Decision(identity_id, False, reasons.SWAP_FAILED, detail, photo, tries=number)
                continue
            cosines = (round(similarity.identity, 6), round(similarity.original, 6))
            if self.settings.similarity.accepts(similarity):
                _write(job.target / swapped_file_name(job.image.image_id, identity_id), jpeg)
                face_photo = self._choose_face_photo(job, identity_id, photo)
                return Decision(identity_id, True, "", "", photo, face_photo, number, *cosines)
            last = Decision(identity_id, False, reasons.NOT_RECOGNISED, "", photo, None, number, *cosines)
        return last

    def _attempt(self, job: SwapJob, original: Original, identity_id: str, photo: str) -> tuple[bytes, Similarity]:
        """Swap, encode, and judge what was encoded: that is what everybody else will see."""
        face = job.identities[identity_id][photo]
        skin = skin_of(job.identities[identity_id])
        target = FaceInPicture(original.picture, job.face.landmarks, job.face.box, job.face.embedding)
        source = FaceInPicture(self.photo(identity_id, photo), face.landmarks, face.box, face.embedding, skin)
        swapped = self.swapper.swap(target, source)
        if swapped.shape != target.picture.shape or swapped.dtype != np.uint8:
            raise IdClipError(f"the swapper gave {swapped.shape} {swapped.dtype} for {target.picture.shape} uint8")
        jpeg = original.encode(swapped, self.settings.quality, self.swapper.digital_source_type)
        identity = identity_embedding(job.identities[identity_id], without=photo)
        return jpeg, verify(self.engine, load_picture(jpeg), job.face, identity)

    def _load_photo(self, identity_id: str, photo: str) -> np.ndarray:
        picture = open_picture(place_of(self.photo_folder / identity_id, photo), photo)
        if isinstance(picture, Skip):
            raise IdClipError(picture.reason)
        return picture

    def _choose_face_photo(self, job: SwapJob, identity_id: str, swapped_in: str) -> str:
        others = sorted(photo for photo in job.identities[identity_id] if photo != swapped_in)
        rng = random.Random(f"face photo {self.settings.seed} {job.image.image_id} {identity_id}")
        return rng.choice(others or [swapped_in])


def _write(path: Location, jpeg: bytes) -> None:
    try:
        atomic_write(path, jpeg)
    except OSError as error:
        raise IdClipError(f"cannot write {path} ({error}); make room and run the same command again") from error


@dataclass(frozen=True)
class SwappedImage:
    """A COCO image, its face, the values it was matched by, and what became of its identities."""

    image: CocoImage
    face: FoundFace
    values: dict[str, str | None]
    decisions: list[Decision]


@dataclass(frozen=True)
class SplitResult:
    """One split, swapped: images sorted by id; names and photo faces (photo -> face) by identity id."""

    split: str
    images: list[SwappedImage]
    names: Mapping[str, str]
    photos: Mapping[str, Mapping[str, FoundFace]]
    digital_source_type: str
    skipped: list[Skip] = field(default_factory=list)
    pairs_refused: dict[str, int] = field(default_factory=dict)  # reason -> pairs of a scene and a person

    def kept(self) -> Iterator[tuple[SwappedImage, Decision]]:
        """Yield every swap that is in the release, by image and identity."""
        for swapped in self.images:
            for decision in sorted(swapped.decisions, key=lambda decision: decision.identity_id):
                if decision.kept:
                    yield swapped, decision
