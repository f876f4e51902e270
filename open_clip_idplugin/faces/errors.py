"""The exceptions of face handling: one class per way a pack or a picture can fail, each with a one-sentence message."""

from open_clip_idplugin.errors import IdClipError


class PackNotFound(IdClipError):
    """The folder of a face pack does not exist; the message names the folder and what belongs there."""


class PackInvalid(IdClipError):
    """The folder of a face pack exists but cannot serve: a model is missing, unreadable or gives broken numbers."""


class ImageRejected(IdClipError):
    """A picture cannot be used.

    `source` names the picture, `reason` says why without naming it (for counting in reports).
    """

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)  # both in args, so that the exception survives pickling between processes
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"The picture {self.source} cannot be used: {self.reason}."


class NoFace(IdClipError):
    """No usable face was found where one is needed."""


class SeveralFaces(IdClipError):
    """Several faces were found where exactly one is wanted."""
