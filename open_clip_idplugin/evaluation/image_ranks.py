"""Image to text in one pass: ranks of every image's best own query, counted while blocks of similarities go by.

Role: a query counts if it is more similar than the image's best own one, whose similarity is known only when all blocks have
been seen. It is estimated first, from the pairs alone; what lies within `TOLERANCE` of the estimate is kept and compared
when the block's own number is known. Where that is not possible, a second pass compares with the known numbers.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-5  # of unit rows: some hundred times what two ways of summing 512 products differ by
MOST_NEAR = 4_000_000  # similarities that are kept for later: 80 MB
PAIRS_AT_ONCE = 16_384


class PairScores(Protocol):
    """Scores that can also tell the similarity of single pairs, up to rounding."""

    def pairs(self, rows: np.ndarray, images: np.ndarray) -> Tensor:
        """Similarities of rows [K] and images [K], [K] float32."""
        ...


class OwnQueries:
    """Which queries are whose: rows [Q] and images [Q] of all queries, and how many rows and images there are."""

    def __init__(self, rows: np.ndarray, images: np.ndarray, n_rows: int, n_images: int) -> None:
        self.rows, self.images, self.n_images = rows, images, n_images
        self.of_row = np.bincount(rows, minlength=n_rows)
        order = np.argsort(rows, kind="stable")
        # Ascending: where the queries of a row lie, and which come before another.
        self._keys = rows[order] * len(rows) + order

    def best(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarity [N] of every image's best own query (inf without any) and the first such query [N] (Q)."""
        best = np.full(self.n_images, -np.inf, np.float32)
        np.maximum.at(best, self.images, own)
        query = np.full(self.n_images, len(self.images), np.int64)
        is_best = own == best[self.images]
        np.minimum.at(query, self.images[is_best], np.flatnonzero(is_best))
        best[query == len(self.images)] = np.inf
        return best, query

    def before(self, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """How many queries of each row [K] come before another query [K]."""
        base = rows * len(self.rows)
        return np.searchsorted(self._keys, base + queries) - np.searchsorted(self._keys, base)


class ImageCounts:
    """Counts queries above a bound by image; those between two bounds are kept, or resolved where the bounds are equal.

    low, high: [N] float32 on the device of the blocks
    """

    def __init__(self, queries: OwnQueries, low: Tensor, high: Tensor, first: np.ndarray | None = None) -> None:
        """`first`: the best own query of every image [N], where low and high are its known similarity."""
        self._queries, self._low, self._high, self._first = queries, low, high, first
        self._weights = torch.from_numpy(queries.of_row).to(low.device, torch.float32)
        self._above = np.zeros(queries.n_images, np.int64)
        self._near: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._kept = 0

    @property
    def full(self) -> bool:
        """Whether too much lies near the bounds to be kept."""
        return self._first is None and self._kept > MOST_NEAR

    def add(self, start: int, block: Tensor) -> None:
        """Count a block [rows, N] that begins with row `start`."""
        weights = self._weights[start : start + len(block)]
        if self.full or not bool(weights.any()):
            return
        above = block > self._high
        # Exact in float32: a block holds far fewer than 2**24 queries.
        self._above += (weights @ above.float()).round().long().cpu().numpy()
        rows, images = ((block >= self._low) ^ above).nonzero(as_tuple=True)
        values = block[rows, images].cpu().numpy()
        near = ((rows + start).cpu().numpy(), images.cpu().numpy(), values)
        if self._first is not None:
            self._resolve(*near, self._high.cpu().numpy(), self._first)
        else:
            self._kept += len(values)
            self._near.append(near)

    def ranks(self, own: np.ndarray) -> np.ndarray | None:
        """[N] int64, -1 without a query; own: similarity [Q] of every query and its image, as the blocks had it.

        None where an estimate was further off than the bounds allow, or where too much was near them.
        """
        best, first = self._queries.best(own)
        known = torch.from_numpy(best).to(self._low.device)
        has_query = np.isfinite(best)
        if self.full or not bool(((known >= self._low) & (known <= self._high)).all()):
            return None
        for near in self._near:
            self._resolve(*near, best, first)
        self._near = []
        return np.where(has_query, self._above, -1)

    def _resolve(
        self, rows: np.ndarray, images: np.ndarray, values: np.ndarray, best: np.ndarray, first: np.ndarray
    ) -> None:
        higher, equal = values > best[images], values == best[images]
        np.add.at(self._above, images[higher], self._queries.of_row[rows[higher]])
        np.add.at(self._above, images[equal], self._queries.before(rows[equal], first[images[equal]]))


def estimated_counts(scores: PairScores, queries: OwnQueries, scale: float) -> ImageCounts:
    """Counts around the estimated best similarity of every image; scale: the largest product of two lengths."""
    own = [
        scores.pairs(queries.rows[start : start + PAIRS_AT_ONCE], queries.images[start : start + PAIRS_AT_ONCE])
        for start in range(0, len(queries.rows), PAIRS_AT_ONCE)
    ]
    best, _ = queries.best(torch.cat(own).cpu().numpy())
    middle = torch.from_numpy(best).to(own[0].device)
    return ImageCounts(queries, middle - TOLERANCE * scale, middle + TOLERANCE * scale)
