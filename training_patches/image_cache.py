"""Image feature cache: training shards and a frozen image tower -> shards that hold features in place of pictures.

Role: `--id-cache-images DIR`. Beside each training shard's name DIR gets a tar whose samples hold `features.npy` in place of the
picture, and a note of what it was made from: the shard's content, the tower's weights and preprocessing. A tar whose
note says something else is refused. Samples keep their face embeddings, so that only the owner may read the files.
"""

import argparse
import hashlib
import io
import json
import logging
import re
import tarfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures import DECODER_VERSION
from open_clip_idplugin.storage.arrays import read_array
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text
from training_patches.host_flags import switch
from training_patches.image_features import EncodedShard, Members, encoded_shards
from webdataset_tools.sample_format import IMAGE, SIZES_FILE, Sample, members_to_sample, shard_paths

FEATURES = "features.npy"  # member of a cached sample: [D] float16 or float32

_POLL = 0.5  # seconds between two looks for the shards of other processes
_REMINDER = 60.0  # seconds between two messages while waiting


@dataclass
class CacheNote:
    """What a cached shard was made from, and what is in it; stored beside the tar, after it."""

    shard: str
    shard_bytes: int
    shard_modified: int  # nanoseconds; where it differs the content decides
    shard_sha256: str
    image_tower: str  # fingerprint
    dtype: str
    samples: int
    skipped: dict[str, str] = field(default_factory=dict)  # key -> reason


@dataclass(frozen=True)
class Entry:
    """A training shard and the places of its features."""

    shard: Path
    tar: Path

    @property
    def note(self) -> Path:
        """The file beside the tar, there once the tar is whole."""
        return self.tar.with_suffix(".json")

    def is_whole(self) -> bool:
        """Whether both files are there."""
        return self.note.exists() and self.tar.exists()


def cached_shards(model: Any, preprocess: Any, args: argparse.Namespace, folder: str, dtype: str) -> list[str]:
    """Make the missing features of the host's `args.train_data` and return the shards to train from instead.

    model: the bare model, its image tower frozen; preprocess: the host's transform for evaluation. With several
    processes each makes its part and waits for the others. Raises IdClipError when the folder holds features of
    another tower, preprocessing, dtype or shard, and for shards that are not local files.
    """
    entries = _entries(shard_paths(args.train_data), Path(folder))
    tower = _fingerprint(model, preprocess)
    made = [_is_made(entry, tower, dtype) for entry in entries]
    logging.info(f"Image features in {folder}: {sum(made)} of {len(entries)} shards are there.")
    # By place in the list of all, which every process knows, not among the missing, which become fewer meanwhile.
    own = range(args.rank, len(entries), args.world_size)
    mine = [entries[number] for number in own if not made[number]]
    if mine:
        _make(mine, model, preprocess, args, tower, dtype)
    _wait(entries)
    notes = [_read(entry) for entry in entries]
    if args.rank == 0:
        sizes = {entry.tar.name: note.samples for entry, note in zip(entries, notes)}
        atomic_write(Path(folder) / SIZES_FILE, json_text(_known_sizes(Path(folder)) | sizes, indent=1))
    return [str(entry.tar) for entry in entries]


def require_cacheable(model: Any, args: argparse.Namespace) -> None:
    """Refuse, in one sentence, a run whose image features change while it trains or that needs the pictures."""
    if model.identity_cfg.changes_image_features or any(p.requires_grad for p in model.visual.parameters()):
        raise IdClipError(
            "--id-cache-images needs image features that stay as they are: add --lock-image (without unlocked groups), and "
            "leave out visual prompts and LoRA in the image tower."
        )
    for flag, given in (
        ("--distill-model", args.distill),
        ("--train-data-upsampling-factors", args.train_data_upsampling_factors),
        ("--fsdp", switch(args, "fsdp")),  # each process makes its part of the features, and none has the whole tower
    ):
        if given:
            raise IdClipError(f"--id-cache-images does not go together with {flag}; drop one of them.")


def cached_sample(members: Members) -> Sample:
    """Build a Sample whose image bytes are the features; raises IdClipError as `members_to_sample` does."""
    return members_to_sample({**members, IMAGE: members.get(FEATURES, b"")})


def read_features(content: bytes) -> torch.Tensor:
    """Content of `features.npy` -> [D] float32; raises IdClipError when it is damaged."""
    try:
        return torch.from_numpy(read_array(content).astype(np.float32))
    except (ValueError, EOFError, OSError) as error:
        raise IdClipError(f"the cached image features are damaged ({error}); delete the cache") from None


def _entries(shards: list[str], folder: Path) -> list[Entry]:
    remote = next((shard for shard in shards if "://" in shard or shard.startswith("pipe:")), None)
    if remote:
        raise IdClipError(
            f"--id-cache-images reads shards from a disk, and {remote} is none; copy the shards there first."
        )
    paths = [Path(shard).resolve() for shard in shards]
    entries = [Entry(path, folder / f"{path.parent.name}-{path.stem}.tar") for path in paths]
    if len({entry.tar for entry in entries}) < len(entries):
        raise IdClipError(
            "two training shards have the same name and the same folder name, so that their cached features would be "
            "confused; rename one of the folders."
        )
    return entries


def _fingerprint(model: Any, preprocess: Any) -> str:
    """One for what determines the features: the tower as an index knows it, the transform, which flags may change, and the
    picture decoder.
    """
    transform = re.sub(r" at 0x[0-9a-f]+", "", repr(preprocess))  # functions print their address
    facts = f"{fingerprint_image_tower(model)}\n{transform}\ndecoder {DECODER_VERSION}"
    return hashlib.sha256(facts.encode()).hexdigest()


def _is_made(entry: Entry, tower: str, dtype: str) -> bool:
    """Whether the features are there; raises IdClipError where they are those of something else."""
    if not entry.is_whole():
        return False
    note = _read(entry)
    state = entry.shard.stat()
    other = None
    if note.image_tower != tower:
        other = "another image tower or preprocessing"
    elif note.dtype != dtype:
        other = f"--id-cache-dtype {note.dtype}"
    elif note.shard_bytes != state.st_size or (
        note.shard_modified != state.st_mtime_ns and note.shard_sha256 != file_sha256(entry.shard)
    ):
        other = f"another content of {entry.shard}"
    if other:
        raise IdClipError(
            f"the image features {entry.tar} were made with {other}; name another folder with --id-cache-images or delete "
            "this one."
        )
    return True


def _read(entry: Entry) -> CacheNote:
    try:
        return CacheNote(**json.loads(entry.note.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise IdClipError(
            f"the note {entry.note} is damaged ({error}); delete it, and its shard is made again."
        ) from None


def _known_sizes(folder: Path) -> dict[str, int]:
    """Sizes of shards that other runs cached in the same folder."""
    try:
        return dict(json.loads((folder / SIZES_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _make(entries: list[Entry], model: Any, preprocess: Any, args: argparse.Namespace, tower: str, dtype: str) -> None:
    """Compute and write the features of some shards, one after another."""
    lost: dict[str, str] = {}
    for encoded in encoded_shards([str(entry.shard) for entry in entries], model, preprocess, args, dtype):
        _write(entries[encoded.number], encoded, tower, dtype)
        lost |= encoded.skipped
    if lost:
        logging.warning(f"Image features leave out {len(lost)} samples, such as {next(iter(lost.items()))}.")


def _write(entry: Entry, encoded: EncodedShard, tower: str, dtype: str) -> None:
    """The tar, then its note."""
    state = entry.shard.stat()
    try:
        with atomic_path(entry.tar, PRIVATE) as temporary, tarfile.open(temporary, "w") as tar:
            for members, features in encoded.rows:
                contents = {name: content for name, content in members.items() if not name.startswith("__")}
                for name, content in (contents | {FEATURES: _to_npy(features)}).items():
                    member = tarfile.TarInfo(f"{members['__key__']}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        digest = file_sha256(entry.shard)
        note = CacheNote(
            shard=str(entry.shard),
            shard_bytes=state.st_size,
            shard_modified=state.st_mtime_ns,
            shard_sha256=digest,
            image_tower=tower,
            dtype=dtype,
            samples=len(encoded.rows),
            skipped=encoded.skipped,
        )
        atomic_write(entry.note, json_text(asdict(note), indent=1))
    except OSError as error:
        raise IdClipError(f"cannot write {entry.tar}: {error}; run the same command again to go on.") from error


def _to_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _wait(entries: list[Entry]) -> None:
    """Until other processes have made their part, which may take longer than a backend's timeout."""
    said = time.monotonic()
    while waiting := [entry for entry in entries if not entry.is_whole()]:
        if time.monotonic() - said > _REMINDER:
            said = time.monotonic()
            logging.info(f"Waiting for the image features of {len(waiting)} shards that other processes make.")
        time.sleep(_POLL)
