"""One writer a folder: a lock that ends with the process, however that ends.

Role: keeps two runs from writing to the same output. Only local folders can be locked; whoever writes to a URL takes care.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import Location, make_folder


@contextmanager
def locked(folder: Location, remedy: str = "wait until it has ended, or choose another folder") -> Iterator[None]:
    """Make the folder and hold it alone; `remedy` ends the sentence about another process there.

    Raises IdClipError when it cannot be made or another process holds it.
    """
    try:
        make_folder(folder)
        handle = os.open(folder, os.O_RDONLY) if isinstance(folder, Path) else None
    except OSError as error:
        reason = error.strerror or error
        raise IdClipError(f"cannot make the folder {folder} ({reason}); choose a folder that can be made") from None
    try:
        if handle is not None and not _try_lock(handle):
            raise IdClipError(f"another process is writing to {folder}; {remedy}")
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
