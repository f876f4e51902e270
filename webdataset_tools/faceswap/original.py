"""The picture that a swap goes into: file bytes -> pixels for models, and a JPEG that keeps what was not swapped.

Role: models see sRGB (see `load_picture`), the file has colours of its own, often with an ICC profile. What a swap changed
is brought into the file's colours; all else keeps its own numbers, profile, quantisation and chroma subsampling, so that
writing the JPEG again changes next to nothing.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from open_clip_idplugin.pictures import load_picture, open_image, upright
from webdataset_tools import marking

if TYPE_CHECKING:
    from PIL import Image

_QUALITY = 95  # of pictures that were no JPEG


@dataclass(frozen=True, eq=False)
class Original:
    """A picture's file and what `load_picture` makes of it: [H, W, 3] uint8 RGB, upright, sRGB."""

    content: bytes
    picture: np.ndarray

    @cached_property
    def _image(self) -> "Image.Image":
        return open_image(self.content)

    @cached_property
    def _stored(self) -> tuple[np.ndarray, bytes | None]:
        """The numbers of the file [H, W, 3], upright, with their profile; sRGB without one where they are no RGB."""
        profile = self._image.info.get("icc_profile")
        if self._image.mode == "RGB" and profile:
            stored = np.asarray(upright(self._image))
            if stored.shape == self.picture.shape:
                return stored, profile
        return self.picture, None

    def encode(self, swapped: np.ndarray, quality: int | None, digital_source_type: str) -> bytes:
        """Return a marked JPEG of `swapped`, RGB uint8 [H, W, 3] in sRGB, without the original's metadata but its profile.

        `quality` None takes the original's quantisation.
        """
        from PIL import Image

        stored, profile = self._stored
        if stored is not self.picture:
            changed = (swapped != self.picture).any(axis=2)
            swapped = np.where(changed[:, :, None], _from_srgb(swapped, profile, stored, self.picture), stored)
        stream = io.BytesIO()
        options: dict[str, Any] = {"icc_profile": profile} if profile else {}
        Image.fromarray(swapped).save(stream, "JPEG", **self._compression(quality), **options)
        return marking.mark_jpeg(stream.getvalue(), digital_source_type)

    def _compression(self, quality: int | None) -> dict[str, Any]:
        from PIL import JpegImagePlugin

        image = self._image
        if (
            quality is not None
            or not isinstance(image, JpegImagePlugin.JpegImageFile)
            or image.mode not in ("RGB", "L")
        ):
            return {"quality": quality or _QUALITY, "subsampling": 0 if (quality or _QUALITY) >= 90 else 2}
        sampling = JpegImagePlugin.get_sampling(image)
        return {"qtables": image.quantization, "subsampling": sampling if sampling in (0, 1, 2) else 0}


def open_original(content: bytes) -> Original:
    """Decode a picture file; raises ImageRejected."""
    return Original(content, load_picture(content))


def _from_srgb(picture: np.ndarray, profile: bytes | None, stored: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Return sRGB pixels [H, W, 3] as the profile's numbers; as they are where the decoder left the file's alone."""
    from PIL import Image, ImageCms

    if np.array_equal(stored, decoded):
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        as_decoded = ImageCms.Intent.RELATIVE_COLORIMETRIC
        image = ImageCms.profileToProfile(Image.fromarray(picture), ImageCms.createProfile("sRGB"), own, as_decoded)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture  # the profile leads from its numbers to sRGB alone, or is broken
    return np.asarray(image)
