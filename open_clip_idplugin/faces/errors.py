"""The exceptions of face handling: one class per way an engine or a picture can fail, each with a one-sentence message.

Catch the families (`PackNotFound`, `PackInvalid`, `ImageRejected`, `NoFace`, `SeveralFaces`, `ModelMismatch`) or the one
case that matters.
"""

from typing import ClassVar

from open_clip_idplugin.errors import IdClipError


class EngineUnknown(IdClipError):
    """A spec names no face engine that there is, or combines two that do not fit."""


class ProviderUnavailable(IdClipError):
    """The hardware or runtime asked for is not there; hosts would fall back to the CPU without a word."""


class PackNotFound(IdClipError):
    """The folder or file of a face model does not exist; the message names it and what belongs there."""


class PackInvalid(IdClipError):
    """The files of a face model exist but cannot serve."""


class PackEmpty(PackInvalid):
    """The folder holds no model files."""


class PackNested(PackInvalid):
    """The model files lie one folder deeper, as some archives unpack."""


class DetectorMissing(PackInvalid):
    """The folder holds no face detector, or one that gives no landmarks."""


class RecogniserMissing(PackInvalid):
    """The folder holds no recogniser."""


class ModelUnreadable(PackInvalid):
    """A model file is damaged, or is no model of the kind that its place asks for."""


class ManifestBroken(PackInvalid):
    """A pack's manifest does not hold: unreadable, or a file's SHA-256 differs."""


class EmbeddingBroken(PackInvalid):
    """A recogniser gave numbers that are not finite, or zeros."""


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


class PictureDamaged(ImageRejected):
    """The data is damaged or truncated."""

    kind = "damaged or truncated"


class PictureTooLarge(ImageRejected):
    """Too many pixels (perhaps a decompression bomb), or a side that image libraries cannot index."""

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


class NoFace(IdClipError):
    """No usable face was found where one is needed."""


class FaceNotAligned(NoFace):
    """Faces were found, but none whose landmarks allow an alignment."""


class SeveralFaces(IdClipError):
    """Several faces were found where exactly one is wanted."""


class ModelMismatch(IdClipError):
    """Embeddings of different face models were about to meet; their numbers cannot be compared."""
