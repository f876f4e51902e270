"""Atomic files: content -> a temporary name, then renamed or uploaded, so that a file is there whole or not at all.

Role: every output of this project passes through here, so that a killed run never leaves half a file under a final name.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from open_clip_idplugin.storage import locations

if TYPE_CHECKING:
    from upath import UPath

PRIVATE = 0o600  # biometric data: only the owner may read
PUBLIC = 0o644
PART = ".part"  # end of every temporary name


@contextmanager
def atomic_path(target: locations.Place, mode: int = PUBLIC) -> Iterator[Path]:
    """Yield a temporary local path; if the block succeeds it becomes `target` (a path, a URL or a location), else it goes.

    A local target gets its temporary file in its own folder, flushed to disk before the rename. `mode` is the permission
    of the finished file and of the temporary one from its first byte on. For other targets a file of the machine's
    temporary folder is uploaded whole at the end; who may read it there is up to the store.
    """
    place = locations.location(target)
    folder = place.parent if isinstance(place, Path) else Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=PART, dir=folder)  # created 0o600
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if isinstance(place, Path):
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(mode)
            temporary.replace(place)
        else:
            _upload(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(target: locations.Place, content: bytes | str, mode: int = PUBLIC) -> None:
    """Write `content` (text as UTF-8) to `target` through `atomic_path`."""
    with atomic_path(target, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _upload(source: Path, target: "UPath") -> None:
    """Put a file into a store; where an upload could be seen half done, under another name first.

    Raises OSError for whatever error the store has.
    """
    try:
        if locations.is_object_store(target):
            target.fs.put_file(str(source), target.path)
            return
        locations.make_folder(target.parent)
        half = f"{target.parent.path}/.{target.name}.{uuid4().hex}{PART}"
        try:
            target.fs.put_file(str(source), half)
            _rename(target, half)
        except BaseException:
            if target.fs.exists(half):
                target.fs.rm_file(half)
            raise
    except OSError:
        raise
    except Exception as error:  # every store has its own errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(f"cannot upload to {target}: {reason}") from error


def _rename(target: "UPath", half: str) -> None:
    from fsspec import AbstractFileSystem

    if type(target.fs).mv is AbstractFileSystem.mv:  # copies, and takes ? and * in a name for a pattern
        target.fs.cp_file(half, target.path)
        target.fs.rm_file(half)
    else:
        target.fs.mv(half, target.path)
