"""The samples of tar shards for clip-retrieval's data loader, whatever the format of each picture.

Role: shards -> {"image_filename", "image_tensor", "shard", "picture_path", "text", "text_tokens", "metadata"}, the form in which
clip-retrieval's `WebdatasetReader` gives them. That one is not used: it reads the pictures of one extension and leaves out all
others, and opens files with any decoder that Pillow has, before ours sees them.
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from open_clip_idplugin.pictures.keys import key_of
from open_clip_idplugin.pictures.tar_samples import BROKEN_TAR, Members, picture_member, read_member, tar_samples
from open_clip_idplugin.retrieval.index.sources import CAPTION_MEMBER, RECORD_MEMBER, ImageSource, Shard


class ShardPictures(IterableDataset[dict[str, Any]]):
    """A process reads whole shards, as in webdataset; a shard that breaks off gives what lies before the damage."""

    def __init__(
        self,
        shards: Sequence[Shard],
        decode: Callable[[bytes], Any],
        tokenize: Callable[[list[str]], torch.Tensor],
        source: ImageSource,
    ) -> None:
        """`source`: whether all of its samples have captions and records, which are then read."""
        self._paths = [shard.path for shard in shards]
        self._decode = decode
        self._tokenize = tokenize
        self._captions, self._records = source.has_captions, source.has_records

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for path in self._paths[first::step]:
            try:
                with tarfile.open(path) as tar:
                    for key, members in tar_samples(tar):
                        member = picture_member(members)
                        if member is not None:
                            yield {**self._sample(tar, key, members, member), "shard": path.name}
            except BROKEN_TAR:
                continue

    def _sample(self, tar: tarfile.TarFile, key: str, members: Members, member: str) -> dict[str, Any]:
        sample: dict[str, Any] = {
            "image_filename": key,
            "image_tensor": self._decode(read_member(tar, members[member])),
            "picture_path": key_of(members[member].name),
        }
        if self._captions:
            caption = _text(tar, members, CAPTION_MEMBER)
            sample |= {"text_tokens": self._tokenize([caption])[0], "text": caption}
        if self._records:
            sample["metadata"] = _text(tar, members, RECORD_MEMBER)
        return sample


def _text(tar: tarfile.TarFile, members: Members, extension: str) -> str:
    """Text of a member; empty where a shard that has changed since it was listed lacks it."""
    return read_member(tar, members[extension]).decode("utf-8", "replace") if extension in members else ""
