"""Image features: training shards and a frozen image tower -> unit rows, shard by shard.

Role: the computing side of `--id-cache-images`. Pictures are decoded by loader processes, prepared as for evaluation
(without random crops), and encoded in the run's precision.
"""

import argparse
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import webdataset
from open_clip import get_input_dtype
from open_clip_train.precision import get_autocast
from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from training_patches.pairs import Decoder
from webdataset_tools.sample_format import FACE_CROP, IMAGE, members_to_sample

_BATCH = 64  # pictures a forward pass; a shard's last batch has fewer

Members = Mapping[str, Any]


@dataclass
class EncodedShard:
    """A shard's samples without picture and crop, each with its feature row [D], and why others are left out."""

    number: int  # of the shard in the list
    rows: list[tuple[Members, np.ndarray]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # key -> reason


def encoded_shards(
    shards: Sequence[str], model: Any, preprocess: Any, args: argparse.Namespace, dtype: str
) -> Iterator[EncodedShard]:
    """Yield every shard once it is whole, so that a killed run goes on where it was.

    model: the bare model, its image tower frozen; preprocess: the host's transform for evaluation; args: the host's.
    Raises IdClipError for a shard that cannot be read and for features that are not finite.
    """
    loader: Any = torch.utils.data.DataLoader(
        _Pieces(list(shards), Decoder(preprocess)),
        batch_size=None,
        num_workers=min(args.workers, len(shards)),
    )
    encoded = {number: EncodedShard(number) for number in range(len(shards))}
    model.eval()
    with tqdm(desc="image features", unit="image", disable=args.rank != 0) as bar:
        for piece in loader:
            shard = encoded[piece.number]
            shard.rows += zip(piece.samples, _encode(model, piece.pixels, args, dtype))
            shard.skipped.update(piece.skipped)
            bar.update(len(piece.samples))
            if piece.last:
                yield encoded.pop(piece.number)


@dataclass
class _Piece:
    """Consecutive samples of one shard, decoded."""

    number: int  # of the shard
    samples: list[Members]
    pixels: torch.Tensor | None
    skipped: dict[str, str]
    last: bool


class _Pieces(torch.utils.data.IterableDataset[_Piece]):
    """Decoded batches of shards; each worker takes whole shards."""

    def __init__(self, shards: list[str], decode: Decoder) -> None:
        self.shards, self.decode = shards, decode

    def __iter__(self) -> Iterator[_Piece]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for number in range(worker, len(self.shards), workers):
            yield from self._pieces(number)

    def _pieces(self, number: int) -> Iterator[_Piece]:
        samples: list[Members] = []
        pixels: list[torch.Tensor] = []
        skipped: dict[str, str] = {}
        for members in _members(self.shards[number]):
            try:
                pixels.append(self.decode(members_to_sample(members).image_bytes))
            except IdClipError as error:
                skipped[members["__key__"]] = str(error)
                continue
            samples.append({name: content for name, content in members.items() if name not in (IMAGE, FACE_CROP)})
            if len(samples) == _BATCH:
                yield _Piece(number, samples, torch.stack(pixels), skipped, last=False)
                samples, pixels, skipped = [], [], {}
        yield _Piece(number, samples, torch.stack(pixels) if pixels else None, skipped, last=True)


def _members(shard: str) -> Iterator[Members]:
    """Undecoded samples of one shard; raises IdClipError where it cannot be read to its end."""
    reader = webdataset.DataPipeline(
        webdataset.SimpleShardList([shard]), webdataset.tarfile_to_samples(handler=webdataset.reraise_exception)
    )
    try:
        yield from reader
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IdClipError(f"the training shard {shard} cannot be read ({error}); pack it or copy it again.") from None


def _encode(model: Any, pixels: torch.Tensor | None, args: argparse.Namespace, dtype: str) -> np.ndarray:
    """[b, 3, H, W] -> [b, D] unit rows, in the precision of the run."""
    if pixels is None:
        return np.zeros((0, 0), dtype)
    device = torch.device(args.device)
    pixels = pixels.to(device=device, dtype=get_input_dtype(args.precision))
    with torch.inference_mode(), get_autocast(args.precision, device_type=device.type)():
        features = model.encode_image(pixels, normalize=True).float()
    if not bool(torch.isfinite(features).all()):
        raise IdClipError(f"--precision {args.precision} gives image features that are not finite; choose another one.")
    rows: np.ndarray = features.cpu().numpy().astype(dtype)
    return rows
