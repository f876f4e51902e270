"""What is to be indexed: tar shards or a folder of pictures, listed and counted before anything is embedded.

Role: a path, glob or brace pattern -> `ImageSource`. Reads names only, never pixels. Shards are expected in clip-retrieval's
form: a picture per sample, and optionally a caption (.txt) and metadata (.json).
"""

import contextlib
import tarfile
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.formats import PICTURE_EXTENSIONS
from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.pictures.passed_over import PassedOver, passed_over_lines, to_json
from open_clip_idplugin.pictures.tar_samples import BROKEN_TAR, picture_member, tar_samples
from open_clip_idplugin.pictures.walk import FoundPictures, digest_of, walk_pictures

CAPTION_MEMBER = "txt"
RECORD_MEMBER = "json"


class SourceError(IdClipError):
    """There is nothing to index where the user pointed to."""


@dataclass(frozen=True)
class Shard:
    """One tar file and what its samples hold (counts of samples)."""

    path: Path
    samples: int  # with a picture
    captions: int
    records: int
    readable: bool  # False when the tar breaks off


@dataclass(frozen=True)
class ImageSource:
    """Pictures to index: `shards` (without the keys of `left_out`), or else the pictures of `folder` under their `keys`
    (relative paths, see `pictures.keys`) of `sizes` bytes; and what the walk passed over."""

    shards: tuple[Shard, ...] = ()
    folder: Path | None = None
    keys: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    sizes: tuple[int, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)  # key of an exact copy -> of the picture that is indexed

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
    def has_captions(self) -> bool:
        """Whether *every* sample has a caption: clip-retrieval's reader would drop the others silently."""
        return bool(self.shards) and all(shard.captions == shard.samples for shard in self.shards)

    @property
    def has_records(self) -> bool:
        """Whether *every* sample has a metadata record (see `has_captions`)."""
        return bool(self.shards) and all(shard.records == shard.samples for shard in self.shards)

    def describe(self) -> dict[str, Any]:
        """JSON values that tell two sources apart: relative names and sizes, no paths."""
        if self.shards:
            files = [[shard.path.name, shard.path.stat().st_size] for shard in self.shards]
            return {"kind": "shards", "files": files, "images": self.count}
        sizes = self.sizes or tuple(place_of(self.folder or Path(), key).stat().st_size for key in self.keys)
        return {"kind": "folder", "images": self.count, "list_sha256": digest_of(self.keys, sizes)}

    def account(self) -> dict[str, Any]:
        """JSON values for a report: what there is beside the pictures to index."""
        return {"passed_over": to_json(self.passed_over), "exact_copies": self.copies}

    def account_lines(self) -> list[str]:
        """The same for a reader."""
        lines = passed_over_lines(self.passed_over)
        if self.copies:
            copy, first = next(iter(self.copies.items()))
            lines.append(f"exact copies: {len(self.copies):,}, each indexed once ({copy} is {first})")
        return lines


def find_images(images: str) -> ImageSource:
    """List the shards or pictures that `images` names.

    Args:
        images: a tar file, a brace pattern of tar files ("shards/{00000..00007}.tar"), a folder of tar files, a folder of
            pictures (searched with its subfolders; used when it holds no tar file), or a glob of either.

    Raises:
        SourceError: nothing there, or nothing that can be indexed.
    """
    try:
        found = walk_pictures(images, "--images")
    except IdClipError as error:
        raise SourceError(str(error)) from None
    if not isinstance(found.root, Path):
        raise SourceError(f"--images: {images} is no path of this machine: copy or mount the pictures first")
    if found.shards:
        return _scan_shards(found, images)
    return ImageSource(
        folder=found.root, keys=found.keys, sizes=found.sizes, passed_over=found.passed_over, copies=found.copies
    )


def without_keys(source: ImageSource, known: AbstractSet[str]) -> tuple[ImageSource, list[str]]:
    """The source without the pictures whose keys are known, and those keys; shards that hold nothing else are left out."""
    if not source.shards:
        rows = [row for row, key in enumerate(source.keys) if key not in known]
        left = tuple(source.keys[row] for row in rows)
        sizes = tuple(source.sizes[row] for row in rows) if source.sizes else ()
        return replace(source, keys=left, sizes=sizes), [key for key in source.keys if key in known]
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
    with contextlib.suppress(*BROKEN_TAR), tarfile.open(shard.path) as tar:
        keys.extend(key for key, members in tar_samples(tar) if picture_member(members))
    return keys


def _scan_shards(found: FoundPictures, images: str) -> ImageSource:
    from tqdm import tqdm

    paths = [Path(str(place)) for place in found.shards]
    shards = tuple(
        _scan_shard(path) for path in tqdm(paths, desc="Listing shards", unit="shard", disable=len(paths) < 8)
    )
    source = ImageSource(shards=shards, passed_over=found.passed_over)
    if not source.count:
        raise SourceError(f"--images: no sample of '{images}' has a picture ({', '.join(PICTURE_EXTENSIONS)})")
    return source


def _scan_shard(path: Path) -> Shard:
    captions = records = samples = 0
    readable = True
    try:
        with tarfile.open(path) as tar:
            for _, members in tar_samples(tar):
                if picture_member(members):
                    samples += 1
                    captions += CAPTION_MEMBER in members
                    records += RECORD_MEMBER in members
    except BROKEN_TAR:
        readable = False  # what comes before the damage is indexed; the report names the shard
    return Shard(path, samples, captions, records, readable)
