"""Face crop of a sample: the person's own photo, or the swapped image -> an aligned crop.

Role: sample + image bytes -> JPEG of the 112x112 face, or the reason why there is none. Input: a face engine (see
`open_clip_idplugin.faces`) and, for photos, a folder in VGGFace2's layout: `<folder>/<identity id>/*.jpg`.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.pictures.walk import pictures_below
from open_clip_idplugin.storage.locations import Location
from webdataset_tools import shard_report
from webdataset_tools.sample_format import CROP_FROM_IMAGE, CROP_FROM_PHOTO

PHOTOS_TRIED = 5  # by name, until a face is found
CROP_QUALITY = 95


class FaceFinder(Protocol):
    """The one method of a face engine that is used here: the recogniser, the most expensive net, does not run."""

    def the_crop(self, picture: np.ndarray, policy: Literal["largest"] = "largest") -> np.ndarray:
        """Return the person's face in `picture`, both RGB uint8, or raise an IdClipError."""
        ...


@dataclass(frozen=True)
class FaceCrop:
    """A crop, or the reason (of `webdataset_tools.shard_report`) and detail why there is none."""

    content: bytes | None = None  # JPEG
    source: str | None = None
    photo: str | None = None  # <identity id>/<file>
    reason: str | None = None
    detail: str = ""


Cropper = Callable[[str, bytes], FaceCrop]  # (identity id, bytes of the swapped image) -> crop


def load_engine(spec: str, det_size: int | None, threads: int | None = None) -> FaceFinder:
    """Load the face engine `spec`, such as `insightface:buffalo_l`; see `open_clip_idplugin.faces`."""
    from open_clip_idplugin.faces import load_face_engine

    return load_face_engine(spec, det_size, threads=threads)


def no_crop(identity_id: str, image: bytes) -> FaceCrop:
    """Leave every crop out."""
    return FaceCrop()


def find_photos(folder: Location, identity_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return identity id -> its first photos, as `<identity id>/<file>`, sorted by name.

    Raises IdClipError when the folder holds photos of none of them.
    """
    photos = {}
    for identity_id in sorted(set(identity_ids)):
        try:
            names = pictures_below(folder / identity_id, subfolders=False).keys
        except OSError:  # said with the samples that lack a photo
            continue
        if names:
            photos[identity_id] = tuple(f"{identity_id}/{name}" for name in names[:PHOTOS_TRIED])
    if not photos:
        raise IdClipError(f"{folder} holds no photo of the split's people; it must be laid out as <identity id>/*.jpg")
    return photos


class ImageCropper:
    """Crops the largest face of the swapped image."""

    def __init__(self, engine: FaceFinder) -> None:
        self.engine = engine

    def __call__(self, identity_id: str, image: bytes) -> FaceCrop:
        """Return the crop of `image`."""
        content, problem = _crop(self.engine, image)
        if content is None:
            return FaceCrop(reason=shard_report.NO_FACE_IN_IMAGE, detail=problem)
        return FaceCrop(content, CROP_FROM_IMAGE)


class PhotoCropper:
    """Crops the largest face of the person's first photo in which one is found; each person once."""

    def __init__(self, engine: FaceFinder, folder: Location, photos: Mapping[str, Sequence[str]]) -> None:
        self.engine, self.folder, self.photos = engine, folder, photos
        self.known: dict[str, FaceCrop] = {}

    def __call__(self, identity_id: str, image: bytes) -> FaceCrop:
        """Return the crop of `identity_id`; the swapped image is not looked at."""
        if identity_id not in self.known:
            self.known[identity_id] = self._find(self.photos.get(identity_id, ()))
        return self.known[identity_id]

    def _find(self, photos: Sequence[str]) -> FaceCrop:
        found = FaceCrop(reason=shard_report.NO_PHOTO)
        for photo in photos:
            content, problem = self._crop_photo(photo)
            if content is not None:
                return FaceCrop(content, CROP_FROM_PHOTO, photo)
            found = FaceCrop(reason=shard_report.NO_FACE_IN_PHOTOS, detail=f"{photo}: {problem}")
        return found

    def _crop_photo(self, photo: str) -> tuple[bytes | None, str]:
        try:
            content = place_of(self.folder, photo).read_bytes()
        except OSError as error:
            return None, f"cannot be read ({error.strerror or error})"
        return _crop(self.engine, content)


def _crop(engine: FaceFinder, content: bytes) -> tuple[bytes | None, str]:
    """Return (JPEG of the face, "") or (None, what went wrong). Bytes, not paths: messages then hold no path."""
    from PIL import Image

    from open_clip_idplugin.faces import ImageRejected, NoFace, SeveralFaces, load_picture

    try:
        crop = engine.the_crop(load_picture(content), policy="largest")
    except (ImageRejected, NoFace, SeveralFaces) as error:
        return None, str(error)
    stream = io.BytesIO()
    Image.fromarray(crop).save(stream, "JPEG", quality=CROP_QUALITY, subsampling=0)
    return stream.getvalue(), ""
