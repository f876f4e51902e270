"""What is to be indexed: tar shards or a folder of pictures, listed and counted before anything is embedded.

Role: a path or brace pattern -> `ImageSource`. Reads names only, never pixels. Shards are expected in
clip-retrieval's form: a picture per sample, and optionally a caption (.txt) and metadata (.json).
"""

import contextlib
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from open_clip_idplugin.errors import IdClipError

PICTURE_MEMBERS = ("jpg", "jpeg", "png", "webp", "bmp")
CAPTION_MEMBER = "txt"
RECORD_MEMBER = "json"
# A sample's key ends at the first dot of the file name; this is webdataset's rule.
_MEMBER = re.compile(r"((?:.*/|)[^/.]+)\.([^/]+)")
_BROKEN_TAR = (tarfile.TarError, OSError, EOFError)


class SourceError(IdClipError):
    """There is nothing to index where the user pointed to."""


@dataclass(frozen=True)
class Shard:
    """One tar file and what its samples hold (counts of samples)."""

    path: Path
    samples: int  # with a picture
    captions: int
    records: int
    picture_members: Counter[str]
    readable: bool  # False when the tar breaks off


@dataclass(frozen=True)
class ImageSource:
    """Pictures to index: `shards` (without the keys of `left_out`), or else the pictures of `folder` under their `keys`
    (relative paths)."""

    shards: tuple[Shard, ...] = ()
    folder: Path | None = None
    keys: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """Pictures there are, readable or not; those of shards that are left out count too."""
        return sum(shard.samples for shard in self.shards) if self.shards else len(self.keys)

    @property
    def name(self) -> str:
        """Of the folder that holds the shards or the pictures."""
        folder = self.shards[0].path.absolute().parent if self.shards else self.folder
        return folder.name if folder is not None else ""

    @property
    def picture_member(self) -> str:
        """The one file extension under which the shards' pictures are read: the most frequent."""
        members = sum((shard.picture_members for shard in self.shards), Counter[str]())
        return members.most_common(1)[0][0] if members else PICTURE_MEMBERS[0]

    @property
    def has_captions(self) -> bool:
        """Whether *every* sample has a caption: clip-retrieval's reader would drop the others silently."""
        return bool(self.shards) and all(shard.captions == shard.samples for shard in self.shards)

    @property
    def has_records(self) -> bool:
        """Whether *every* sample has a metadata record (see `has_captions`)."""
        return bool(self.shards) and all(shard.records == shard.samples for shard in self.shards)

    def describe(self) -> dict[str, Any]:
        """JSON values that tell two sources apart: names and sizes, no paths."""
        if self.shards:
            files = [[shard.path.name, shard.path.stat().st_size] for shard in self.shards]
            return {"kind": "shards", "files": files, "images": self.count}
        return {"kind": "folder", "name": self.folder.name if self.folder else "", "images": self.count}


def find_images(images: str) -> ImageSource:
    """List the shards or pictures that `images` names.

    Args:
        images: a tar file, a brace pattern of tar files ("shards/{00000..00007}.tar"), a folder of tar files, or a
            folder of pictures (searched with its subfolders; used when it holds no tar file).

    Raises:
        SourceError: nothing there, or nothing that can be indexed.
    """
    folder = Path(images)
    if folder.is_dir():
        paths = sorted(folder.glob("*.tar"))
        return _scan_shards(paths, images) if paths else _list_pictures(folder)
    from braceexpand import braceexpand

    paths = [Path(path) for path in braceexpand(images)]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise SourceError(f"--images: there is no file or folder '{missing[0]}' ({len(missing)} missing)")
    return _scan_shards(paths, images)


def without_keys(source: ImageSource, known: AbstractSet[str]) -> tuple[ImageSource, list[str]]:
    """The source without the pictures whose keys are known, and those keys; shards that hold nothing else are left out."""
    if not source.shards:
        left = tuple(key for key in source.keys if key not in known)
        return replace(source, keys=left), [key for key in source.keys if key in known]
    shards, found = [], []
    for shard in source.shards:
        keys = picture_keys(shard)
        found += [key for key in keys if key in known]
        if not set(keys) <= known:
            shards.append(shard)
    return replace(source, shards=tuple(shards), left_out=frozenset(found)), found


def picture_keys(shard: Shard) -> list[str]:
    """Keys of the shard's samples that have a picture, in order, up to where a damaged shard breaks off."""
    keys: list[str] = []
    with contextlib.suppress(*_BROKEN_TAR):
        keys.extend(key for key, members in _samples(shard.path) if _pictures(members))
    return keys


def _list_pictures(folder: Path) -> ImageSource:
    from clip_retrieval.clip_inference.reader import folder_to_keys

    keys, *_ = folder_to_keys(folder, enable_text=False, enable_image=True)
    if not keys:
        raise SourceError(
            f"--images: the folder '{folder}' holds neither tar files nor pictures (.jpg, .png, .webp, .bmp)"
        )
    return ImageSource(folder=folder, keys=tuple(keys))


def _scan_shards(paths: list[Path], images: str) -> ImageSource:
    from tqdm import tqdm

    shards = tuple(
        _scan_shard(path) for path in tqdm(paths, desc="Listing shards", unit="shard", disable=len(paths) < 8)
    )
    source = ImageSource(shards=shards)
    if not source.count:
        raise SourceError(f"--images: no sample of '{images}' has a picture ({', '.join(PICTURE_MEMBERS)})")
    return source


def _scan_shard(path: Path) -> Shard:
    captions = records = samples = 0
    found: Counter[str] = Counter()
    readable = True
    try:
        for _, members in _samples(path):
            pictures = _pictures(members)
            samples += bool(pictures)
            found.update(pictures[:1])
            captions += bool(pictures) and CAPTION_MEMBER in members
            records += bool(pictures) and RECORD_MEMBER in members
    except _BROKEN_TAR:
        readable = False  # what comes before the damage is indexed; the report names the shard
    return Shard(path, samples, captions, records, found, readable)


def _pictures(members: set[str]) -> list[str]:
    return [member for member in PICTURE_MEMBERS if member in members]


def _samples(path: Path) -> Iterator[tuple[str, set[str]]]:
    """(key, member extensions) of every run of members with one key, as webdataset groups them."""
    key, members = "", set[str]()
    with tarfile.open(path) as tar:
        for entry in tar:
            match = _MEMBER.fullmatch(entry.name) if entry.isfile() else None
            if match is None:
                continue
            if match[1] != key:
                if members:
                    yield key, members
                key, members = match[1], set()
            members.add(match[2].lower())
    if members:
        yield key, members
