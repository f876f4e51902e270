"""Grouped batches: a stream of samples -> the same samples in an order in which a batch's items have something in common.

Role: `--id-batch-groups`. Shards give no random access, so a worker keeps a bounded buffer and forms its groups from what
is in it: pictures of one identity, or of one scene with several identities (what only the face tells apart). A pass over
the shards shows every sample once, and the order depends on the stream and the given random numbers alone.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from webdataset_tools.sample_format import FACE_CROP, parse_key

Members = Mapping[str, Any]  # an undecoded sample of webdataset

IDENTITY = "identity"
SCENE = "scene"

_PART = {SCENE: 0, IDENTITY: 1}  # of a sample's key
_FEW = 0.5  # of the share that was asked for; below it the worker warns


@dataclass(frozen=True)
class GroupedOrder:
    """Arranges a stream so that batches hold groups and single items at random.

    by           IDENTITY or SCENE: what the items of a group have in common
    share        share of a batch that comes in groups, 0 to 1
    size         items of a group at most (at least 2)
    buffer       samples that are held at a time
    batch_size   items of a batch; a group is not spread over two
    """

    by: str
    share: float
    size: int
    buffer: int
    batch_size: int

    def __call__(self, samples: Iterator[Members], rng: random.Random, made: Callable[[], int]) -> Iterator[Members]:
        """Yield every sample once. `made` tells how many pairs came of those before, and so where in its batch one is."""
        first = True
        while held := [_without_crop(members) for members in islice(samples, self.buffer)]:
            groups, singles = self.split(held, rng)
            if first:
                self._report(groups, len(held))
                first = False
            yield from self._arranged(groups, singles, made)

    def split(self, held: list[Members], rng: random.Random) -> tuple[list[list[Members]], list[Members]]:
        """Samples -> groups of 2 to `size`, about `share` of them all together, and the rest, both in random order."""
        alike: dict[Any, dict[str, Members]] = defaultdict(dict)
        again: list[Members] = []  # resampled shards may bring a sample twice
        for members in held:
            key = members["__key__"]
            parts = parse_key(key)
            same = alike[parts[_PART[self.by]] if parts else key]
            if key in same:
                again.append(members)
            else:
                same[key] = members
        pieces = []
        for some in map(list, map(dict.values, alike.values())):
            rng.shuffle(some)
            pieces += [some[start : start + self.size] for start in range(0, len(some), self.size)]
        rng.shuffle(pieces)
        groups: list[list[Members]] = []
        singles: list[Members] = again
        grouped = 0
        for piece in pieces:
            if len(piece) > 1 and grouped + len(piece) <= self.share * len(held):
                groups.append(piece)
                grouped += len(piece)
            else:
                singles += piece
        rng.shuffle(singles)
        return groups, singles

    def _arranged(
        self, groups: list[list[Members]], singles: list[Members], made: Callable[[], int]
    ) -> Iterator[Members]:
        """Fill batch after batch: groups up to their part of it, then single items."""
        grouped = sum(map(len, groups))
        part = self.batch_size * grouped / (grouped + len(singles))
        while groups or singles:
            place = made() % self.batch_size
            room = self.batch_size - place
            # A group comes where its half still belongs to the batch's part of groups, and not over the batch's end.
            wanted = bool(groups) and place + len(groups[-1]) / 2 <= part and len(groups[-1]) <= room
            if singles and not wanted:
                yield singles.pop()
            else:
                group = groups.pop()
                singles += group[room:]
                yield from group[:room]

    def _report(self, groups: list[list[Members]], held: int) -> None:
        grouped = sum(map(len, groups))
        if grouped < _FEW * self.share * held:
            logging.warning(
                f"Only {grouped} of {held} samples in a worker's buffer share their {self.by} with another: raise "
                "--id-group-buffer, use fewer workers, or pack shards of neighbours."
            )


def _without_crop(members: Members) -> Members:
    """What training needs of a sample; the buffer need not hold the rest."""
    return {name: content for name, content in members.items() if name != FACE_CROP}
