"""SHA-256 of files: paths -> hex digest, block by block, however large they are."""

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def file_sha256(*paths: Path) -> str:
    """SHA-256 [64 hex digits] over the bytes of the files, one after the other; raises OSError where one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
