"""Clustering of faces: unit embeddings -> groups of rows that look like one person, by scikit-learn's DBSCAN.

Faces that look like few others stay alone and are in no group. Comparing every face with every other is most of the work:
whether two are neighbours depends on their vectors alone, so that a graph that was kept spares the comparisons among the faces
it knows.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.float32]

_MARK = "S16"  # bytes of a vector's mark: no two of a collection's faces share one by chance
_MOST_KEPT = 50_000_000  # pairs; a larger file takes as long to read as the faces take to be compared
_THRESHOLD = "threshold"


@dataclass(frozen=True)
class NeighbourGraph:
    """Neighbours of every face, itself included."""

    marks: npt.NDArray[np.bytes_]  # [N] of the vectors
    pairs: "csr_matrix"  # [N, N] bool
    threshold: float  # cosine from which two are neighbours

    def save(self, path: Path) -> None:
        """Write it for the next run, readable by its owner alone; a graph of too many pairs is not kept."""
        from safetensors.numpy import save_file
        from scipy.sparse import triu

        half = triu(self.pairs, 1, format="csr")
        if half.nnz > _MOST_KEPT:
            path.unlink(missing_ok=True)
            return
        parts = {
            "marks": self.marks.view(np.uint8).reshape(len(self.marks), -1),
            "starts": half.indptr.astype(np.int64),
            "columns": half.indices.astype(np.int32),
        }
        with atomic_path(path, PRIVATE) as temporary:
            save_file(parts, temporary, {_THRESHOLD: repr(self.threshold)})


def load_graph(path: Path) -> NeighbourGraph | None:
    """The graph of an earlier run; None where there is none, or none that can be read."""
    from safetensors import SafetensorError, safe_open
    from scipy.sparse import csr_matrix

    try:
        with safe_open(path, "numpy") as file:
            threshold = float(file.metadata()[_THRESHOLD])
            marks, starts, columns = (file.get_tensor(name) for name in ("marks", "starts", "columns"))
        count = len(marks)
        half = csr_matrix((np.ones(len(columns), bool), columns, starts), (count, count))
        half.check_format()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return NeighbourGraph(marks.view(_MARK).reshape(count), _both_ways(half), threshold)


def find_neighbours(embeddings: Floats, threshold: float, before: NeighbourGraph | None = None) -> NeighbourGraph:
    """The graph of these faces, by scikit-learn's brute-force search.

    Args:
        embeddings: [N, D], rows of length 1.
        threshold: cosine from which two faces are neighbours.
        before: graph of an earlier run, whose pairs are not compared again.
    """
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    count, marks = len(embeddings), _marks(embeddings)
    known = csr_matrix((count, count), dtype=bool)
    new = np.arange(count)
    if before is not None and before.threshold == threshold:
        new, old, places = _match(marks, before.marks)
        known = _placed(before.pairs[old][:, old], places, count)
    if not len(new):
        return NeighbourGraph(marks, known, threshold)
    distance = float(np.sqrt(max(2 * (1 - threshold), 1e-9)))  # of unit vectors with this cosine
    search = NearestNeighbors(radius=distance, algorithm="brute").fit(embeddings)
    found = search.radius_neighbors(embeddings[new], return_distance=False)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in found])])
    columns = np.concatenate([*found, np.zeros(0, np.int64)]).astype(np.int64)
    rows = csr_matrix((np.ones(len(columns), bool), columns, starts), (len(new), count))
    rows = csr_matrix(csr_matrix((np.ones(len(new), bool), (new, np.arange(len(new)))), (count, len(new))) @ rows)
    return NeighbourGraph(marks, _both_ways(rows) + known, threshold)


def _marks(embeddings: Floats) -> npt.NDArray[np.bytes_]:
    """[N] a mark of each vector; the second of two equal vectors has another than the first, and so on."""
    seen: dict[bytes, int] = {}
    marks = np.zeros(len(embeddings), _MARK)
    for row, vector in enumerate(np.ascontiguousarray(embeddings, np.float32)):
        content = vector.tobytes()
        digest = hashlib.blake2b(content, digest_size=marks.itemsize).digest()
        seen[digest] = seen.get(digest, -1) + 1
        if seen[digest]:
            digest = hashlib.blake2b(digest + str(seen[digest]).encode(), digest_size=marks.itemsize).digest()
        marks[row] = digest
    return marks


def _match(
    marks: npt.NDArray[np.bytes_], before: npt.NDArray[np.bytes_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows that are new; and of the others the row before and the row now."""
    where = {mark: row for row, mark in enumerate(before.tolist())}
    old = np.array([where.get(mark, -1) for mark in marks.tolist()], np.int64)
    return np.flatnonzero(old < 0), old[old >= 0], np.flatnonzero(old >= 0)


def _placed(pairs: "csr_matrix", places: npt.NDArray[np.int64], count: int) -> "csr_matrix":
    """[count, count] with the rows and columns of `pairs` at `places`, which ascend."""
    from scipy.sparse import csr_matrix

    lengths = np.zeros(count, np.int64)
    lengths[places] = np.diff(pairs.indptr)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((pairs.data, places[pairs.indices], starts), (count, count))


def _both_ways(pairs: "csr_matrix") -> "csr_matrix":
    """Every pair in both orders, and every face with itself."""
    from scipy.sparse import identity

    return (pairs + pairs.T + identity(pairs.shape[0], bool, "csr")).tocsr()


def group_faces(
    embeddings: npt.NDArray[np.float32], threshold: float, min_faces: int, graph: Path | None = None
) -> list[npt.NDArray[np.int64]]:
    """Groups of rows, the largest first; the rows of a group begin with the one nearest to its mean.

    Args:
        embeddings: [N, D], rows of length 1.
        threshold: cosine from which two faces are neighbours.
        min_faces: neighbours (itself included) that make a face the core of a group, and the smallest group.
        graph: file in which comparisons are kept for the next time, when only new faces are compared.
    """
    if len(embeddings) < min_faces:
        return []
    neighbours = find_neighbours(embeddings, threshold, None if graph is None else load_graph(graph))
    if graph is not None:
        neighbours.save(graph)
    labels = _labels(neighbours, min_faces)
    groups = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    groups = [_typical_first(embeddings, rows) for rows in groups if len(rows) >= min_faces]
    return sorted(groups, key=lambda rows: (-len(rows), int(rows.min())))


def _labels(graph: NeighbourGraph, min_faces: int) -> npt.NDArray[np.int64]:
    """[N] number of each face's group, -1 where it has none."""
    from sklearn.cluster import DBSCAN

    distances = graph.pairs.astype(np.float32)  # all alike: whoever is in the graph is near enough
    return np.asarray(DBSCAN(eps=1.0, min_samples=min_faces, metric="precomputed").fit_predict(distances))


def _typical_first(embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    similarity = embeddings[rows] @ embeddings[rows].mean(axis=0)
    return rows[np.argsort(-similarity, kind="stable")]
