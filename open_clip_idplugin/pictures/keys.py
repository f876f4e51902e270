r"""Picture keys: file names in any encoding <-> text that can be stored, joined and printed.

A key is the path below the collection's root, with /. Names are bytes to a file system, and old ones are often no UTF-8; such
bytes stand in the key as `\xfc`, and the file is found again by it. Names that are text are their own keys.
"""

import os
import re
from pathlib import Path

from open_clip_idplugin.storage.locations import Location

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def key_of(name: str) -> str:
    """The key of a file's name or path, as the system or a tar gave it (undecodable bytes as lone surrogates)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return name


def place_of(root: Location, key: str) -> Location:
    """Where the picture of a key lies below `root`."""
    place = root / key
    if "\\x" in key and isinstance(place, Path) and not os.path.lexists(place):
        return root / os.fsdecode(_ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), key.encode()))
    return place


def label_of(shard: str | None, key: str) -> str:
    """The name of a picture in reports."""
    return key if shard is None else f"{shard}/{key}"
