"""Errors of a disk or a store around a whole run -> one sentence.

Role: what no closer place has explained: a list that cannot be written because the disk is full, a folder that may not be read.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import Location


@contextmanager
def told_plainly(folder: Location) -> Iterator[None]:
    """Turn an OSError into IdClipError; whatever is finished in `folder` stays."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or folder, error.strerror or str(error) or type(error).__name__
        raise IdClipError(
            f"cannot read or write {place} ({reason}); put that right and run the same command again to go on"
        ) from error
