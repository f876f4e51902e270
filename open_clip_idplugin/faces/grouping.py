"""Clustering of faces: unit embeddings -> groups of rows that look like one person, by scikit-learn's DBSCAN.

Faces that look like few others stay alone and are in no group.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.neighbour_graph import NeighbourGraph, find_neighbours, load_graph


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
