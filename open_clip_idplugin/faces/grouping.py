"""Clustering of faces: unit embeddings -> groups of rows that look like one person, by scikit-learn's DBSCAN.

Faces that look like few others stay alone and are in no group.
"""

import numpy as np
import numpy.typing as npt


def group_faces(embeddings: npt.NDArray[np.float32], threshold: float, min_faces: int) -> list[npt.NDArray[np.int64]]:
    """Groups of rows, the largest first; the rows of a group begin with the one nearest to its mean.

    Args:
        embeddings: [N, D], rows of length 1.
        threshold: cosine from which two faces are neighbours.
        min_faces: neighbours (itself included) that make a face the core of a group, and the smallest group.
    """
    from sklearn.cluster import DBSCAN

    if len(embeddings) < min_faces:
        return []
    distance = float(np.sqrt(max(2 * (1 - threshold), 1e-9)))  # of unit vectors with this cosine
    labels = DBSCAN(eps=distance, min_samples=min_faces, algorithm="brute").fit_predict(embeddings)
    groups = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    groups = [_typical_first(embeddings, rows) for rows in groups if len(rows) >= min_faces]
    return sorted(groups, key=lambda rows: (-len(rows), int(rows.min())))


def _typical_first(embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    similarity = embeddings[rows] @ embeddings[rows].mean(axis=0)
    return rows[np.argsort(-similarity, kind="stable")]
