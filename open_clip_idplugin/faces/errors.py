"""The exceptions of face handling: one class per way an engine can fail, each with a one-sentence message.

Catch the families (`PackNotFound`, `PackInvalid`, `NoFace`, `SeveralFaces`, `ModelMismatch`) or the one case that matters;
pictures fail with `open_clip_idplugin.pictures.ImageRejected`.
"""

from open_clip_idplugin.errors import IdClipError


class EngineUnknown(IdClipError):
    """A spec names no face engine that there is, or combines two that do not fit."""


class EngineInvalid(EngineUnknown):
    """A spec names code that is not there, or that is no face engine."""


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


class NoFace(IdClipError):
    """No usable face was found where one is needed."""


class FaceNotAligned(NoFace):
    """Faces were found, but none whose landmarks allow an alignment."""


class SeveralFaces(IdClipError):
    """Several faces were found where exactly one is wanted."""


class ModelMismatch(IdClipError):
    """Embeddings of different face models were about to meet; their numbers cannot be compared."""
