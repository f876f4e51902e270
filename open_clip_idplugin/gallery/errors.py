"""What a gallery refuses."""

from open_clip_idplugin.errors import Busy, IdClipError


class GalleryError(IdClipError):
    """An unusable gallery file, a name that is not (or already) enrolled, or an embedding that does not fit."""


class ConsentExpired(GalleryError):
    """A person whose consent has ended, and who is not searched for any more."""


class GalleryBusy(GalleryError, Busy):
    """Another program holds the gallery's file longer than is waited for."""
