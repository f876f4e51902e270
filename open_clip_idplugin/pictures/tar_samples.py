"""Samples of tar shards: consecutive members with one key, as webdataset groups them.

Role: an open tar -> (key, extension -> member) for every sample, and which member is its picture. Shards may mix pictures of any
format: what counts is the sample, not the shard's most frequent extension.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping

from open_clip_idplugin.pictures.formats import PICTURE_EXTENSIONS
from open_clip_idplugin.pictures.keys import key_of

BROKEN_TAR = (tarfile.TarError, OSError, EOFError)
# A sample's key ends at the first dot of the file name; this is webdataset's rule.
_MEMBER = re.compile(r"((?:.*/|)[^/.]+)\.([^/]+)", re.DOTALL)

Members = dict[str, tarfile.TarInfo]


def tar_samples(tar: tarfile.TarFile) -> Iterator[tuple[str, Members]]:
    """(key, members by extension in lower case) of every sample, in order; raises one of BROKEN_TAR where a tar breaks off."""
    key, members = "", Members()
    for entry in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        match = _MEMBER.fullmatch(entry.name) if entry.isfile() else None
        if match is None:
            continue
        if key_of(match[1]) != key:
            if members:
                yield key, members
            key, members = key_of(match[1]), {}
        members[match[2].lower()] = entry
    if members:
        yield key, members


def picture_member(members: Mapping[str, object]) -> str | None:
    """The extension of a sample's picture; of several, the first in the order of PICTURE_EXTENSIONS."""
    return next((extension for extension in PICTURE_EXTENSIONS if extension in members), None)


def read_member(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """Content of a member; raises one of BROKEN_TAR where it breaks off."""
    content = tar.extractfile(entry)
    return content.read() if content is not None else b""
