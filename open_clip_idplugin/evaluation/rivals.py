"""The rival without an identity token: the plain caption's score plus a face match, fused late.

Role: what a practitioner builds from CLIP and a face detector. Input: features of plain captions and the faces that
were detected in the searched images; output: the metrics that the protocols give, so that the rows share a table.
score(query, image) = cosine(caption, image) + weight * cosine(query face, best face in the image). An image in which
no face was detected gets `NO_FACE` for the second cosine: what unrelated faces have on average, so that it ranks beside
the images that show somebody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.metrics import (
    Array,
    CosineScores,
    Scores,
    as_features,
    general_metrics,
    general_ranks,
)
from open_clip_idplugin.evaluation.protocols import (
    EvaluationSet,
    Queries,
    Results,
    Settings,
    TextEncoder,
    encode_queries,
    entity_results,
    general_queries,
    general_results,
    people,
)
from open_clip_idplugin.fusion import FACE_WEIGHT, NO_FACE, weighted_sum

CAPTION_AND_FACE = "caption + face match"
FACE_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)


@dataclass(frozen=True)
class DetectedFaces:
    """The faces found in the searched images.

    embeddings: [M, D] float32 unit rows; image_of_face: [M] int; n_images: also those without a face
    """

    embeddings: np.ndarray
    image_of_face: np.ndarray
    n_images: int

    @classmethod
    def from_lists(cls, faces: Sequence[Sequence[np.ndarray]], size: int) -> "DetectedFaces":
        """From one list of embeddings [size] per image, empty where nothing was found."""
        owners = [image for image, found in enumerate(faces) for _ in found]
        rows = [embedding for found in faces for embedding in found]
        embeddings = np.stack(rows).astype(np.float32) if rows else np.zeros((0, size), np.float32)
        return cls(embeddings, np.array(owners, dtype=np.int64), len(faces))

    @property
    def detected(self) -> np.ndarray:
        """[n_images] bool: whether a face was found in the image."""
        return np.bincount(self.image_of_face, minlength=self.n_images) > 0


class FaceScores:
    """Cosine of a query face and the best face of every image; rows are query_faces [R, D]. See `metrics.Scores`."""

    def __init__(self, query_faces: Array, faces: DetectedFaces, device: str | torch.device = "cpu") -> None:
        self._queries = as_features(query_faces, "query faces", device)
        self.n_rows, self.n_images = len(self._queries), faces.n_images
        if faces.embeddings.shape[1] != self._queries.shape[1]:
            lengths = f"{self._queries.shape[1]} and {faces.embeddings.shape[1]}"
            raise IdClipError(f"query and detected faces have {lengths} numbers; embed both with the same face model")
        # The first faces of all images make one dense matrix. Further ones come in rounds of one face an image at most:
        # the second faces of all images that have one, the third ones, ...
        position = _position_within(faces.image_of_face)
        first = np.zeros((faces.n_images, faces.embeddings.shape[1]), np.float32)
        first[faces.image_of_face[position == 0]] = faces.embeddings[position == 0]
        self._first = as_features(first, "detected faces", device)
        self._missed = torch.from_numpy(~faces.detected).to(device)
        self._rounds: list[tuple[Tensor, Tensor]] = []
        for number in range(1, int(position.max(initial=0)) + 1):
            chosen = position == number
            images = torch.from_numpy(faces.image_of_face[chosen]).to(device)
            self._rounds.append((as_features(faces.embeddings[chosen], "detected faces", device), images))

    def block(self, start: int, stop: int) -> Tensor:
        """See `metrics.Scores`."""
        return self.rows(torch.arange(start, stop, device=self._queries.device))

    def rows(self, indices: Tensor) -> Tensor:
        """Similarities [len(indices), n_images] of these query faces."""
        queries = self._queries[indices]
        best = queries @ self._first.T
        for embeddings, images in self._rounds:
            best.index_copy_(1, images, torch.maximum(best.index_select(1, images), queries @ embeddings.T))
        return best.masked_fill_(self._missed, NO_FACE)


class FusedScores:
    """Caption score + weight * face score; row r is caption `row_of_text[r]` with face `row_of_face[r]`."""

    def __init__(
        self, captions: CosineScores, faces: FaceScores, row_of_text: np.ndarray, row_of_face: np.ndarray, weight: float
    ) -> None:
        if captions.n_images != faces.n_images:
            counts = f"{captions.n_images} images and detected faces of {faces.n_images}"
            raise IdClipError(f"there are features of {counts}; give both for the same images")
        self._captions, self._faces, self._weight = captions, faces, weight
        self._text_rows, self._face_rows = torch.from_numpy(row_of_text), torch.from_numpy(row_of_face)
        self.n_rows, self.n_images = len(row_of_text), captions.n_images

    def block(self, start: int, stop: int) -> Tensor:
        """See `metrics.Scores`."""
        captions = self._captions.rows(self._text_rows[start:stop])
        return weighted_sum(captions, self._faces.rows(self._face_rows[start:stop]), self._weight)


@dataclass(frozen=True)
class CaptionAndFace:
    """The rival on one set: everything but the weight, which may be tuned on another set."""

    evaluation_set: EvaluationSet
    queries: Queries
    captions: CosineScores
    detected: DetectedFaces
    settings: Settings

    @classmethod
    def prepare(
        cls,
        evaluation_set: EvaluationSet,
        image_features: Array,
        encoder: TextEncoder,
        faces: DetectedFaces,
        settings: Settings | None = None,
    ) -> "CaptionAndFace":
        """Encode the plain captions; image_features [N, E] as for `protocols.run`."""
        settings = settings or Settings()
        queries = general_queries(evaluation_set, "captions", settings)
        texts = encode_queries(queries, evaluation_set, encoder, CAPTION_AND_FACE if settings.progress else None)
        captions = CosineScores(texts, image_features, settings.device)
        return cls(evaluation_set, queries, captions, faces, settings)

    def scores(self, weight: float) -> Scores:
        """One row for every query: its caption and the face of its image's person."""
        faces = self._face_scores(self.evaluation_set.faces)
        return FusedScores(self.captions, faces, self.queries.row_of_query, self.queries.image_of_query, weight)

    def tune(self, weights: Sequence[float] = FACE_WEIGHTS) -> float:
        """The weight with the best t2i R@1 on this set, the smallest of several."""
        recalls = {}
        for weight in sorted(weights):
            ranks = general_ranks(self.scores(weight), self.queries.image_of_query, i2t=False)
            recalls[weight] = general_metrics(ranks, (1,))["t2i_R@1"]
        return max(recalls, key=lambda weight: (recalls[weight], -weight))

    def results(self, weight: float = FACE_WEIGHT) -> Results:
        """The protocols for this ranking; in entity retrieval, where the query holds no context, by the face alone."""
        values: dict[str, float] = {"face_weight": weight}
        strata: dict[str, dict[str, float]] = {}
        if "general" in self.settings.protocols:
            one_row_each = replace(self.queries, row_of_query=np.arange(len(self.queries.image_of_query)))
            general, strata = general_results(self.scores(weight), one_row_each, self.evaluation_set, self.settings)
            values |= general
        if "entity" in self.settings.protocols:
            _, _, means = people(self.evaluation_set)
            values |= entity_results(self._face_scores(means), self.evaluation_set, self.settings)
        return Results({CAPTION_AND_FACE: values}, {CAPTION_AND_FACE: strata})

    def _face_scores(self, query_faces: np.ndarray) -> FaceScores:
        return FaceScores(query_faces, self.detected, self.settings.device)


def _position_within(groups: np.ndarray) -> np.ndarray:
    """0 for the first entry of every group, 1 for its second, ..."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    position = np.empty(len(groups), np.int64)
    position[order] = np.arange(len(groups)) - starts
    return position
