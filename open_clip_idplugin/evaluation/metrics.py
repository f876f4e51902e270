"""Retrieval metrics: features and relevance -> ranks and recalls (fractions in [0, 1]), as pure functions.

Role: ranks are counted block by block, so that the queries x images matrix never exists as a whole. Rule for exact
ties, here and in `top_k`: of equally similar items the one with the lower index comes first, as in a stable sort.
Definitions: `docs/evaluation.md`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from open_clip_idplugin.command_line.devices import AUTO, resolve_device
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.image_ranks import ImageCounts, OwnQueries, estimated_counts

Array: TypeAlias = np.ndarray | Tensor

KS = (1, 5, 10, 50)
MAP_DEPTH = 10
BLOCK_ELEMENTS = 4_000_000  # similarities held at once: 16 MB, small enough to stay near the cores


class Scores(Protocol):
    """Similarities of queries (rows) and images (columns), computed on demand.

    `block` must give the same numbers each time it is asked for the same rows: ties are found by equality.
    """

    n_rows: int
    n_images: int

    def block(self, start: int, stop: int) -> Tensor:
        """Similarities of the rows `start` to `stop` to every image, [stop - start, n_images] float32."""
        ...


class CosineScores:
    """Cosine similarities of unit rows: text_features [T, E] and image_features [N, E]."""

    def __init__(self, text_features: Array, image_features: Array, device: str | torch.device = AUTO) -> None:
        self._texts = as_features(text_features, "text features", device)
        self._images = as_features(image_features, "image features", device)
        if self._texts.shape[1] != self._images.shape[1]:
            widths = f"{self._texts.shape[1]} and {self._images.shape[1]}"
            raise IdClipError(f"text and image features are {widths} wide; encode both with the same model")
        self.n_rows, self.n_images = len(self._texts), len(self._images)

    def block(self, start: int, stop: int) -> Tensor:
        """See `Scores`."""
        return self._texts[start:stop] @ self._images.T

    def rows(self, indices: Tensor) -> Tensor:
        """Similarities [len(indices), n_images] of these rows."""
        return self._texts[indices] @ self._images.T

    def pairs(self, rows: np.ndarray, images: np.ndarray) -> Tensor:
        """See `image_ranks.PairScores`."""
        texts = self._texts[torch.from_numpy(rows).to(self._texts.device)]
        return (texts * self._images[torch.from_numpy(images).to(self._texts.device)]).sum(dim=1)

    @property
    def scale(self) -> float:
        """The largest similarity that there can be: 1 for unit rows."""
        return float(self._texts.norm(dim=1).max() * self._images.norm(dim=1).max())


@dataclass(frozen=True)
class Ranks:
    """What general retrieval is counted from; ranks begin at 0.

    t2i  [Q] int64: rank of the query's own image among all images
    top  [Q] int64: the image that is ranked first
    i2t  [N] int64: best rank of any of the image's own queries among all queries, -1 for an image without any;
         None where it was not asked for
    rivals  [Q] int64: how many of the images that are ranked above belong to the group of the query's own image; None
         where no groups were given
    """

    t2i: np.ndarray
    top: np.ndarray
    i2t: np.ndarray | None
    rivals: np.ndarray | None = None


def as_features(values: Array, what: str, device: str | torch.device = AUTO) -> Tensor:
    """`values` as a float32 matrix on `device`; raises IdClipError when it is no matrix, is empty or not finite."""
    tensor = torch.as_tensor(values).to(device=resolve_device(device), dtype=torch.float32)
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise IdClipError(f"the {what} have shape {list(tensor.shape)}; give one row of numbers for each item")
    if not bool(torch.isfinite(tensor).all()):
        raise IdClipError(f"the {what} hold NaN or infinity; check the checkpoint and the precision")
    return tensor


def general_ranks(
    scores: Scores,
    image_of_query: Array,
    row_of_query: Array | None = None,
    i2t: bool = True,
    groups: Array | None = None,
) -> Ranks:
    """Rank the own image of every query, and the own queries of every image.

    image_of_query  [Q] int: the one relevant image (a column of `scores`)
    row_of_query    [Q] int: the row of `scores` that holds the query; rows are shared by queries with the same text.
                    None: query q is row q.
    groups          [N] int: groups of images, such as those of one scene, within which `Ranks.rivals` counts
    """
    images = _as_indices(image_of_query, scores.n_images, "image_of_query")
    rows = np.arange(len(images)) if row_of_query is None else _as_indices(row_of_query, scores.n_rows, "row_of_query")
    if len(rows) != len(images):
        raise IdClipError(f"{len(rows)} rows and {len(images)} images were given; give one of each for every query")
    order = np.argsort(rows, kind="stable")  # queries of one row, side by side and in ascending order
    ordered = rows[order]
    t2i, top = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    own = np.empty(len(rows), np.float32)
    mates = None if groups is None else _mates(np.asarray(groups))
    rivals = None if mates is None else np.empty(len(rows), np.int64)
    queries_of = OwnQueries(rows, images, scores.n_rows, scores.n_images) if i2t else None
    counts = None
    if queries_of is not None and isinstance(scores, CosineScores):
        counts = estimated_counts(scores, queries_of, scores.scale)
    for start, stop in row_blocks(scores):
        queries = order[slice(*np.searchsorted(ordered, (start, stop)))]
        if not len(queries):
            continue
        block = scores.block(start, stop)
        for part in _parts(queries, scores.n_images):
            similarities = _take_rows(block, rows[part] - start)
            t2i[part], own[part] = _ranks_of_targets(similarities, images[part])
            top[part] = _first_images(similarities, t2i[part], images[part])
            if mates is not None and rivals is not None:
                rivals[part] = _above_among(similarities, images[part], mates[images[part]])
        if counts is not None:
            counts.add(start, block)
    ranked = None if counts is None else counts.ranks(own)
    if queries_of is not None and ranked is None:
        ranked = _image_to_text(scores, queries_of, own)
    return Ranks(t2i, top, ranked, rivals)


def general_metrics(ranks: Ranks, ks: Sequence[int] = KS) -> dict[str, float]:
    """`t2i_R@k`, `t2i_sum` and, where known, `i2t_R@k`, `i2t_sum` and `sum` (over both directions)."""
    metrics = {f"t2i_R@{k}": float((ranks.t2i < k).mean()) for k in ks}
    metrics["t2i_sum"] = sum(metrics.values())
    if ranks.i2t is not None:
        ranked = ranks.i2t[ranks.i2t >= 0]
        recalls = {f"i2t_R@{k}": float((ranked < k).mean()) for k in ks}
        metrics |= recalls
        metrics["i2t_sum"] = sum(recalls.values())
        metrics["sum"] = metrics["t2i_sum"] + metrics["i2t_sum"]
    return metrics


def top_k(scores: Scores, k: int) -> np.ndarray:
    """[n_rows, min(k, n_images)] int64: the best images of every row, best first, ties by index."""
    k = min(k, scores.n_images)
    best = [_top_of_block(scores.block(start, stop), k) for start, stop in row_blocks(scores)]
    return torch.cat(best).cpu().numpy()


def top_of_rows(scores: Scores, rows: Sequence[int], k: int) -> np.ndarray:
    """As `top_k`, of a few rows."""
    k = min(k, scores.n_images)
    return torch.cat([_top_of_block(scores.block(row, row + 1), k) for row in rows]).cpu().numpy()


def entity_metrics(
    top: np.ndarray, identity_of_query: Array, identity_of_image: Array, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Entity retrieval from the best images of every query, means over queries.

    top  [Q, max(ks) or all images] int: as `top_k` gives it; identity_of_query [Q], identity_of_image [N] int

    `entity_R@k` = hits in the top k / relevant; `entity_R@k_kmin` = hits / min(k, relevant); `mAP@10` (the paper's) =
    sum of the precisions at hits / 10; `mAP@10_standard` divides by min(10, relevant) instead.
    """
    people, owners = np.asarray(identity_of_query), np.asarray(identity_of_image)
    if top.shape[1] < min(max(*ks, MAP_DEPTH), len(owners)):
        raise IdClipError(f"the top {top.shape[1]} images are too few for R@{max(ks)}; rank as many as the largest k")
    relevant = (people[:, None] == owners[None, :]).sum(axis=1)
    if not relevant.all():
        raise IdClipError(f"identity {people[relevant == 0][0]} has no image; leave out people without images")
    hits = owners[top] == people[:, None]
    metrics = {}
    for k in ks:
        found = hits[:, :k].sum(axis=1)
        metrics[f"entity_R@{k}"] = float((found / relevant).mean())
        metrics[f"entity_R@{k}_kmin"] = float((found / np.minimum(k, relevant)).mean())
    first = hits[:, :MAP_DEPTH]
    precisions = first.cumsum(axis=1) / np.arange(1, first.shape[1] + 1)
    gains = (precisions * first).sum(axis=1)
    metrics["mAP@10"] = float((gains / MAP_DEPTH).mean())
    metrics["mAP@10_standard"] = float((gains / np.minimum(MAP_DEPTH, relevant)).mean())
    return metrics


def _as_indices(values: Array, limit: int, what: str) -> np.ndarray:
    indices = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices):
        raise IdClipError(f"{what} is {indices.dtype}{list(indices.shape)}; give one integer for every query")
    if indices.min() < 0 or indices.max() >= limit:
        raise IdClipError(f"{what} goes from {indices.min()} to {indices.max()}; allowed is 0 to {limit - 1}")
    return indices.astype(np.int64)


def row_blocks(scores: Scores) -> Iterator[tuple[int, int]]:
    """Rows of the blocks in which scores are asked for, (start, stop)."""
    size = max(1, BLOCK_ELEMENTS // scores.n_images)
    for start in range(0, scores.n_rows, size):
        yield start, min(start + size, scores.n_rows)


def _parts(queries: np.ndarray, n_images: int) -> Iterator[np.ndarray]:
    size = max(1, BLOCK_ELEMENTS // n_images)
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def _take_rows(block: Tensor, rows: np.ndarray) -> Tensor:
    if len(rows) == len(block) and (rows == np.arange(len(block))).all():
        return block
    return block[torch.from_numpy(rows).to(block.device)]


def _ranks_of_targets(similarities: Tensor, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank and similarity of one column per row of `similarities` [c, N]."""
    columns = torch.from_numpy(targets).to(similarities.device)[:, None]
    own = similarities.gather(1, columns)
    above = (similarities > own).sum(dim=1, dtype=torch.int32)
    tied = ((similarities == own).sum(dim=1, dtype=torch.int32) > 1).nonzero()[:, 0]
    if len(tied):  # rare, so the position of the ties is looked at in these rows alone
        before = torch.arange(similarities.shape[1], device=similarities.device) < columns[tied]
        above[tied] += ((similarities[tied] == own[tied]) & before).sum(dim=1, dtype=torch.int32)
    return above.long().cpu().numpy(), own[:, 0].cpu().numpy()


def _mates(groups: np.ndarray) -> np.ndarray:
    """The images of each image's group [N, size of the largest], the image itself where there are fewer."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], groups, side="left")
    sizes = np.searchsorted(groups[order], groups, side="right") - starts
    offsets = np.arange(sizes.max())[None, :]
    own = np.arange(len(groups))[:, None]
    return np.where(offsets < sizes[:, None], order[np.minimum(starts[:, None] + offsets, len(order) - 1)], own)


def _above_among(similarities: Tensor, targets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many of the columns `others` [c, M] of `similarities` [c, N] are ranked above each row's target."""
    columns, targets_ = (
        torch.from_numpy(others).to(similarities.device),
        torch.from_numpy(targets).to(similarities.device),
    )
    own = similarities.gather(1, targets_[:, None])
    values = similarities.gather(1, columns)
    above = (values > own) | ((values == own) & (columns < targets_[:, None]))
    return above.sum(dim=1).cpu().numpy()


def _first_images(similarities: Tensor, ranks: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The image that is ranked first in every row: the target itself where its rank is 0."""
    first = targets.copy()
    others = np.flatnonzero(ranks)
    if len(others):
        # The first of several maxima, as documented by torch.
        first[others] = _take_rows(similarities, others).argmax(dim=1).cpu().numpy()
    return first


def _image_to_text(scores: Scores, queries: OwnQueries, own: np.ndarray) -> np.ndarray:
    """Best rank of an image's queries [N], by a second pass: queries above the best one, plus equal ones before it."""
    best, first = queries.best(own)
    bound = torch.from_numpy(best)
    counts = None
    for start, stop in row_blocks(scores):
        if queries.of_row[start:stop].any():
            block = scores.block(start, stop)
            counts = counts or ImageCounts(queries, bound.to(block.device), bound.to(block.device), first)
            counts.add(start, block)
    ranks = None if counts is None else counts.ranks(own)
    assert ranks is not None  # there are queries, and the bounds are the numbers themselves
    return ranks


def _top_of_block(block: Tensor, k: int) -> Tensor:
    values, _ = block.topk(k, dim=1)
    # topk breaks ties as it likes: take what is not below the k-th value, then sort that by value and index.
    candidates = block >= values[:, -1:]
    if bool((candidates.sum(dim=1) > k).any()):
        return block.sort(dim=1, descending=True, stable=True).indices[:, :k]
    indices = candidates.nonzero()[:, 1].view(len(block), k)  # ascending in every row
    order = block.gather(1, indices).sort(dim=1, descending=True, stable=True).indices
    return indices.gather(1, order)
