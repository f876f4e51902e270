"""Plan of shards: samples -> which shard each is in, so that any prefix of the shards is a fair sample of all of them.

Role: samples, seed and shard size -> tasks. The rule: an identity's samples stand at equal distances on a line from 0 to 1, and
the first of them at an offset of the identity's own; who has n of N samples has about n/N of them in every stretch of the
line. The offsets of identities that are alike (same attributes, such as gender, and as many samples) follow the golden ratio,
which keeps them evenly apart, so that each such group is spread evenly too. Which of an identity's samples takes which of
its places is up to the scenes and the attributes: the one whose scene and attributes are most behind their share comes next.
The line is cut into shards; inside a shard the order is random. All of this depends on the samples and the seed alone.
"""

import math
import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from webdataset_tools.release import ReleaseSample
from webdataset_tools.sample_format import FACE_CROP_BYTES
from webdataset_tools.shard_writer import ShardTask

SAMPLES_PER_SHARD = 1000

_GOLDEN = (math.sqrt(5) - 1) / 2
_LOOK_AHEAD = 32  # samples of an identity among which the next is chosen
_MOST_VALUES = 32  # of an attribute; one with more is text or a number, not a group
_BLOCK = 512  # of a tar: every member has a header of one block and is filled up to whole blocks
_RECORD_BYTES = 400  # of a record, beside its captions
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


def plan_shards(samples: Sequence[ReleaseSample], samples_per_shard: int, seed: int) -> list[ShardTask]:
    """Deal the samples into as few shards as possible, which differ by one sample at most."""
    ordered = fair_order(samples, seed)
    count = math.ceil(len(ordered) / samples_per_shard)
    return _cut(ordered, [len(ordered) * number // count for number in range(count + 1)], seed)


def plan_shards_by_size(
    samples: Sequence[ReleaseSample], sizes: Sequence[int], bytes_per_shard: int, seed: int
) -> list[ShardTask]:
    """Deal the samples into as few shards of about `bytes_per_shard` as possible; `sizes` are theirs inside a tar."""
    size_of = {sample.key: size for sample, size in zip(samples, sizes, strict=True)}
    ordered = fair_order(samples, seed)
    ends = list(accumulate(size_of[sample.key] for sample in ordered))
    count = min(math.ceil(ends[-1] / bytes_per_shard), len(ordered))
    borders, at = [0], 0
    for number in range(1, count):
        at = max(at + 1, min(len(ordered) - (count - number), _nearest(ends, ends[-1] * number / count)))
        borders.append(at)
    return _cut(ordered, [*borders, len(ordered)], seed)


def _nearest(ends: Sequence[int], wanted: float) -> int:
    """Return after how many samples the sum of the sizes is nearest to `wanted`."""
    from bisect import bisect_left

    after = bisect_left(ends, wanted)
    before = ends[after - 1] if after else 0
    return after if wanted - before <= ends[after] - wanted else after + 1


def _cut(ordered: Sequence[ReleaseSample], borders: Sequence[int], seed: int) -> list[ShardTask]:
    tasks = []
    for number, (start, end) in enumerate(pairwise(borders)):
        inside = list(ordered[start:end])
        random.Random(f"{seed} {number}").shuffle(inside)
        tasks.append(ShardTask(f"{number:05d}", inside))
    return tasks


def fair_order(samples: Sequence[ReleaseSample], seed: int) -> list[ReleaseSample]:
    """Return the samples so that each identity, scene and attribute is spread evenly from the first to the last."""
    source = random.Random(seed)
    shuffled = sorted(samples, key=lambda sample: sample.key)
    source.shuffle(shuffled)
    scenes = _lay_out(shuffled, lambda sample: sample.image_id, source)
    shuffled.sort(key=lambda sample: scenes[sample.key])
    people = _lay_out(shuffled, lambda sample: sample.identity_id, source)
    turns = [sample.identity_id for sample in sorted(shuffled, key=lambda sample: (people[sample.key], sample.key))]
    return _take_turns(turns, shuffled)


def _lay_out(
    samples: Sequence[ReleaseSample], group_of: Callable[[ReleaseSample], Hashable], source: random.Random
) -> dict[str, float]:
    """Return each sample's place from 0 to 1; those of a group keep their order and stand at equal distances."""
    groups: dict[Hashable, list[ReleaseSample]] = {}
    for sample in samples:
        groups.setdefault(group_of(sample), []).append(sample)
    alike = sorted(groups.values(), key=lambda group: (_shared_attributes(group), len(group)))  # stable: else random
    start = source.random()
    places = {}
    for number, group in enumerate(alike):
        offset = (start + number * _GOLDEN) % 1
        for index, sample in enumerate(group):
            places[sample.key] = (index + offset) / len(group)
    return places


def _take_turns(turns: Sequence[str], samples: Sequence[ReleaseSample]) -> list[ReleaseSample]:
    """Return a sample of each turn's identity: of its next ones in `samples`, that of the scene and attributes most behind."""
    marks = _marks(samples)
    share = np.bincount(marks.ravel()) / len(turns)  # of each mark, a turn
    share[0] = 0
    taken = np.zeros(len(share))
    waiting: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        waiting.setdefault(sample.identity_id, []).append(number)
    queues = {identity_id: np.array(numbers) for identity_id, numbers in waiting.items()}
    ordered = []
    for turn, identity_id in enumerate(turns, 1):
        queue = queues[identity_id]
        near = marks[queue[:_LOOK_AHEAD]]
        place = int((turn * share[near] - taken[near]).sum(1).argmax())
        chosen = queue[place]
        queue[1 : place + 1] = queue[:place].copy()
        queues[identity_id] = queue[1:]
        taken[marks[chosen]] += 1
        taken[0] = 0
        ordered.append(samples[chosen])
    return ordered


def _marks(samples: Sequence[ReleaseSample]) -> np.ndarray:
    """Return [N, M] numbers of what is to be spread beside the identities: scenes, and attributes of few values (0: none)."""
    values: dict[str, set[str]] = {}
    for sample in samples:
        for name, value in sample.attributes.items():
            values.setdefault(name, set()).add(str(value))
    names = [name for name, found in values.items() if 1 < len(found) <= _MOST_VALUES]
    numbers: dict[Hashable, int] = {}
    marks = np.zeros((len(samples), 1 + len(names)), np.int64)
    for row, sample in enumerate(samples):
        marks[row, 0] = numbers.setdefault(sample.image_id, len(numbers) + 1)
        for column, name in enumerate(names, 1):
            if name in sample.attributes:
                marks[row, column] = numbers.setdefault((name, str(sample.attributes[name])), len(numbers) + 1)
    return marks


def _shared_attributes(group: Sequence[ReleaseSample]) -> str:
    """Return what the release notes alike about all samples of a group, such as the gender of their person."""
    shared = dict(group[0].attributes)
    for sample in group[1:]:
        if not shared:
            break
        shared = {name: value for name, value in shared.items() if sample.attributes.get(name) == value}
    return json_text(shared, sort_keys=True, default=str)


def sizes_in_tar(samples: Sequence[ReleaseSample], images: Location, with_crops: bool) -> list[int]:
    """Return about how many bytes each sample takes inside a tar; crops, which are made later, count as one size.

    Raises IdClipError when the store cannot tell the size of the images.
    """
    image_sizes = _image_sizes(images, [sample.file_name for sample in samples])
    crop = _BLOCK + _whole_blocks(FACE_CROP_BYTES) if with_crops else 0
    sizes = []
    for sample in samples:
        captions = [len(caption.encode()) for caption in sample.captions]
        members = (
            image_sizes[sample.file_name],
            sample.face.nbytes + 128,  # numpy's header
            _RECORD_BYTES + sum(captions),
            captions[0],
        )
        sizes.append(sum(_BLOCK + _whole_blocks(size) for size in members) + crop)
    return sizes


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _image_sizes(images: Location, names: Sequence[str]) -> Mapping[str, int]:
    """Return file name -> bytes; a file that has gone counts as empty and is listed when it is packed."""
    if isinstance(images, Path):
        return {name: _size_of(images / name) for name in names}
    try:  # one question for all
        found = {info["name"].rpartition("/")[2]: info["size"] for info in images.fs.ls(images.path, detail=True)}
        return {name: int(found.get(name, 0)) for name in names}
    except Exception as error:  # every store has its own errors
        raise IdClipError(
            f"{images} does not tell the size of its files ({error}); use --samples-per-shard instead of --bytes-per-shard"
        ) from error


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def parse_size(text: object) -> int:
    """Return the bytes of a size such as 500MB, 2GiB or 1000000.

    Raises IdClipError when it is none, or smaller than a block of a tar.
    """
    match = _SIZE.fullmatch(str(text).strip())
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]]) if match else 0
    if size < _BLOCK:
        raise IdClipError(f"--bytes-per-shard must be a size such as 500MB or 2GiB, not {text!r}")
    return size
