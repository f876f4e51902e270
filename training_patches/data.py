"""Training batches: the host's webdataset loader -> the same loader, whose batches hold images and an IdentityText.

Role: open_clip_train builds its loader (shard list, splitting over ranks and workers, epoch length, sizes.json,
processes) and this module exchanges the stages behind the tar reader. Input: the host's DataInfo; output: the same
DataInfo, whose batches are images [B, 3, H, W] and an IdentityText of one row a setup for each of them, in an order that
depends on nothing but seed, epoch, rank and worker. Every stage is a picklable object and none needs a patch, so that
spawned workers run it.
"""

import argparse
import inspect
import itertools
import logging
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import webdataset
from open_clip_train.data import (
    _SAMPLE_SHUFFLE_INITIAL,
    _SAMPLE_SHUFFLE_SIZE,
    DataInfo,
    SharedEpoch,
    group_by_keys_nothrow,
    log_and_continue,
)
from webdataset.filters import _shuffle
from webdataset.tariterators import tar_file_expander, url_opener

from open_clip_idplugin.errors import HostMismatchError, IdClipError
from open_clip_idplugin.faces.model_identity import agreed_model
from open_clip_idplugin.identity_text import IdentityText
from training_patches.grouping import GroupedOrder
from training_patches.pairs import Pair, PairMaker
from training_patches.params import NO_GROUPS, IdentityOptions
from webdataset_tools.sample_format import Sample, members_to_sample, read_samples, shard_paths

_HOPELESS = 1000  # samples in a row from the start of an epoch, none of them usable

# Stages of the host's training pipelines, by the name of their function: the tar reader, and what may stand behind it.
_TAR_READER = "tarfile_to_samples_nothrow"


class EndlessPairs(torch.utils.data.IterableDataset[Pair]):
    """Pairs of one worker without end: one pass over its shards after another, each in an order of its own.

    The source of a pipeline, so that a batch may begin in one pass and end in the next: nothing is dropped at the end
    of a pass, and few samples make no empty pass. Samples that cannot be used are skipped and counted.
    """

    def __init__(
        self,
        reader: Sequence[Any],
        make_pair: PairMaker,
        shared_epoch: SharedEpoch,
        order: GroupedOrder | None = None,
        read_sample: Callable[[Mapping[str, Any]], Sample] = members_to_sample,
    ) -> None:
        """`reader`: the stages up to the tar reader; `order`: how batches are grouped, at random without one."""
        self.reader = webdataset.DataPipeline(*reader)
        self.make_pair = make_pair
        self.shared_epoch = shared_epoch
        self.order = order
        self.read_sample = read_sample

    def __iter__(self) -> Iterator[Pair]:
        """Yield pairs of the shared epoch; raises IdClipError when a whole pass yields none."""
        epoch = self.shared_epoch.get_value()
        self._seed_transforms(epoch)
        occurrences: Counter[str] = Counter()
        skipped = SkippedSamples()
        made = 0

        def position() -> int:
            return made

        for number in itertools.count():
            before = made
            for members in self._ordered(epoch, number, position):
                pair = self._pair(members, epoch, occurrences, skipped)
                if pair is not None:
                    made += 1
                    yield pair
                elif not occurrences and skipped.count == _HOPELESS:
                    break  # a pass over resampled shards would never end
            if made == before:
                raise IdClipError(f"a data worker found no usable sample in its shards{skipped}.")

    def _seed_transforms(self, epoch: int) -> None:
        # Random crops follow from the epoch too, so that a resumed run sees what an unbroken one would.
        rng = self._rng(epoch, "transforms")
        random.seed(rng.getrandbits(32))
        np.random.seed(rng.getrandbits(32))
        torch.manual_seed(rng.getrandbits(32))

    def _rng(self, *what: object) -> random.Random:
        rank, _, worker, _ = webdataset.utils.pytorch_worker_info()
        return random.Random("/".join(map(str, (self.make_pair.seed, rank, worker, *what))))

    def _ordered(self, epoch: int, number: int, made: Callable[[], int]) -> Iterator[Mapping[str, Any]]:
        if self.order is not None:
            return self.order(iter(self.reader), self._rng(epoch, number), made)
        # The host's sample shuffle is seeded by clock and process id; a run that can be repeated needs this one.
        return _shuffle(iter(self.reader), _SAMPLE_SHUFFLE_SIZE, _SAMPLE_SHUFFLE_INITIAL, self._rng(epoch, number))

    def _pair(
        self, members: Mapping[str, Any], epoch: int, occurrences: "Counter[str]", skipped: "SkippedSamples"
    ) -> Pair | None:
        try:
            sample = self.read_sample(members)
            pair = self.make_pair(sample, epoch, occurrences[sample.key])
        except IdClipError as error:
            skipped.note(members, error)
            return None
        occurrences[sample.key] += 1
        return pair


class SkippedSamples:
    """Counts the samples one worker could not use, and logs them without flooding."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def note(self, members: Mapping[str, Any], error: IdClipError) -> None:
        """Count one sample; the first ten and then every hundredth are logged as warnings."""
        self.count += 1
        self.last = str(error)
        if self.count <= 10 or self.count % 100 == 0:
            where = f"{members.get('__key__')} of {members.get('__url__')}"
            logging.warning(f"Skipping sample {where}: {error} ({self.count} skipped by this worker in this epoch)")

    def __str__(self) -> str:
        return f" ({self.count} skipped, the last because {self.last})" if self.count else ""


def collate_pairs(pairs: Sequence[Pair]) -> Pair:
    """B pairs -> (images [B, 3, H, W] or features [B, D], IdentityText of B * setups rows, those of an image together)."""
    images, texts = zip(*pairs)
    return torch.stack(images), IdentityText.collate(list(texts))


def collate_to_dict(pairs: Sequence[Pair]) -> dict[str, Any]:
    """As `collate_pairs`, by the names that open_clip's main gives the parts of a batch."""
    images, text = collate_pairs(pairs)
    return {"image": images, "text": text}


def collate_to_tensors(pairs: Sequence[Pair]) -> dict[str, Any]:
    """As `collate_to_dict`; the text is a dictionary too, because the host's tasks move plain tensors and dictionaries."""
    images, text = collate_pairs(pairs)
    return {"image": images, "text": text.to_dict()}


_COLLATE = {
    # open_clip 2.32 and 3.3: (images, texts) = batch
    ("_shuffle", "_select", "_decode", "_rename", "_map_dict", "_to_tuple", "_batched"): collate_pairs,
    # open_clip_train.legacy_main of open_clip's main: texts = batch["text"].to(...)
    ("_shuffle", "_select", "_decode", "_rename", "_select", "_map_dict", "_batched"): collate_to_dict,
    # open_clip_train.main of open_clip's main: batch = task.prepare_batch(batch, ...)
    (
        "_shuffle",
        "_select",
        "_rename",
        "_select",
        "_map_dict",
        "_map_dict",
        "_map_dict",
        "_batched",
    ): collate_to_tensors,
}


def use_identity_pairs(
    info: DataInfo,
    make_pair: PairMaker,
    batch_size: int,
    order: GroupedOrder | None = None,
    read_sample: Callable[[Mapping[str, Any]], Sample] = members_to_sample,
) -> None:
    """Let the host's training loader yield identity pairs, in place.

    Everything up to the tar reader stays: the shard list, its shuffling or resampling, the split over ranks and
    workers. Raises HostMismatchError when the host's pipeline has other stages than the ones this was written for.
    """
    dataset = info.dataloader.pipeline[0].dataset
    names = [_stage_name(stage) for stage in dataset.pipeline]
    reader_end = names.index(_TAR_READER) + 1 if _TAR_READER in names else 0
    collate = _COLLATE.get(tuple(names[reader_end:]))
    if collate is None:
        known = " or ".join(map(str, _COLLATE))
        raise HostMismatchError(f"open_clip_train's webdataset pipeline is {names}; it was to end in {known}")
    reader = dataset.pipeline[:reader_end]
    if "eof_value" in inspect.signature(tar_file_expander).parameters:
        reader[-1] = _read_tars
    dataset.pipeline = [
        EndlessPairs(reader, make_pair, info.shared_epoch, order, read_sample),
        webdataset.batched(batch_size, collation_fn=collate, partial=False),
    ]


def _read_tars(urls: Iterable[Any], handler: Callable[[Exception], bool] = log_and_continue) -> Iterator[Any]:
    """The host's `tarfile_to_samples_nothrow` without the empty samples that webdataset 1 puts at the end of a shard.

    The host takes them for members of a tar. A function of this module, so that spawned workers find it.
    """
    files = tar_file_expander(url_opener(urls, handler=handler), handler=handler, eof_value=None)
    samples: Iterator[Any] = group_by_keys_nothrow(files, handler=handler)
    return samples


def batch_order(options: IdentityOptions, batch_size: int) -> GroupedOrder | None:
    """What `--id-batch-groups` and its companions ask for; None is random order."""
    if options.batch_groups == NO_GROUPS:
        return None
    return GroupedOrder(options.batch_groups, options.group_share, options.group_size, options.group_buffer, batch_size)


def check_training_shards(args: argparse.Namespace, face_dim: int) -> str | None:
    """Refuse, before anything is loaded, shards that cannot train: missing, too few, of another form or face encoder.

    `args` is the host's namespace after it has joined its ranks. Returns the face model that made the embeddings, None
    where the shards do not say. Raises IdClipError.
    """
    paths = shard_paths(args.train_data)
    readers = max(1, args.workers) * args.world_size
    if len(paths) < readers and not args.dataset_resampled:
        fewer = len(paths) // args.world_size
        raise IdClipError(
            f"{len(paths)} training shards cannot feed {args.workers} workers on each of {args.world_size} processes: "
            f"pack at least {readers} shards, or pass {f'--workers {fewer} or ' if fewer else ''}--dataset-resampled."
        )
    samples = [_first_sample(path, face_dim) for path in _one_of_each_folder(paths)]
    models = [sample.record.face_model for sample in samples]
    return agreed_model(models, "the training shards")


def _one_of_each_folder(paths: Sequence[str]) -> list[str]:
    return list({path.rpartition("/")[0]: path for path in reversed(paths)}.values())


def _first_sample(path: str, face_dim: int) -> Sample:
    try:
        sample = next(read_samples([path]), None)
    except (tarfile.TarError, OSError) as error:
        raise IdClipError(f"the training shard {path} cannot be read ({error}).") from None
    if sample is None:
        raise IdClipError(f"the training shard {path} is empty; make shards with `idclip shards`.")
    if len(sample.face) != face_dim:
        raise IdClipError(
            f"the face embeddings in {path} have {len(sample.face)} numbers and the model takes {face_dim}; "
            "set face_dim in its identity_cfg or pack shards with the face encoder it was made for."
        )
    return sample


def _stage_name(stage: Any) -> str:
    function = getattr(stage, "f", stage)  # webdataset's curried stages hold their function as `f`
    return getattr(function, "__name__", type(stage).__name__)
