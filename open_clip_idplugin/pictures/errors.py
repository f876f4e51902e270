"""Picture errors: one class per way a picture can fail, each with a one-sentence message.

Catch the family `ImageRejected`, or the one case that matters.
"""

from typing import ClassVar

from open_clip_idplugin.errors import IdClipError


class ImageRejected(IdClipError):
    """A picture cannot be used.

    `source` names the picture, `reason` says why without naming it; `kind` is the same for all pictures that fail alike,
    for counting in reports.
    """

    kind: ClassVar[str] = "unusable picture"

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)  # both in args, so that the exception survives pickling between processes
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"The picture {self.source} cannot be used: {self.reason}."


class PictureMissing(ImageRejected):
    """The file does not exist, or may not be read."""

    kind = "missing or unreadable file"


class NoPicture(ImageRejected):
    """What was given is no picture in a known format."""

    kind = "no picture in a known format"


class DecoderMissing(NoPicture):
    """A picture in a format whose decoder is not installed here."""

    kind = "format whose decoder is not installed"


class PictureDamaged(ImageRejected):
    """The data is damaged or truncated."""

    kind = "damaged or truncated"


class PictureTooLarge(ImageRejected):
    """Too many pixels, scans or bytes (perhaps a decompression bomb), or a side that image libraries cannot index."""

    kind = "too large"


class PictureTooSmall(ImageRejected):
    """A side below the least that a detector can use."""

    kind = "too small"


class PictureTooElongated(ImageRejected):
    """Sides that differ too much."""

    kind = "too elongated"


class PixelsUnusable(ImageRejected):
    """An array or image of another shape, type or range than pixels have, or values that are not finite."""

    kind = "unusable pixel values"
