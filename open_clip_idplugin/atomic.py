"""Files that are there whole or not at all: write to a temporary name beside the target, then rename.

Role: every output of this project passes through here, so that a killed run never leaves half a file under a final name.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600  # biometric data: only the owner may read
PUBLIC = 0o644


@contextmanager
def atomic_path(target: str | os.PathLike[str], mode: int = PUBLIC) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to `target` if the block succeeds, else remove it.

    The file is flushed to disk before the rename. `mode` is the permission of the finished file and of the
    temporary one from its first byte on.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)  # created 0o600
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(target: str | os.PathLike[str], content: bytes | str, mode: int = PUBLIC) -> None:
    """Write `content` (text as UTF-8) to `target` through `atomic_path`."""
    with atomic_path(target, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
