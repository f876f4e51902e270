"""Assignment: ids, attribute values, a seed -> who is swapped into which image; pure functions.

Role: identities -> disjoint splits; images x identities -> k identities an image. Every identity in use gets about equally many
images, and at least `contexts` where there are enough images. The order of the inputs does not matter.
"""

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np

from webdataset_tools.faceswap.matching import Values, compatible


def split_by_share(
    ids: Mapping[str, Values], shares: Mapping[str, float], seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Deal ids into splits by their shares, each group of equal values by itself; sorted lists of disjoint ids.

    Ids in `fixed` go to the split that it names, however many those are. A split with a share never starves while another
    one has more than its part: groups are cut where the shares end, and what a cut leaves over goes on to the next group.
    """
    fixed = fixed or {}
    groups: dict[Values, list[str]] = defaultdict(list)
    for key in sorted(ids.keys() - fixed.keys()):
        groups[ids[key]].append(key)
    dealt: list[str] = []
    for values in sorted(groups, key=repr):
        members = groups[values]
        random.Random(f"split {seed} {values!r}").shuffle(members)
        dealt += members
    parts = {split: [key for key in ids if fixed.get(key) == split] for split in shares}
    owed = dict.fromkeys(shares, 0.0)
    for key in dealt:  # each id goes to the split that is furthest behind its share
        for split, share in shares.items():
            owed[split] += share
        chosen = max((split for split in shares if shares[split] > 0), key=lambda split: (owed[split], shares[split]))
        owed[chosen] -= 1
        parts[chosen].append(key)
    return {split: sorted(members) for split, members in parts.items()}


def assign(
    images: Mapping[int, Values],
    identities: Mapping[str, Values],
    per_image: int,
    contexts: int,
    seed: int,
    fits: Callable[[int, str], bool] = lambda image_id, identity_id: True,
) -> dict[int, list[str]]:
    """Return image id -> the ids of its `per_image` identities (fewer where fewer match), all compatible with it.

    Per image the least used identities are taken, at random among equals; `fits` (image id, identity id) is asked in that
    order until enough are found, so that it may be slow.
    """
    pool = _pool(images, identities, per_image, contexts, seed)
    used = np.zeros(len(pool))
    order = sorted(images)
    random.Random(f"order {seed}").shuffle(order)
    places: dict[Values, np.ndarray] = {}
    chosen: dict[int, list[str]] = {}
    for image_id in order:
        values = images[image_id]
        if values not in places:
            places[values] = np.array([i for i, key in enumerate(pool) if compatible(values, identities[key])], int)
        fit = places[values]
        rank = used[fit] + np.random.default_rng(number_of(seed, "assign", image_id)).random(len(fit))
        in_order = (place for place in fit[np.argsort(rank, kind="stable")].tolist() if fits(image_id, pool[place]))
        taken = list(islice(in_order, per_image))
        used[taken] += 1
        chosen[image_id] = [pool[place] for place in taken]
    return {image_id: chosen[image_id] for image_id in sorted(chosen)}


def _pool(
    images: Mapping[int, Values], identities: Mapping[str, Values], per_image: int, contexts: int, seed: int
) -> list[str]:
    """Return the identities in use: of each group of equal values as many as can be given `contexts` images each."""
    groups: dict[Values, list[str]] = defaultdict(list)
    for key in sorted(identities):
        groups[identities[key]].append(key)
    demand = dict.fromkeys(groups, 0.0)
    counts: dict[Values, int] = defaultdict(int)
    for values in images.values():
        counts[values] += 1
    for values, count in counts.items():
        fit = {group: len(members) for group, members in groups.items() if compatible(values, group)}
        for group, size in fit.items():
            demand[group] += count * per_image * size / sum(fit.values())
    pool = []
    for group, members in groups.items():
        random.Random(f"pool {seed} {group!r}").shuffle(members)
        pool += members[: max(per_image, math.floor(demand[group] / contexts + 1e-9))]
    return sorted(pool)


def number_of(seed: int, *parts: object) -> int:
    """Return a stable number for `seed` and names, to seed a generator of its own."""
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:8], "big")


def shuffled(ids: Sequence[int], seed: int, label: str) -> list[int]:
    """Return `ids` in an order that depends on `seed` and `label` alone."""
    order = sorted(ids)
    random.Random(f"{label} {seed}").shuffle(order)
    return order
