"""Query answering: a checked request + an opened index + people -> results, best first, by our own ranking.

Needs neither clip-retrieval nor Flask: the service measures and maps to metadata through the host (`Steps`), a search in this
process through what is here.
"""

import base64
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from open_clip_idplugin.gallery.named_people import Hint
from open_clip_idplugin.pictures import ImageRejected
from open_clip_idplugin.pictures.bounded_decoding import decode_picture
from open_clip_idplugin.retrieval.index_folder.metadata_columns import KEY, KEY_COLUMN
from open_clip_idplugin.retrieval.ranking.answerable import choose_index, require_answerable, require_faces
from open_clip_idplugin.retrieval.ranking.explain import explain
from open_clip_idplugin.retrieval.ranking.filters import allowed_rows, column
from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest, KnnRequest
from open_clip_idplugin.retrieval.ranking.opened_index import OpenedIndex
from open_clip_idplugin.retrieval.ranking.query_parts import query_parts
from open_clip_idplugin.retrieval.ranking.query_people import People, without_path
from open_clip_idplugin.retrieval.ranking.ranking import (
    Ranking,
    Searched,
    collapse,
    first_of_each,
    near_duplicates,
    rank,
)
from open_clip_idplugin.retrieval.ranking.ranking_request import NEAR_DUPLICATES

LIKENESS = 0.94  # cosine of two images from which clip-retrieval calls them near-duplicates
Answer = list[dict[str, Any]]


class Steps:
    """What a host adds to the steps of an answer; here it adds nothing."""

    def encoding(self) -> contextlib.AbstractContextManager[Any]:
        """Around the text tower."""
        return contextlib.nullcontext()

    def picture_encoding(self) -> contextlib.AbstractContextManager[Any]:
        """Around the image tower."""
        return contextlib.nullcontext()

    def searching(self) -> contextlib.AbstractContextManager[Any]:
        """Around the ranking."""
        return contextlib.nullcontext()

    def to_remove(self, request: KnnRequest, index: OpenedIndex, vectors: np.ndarray) -> Collection[int]:
        """Places among `vectors` [R, E], unit rows, best first, that clip-retrieval's own filters leave out."""
        raise BadRequest(
            "'deduplicate', 'use_safety_model' and 'use_violence_detector' are clip-retrieval's: ask a service (idclip serve), "
            f"or collapse by {NEAR_DUPLICATES} or a column"
        )

    def with_metadata(self, ranking: Ranking, request: KnnRequest, index: OpenedIndex) -> Answer:
        """Rows as clip-retrieval answers them: the metadata of the first `num_images`, id and similarity of all."""
        found = index.metadata_provider.get(ranking.rows[: request.num_images].tolist())
        found += [{} for _ in ranking.rows[request.num_images :]]
        numbers = zip(found, ranking.rows.tolist(), ranking.similarities.tolist(), strict=True)
        return [{**with_key(values), "id": row, "similarity": similarity} for values, row, similarity in numbers]


@dataclass(frozen=True)
class LocalSearch:
    """Answers requests in this process, from opened indices by name."""

    indices: Mapping[str, OpenedIndex]
    people: People

    def search(self, request: KnnRequest) -> tuple[Answer, tuple[Hint, ...]]:
        """Results of a request that `Limits.admit` let in, best first, and words that may have been meant as names.

        Raises:
            IdClipError: the request cannot be answered, in one sentence.
        """
        with without_path(self.people.gallery):
            index = choose_index(self.indices, request.indice_name)
            require_answerable(request, index)
            request, people, hints = self.people.of_request(request, index.faces)
            results = ranked_answer(request, index, people)
            if request.include_images:
                shown = results[: request.num_images]
                add_pictures(shown, [result["id"] for result in shown], index)
            return results, hints


def ranked_answer(request: KnnRequest, index: OpenedIndex, people: People, steps: Steps | None = None) -> Answer:
    """The results of a request whose people are resolved: people in the images, thresholds, filters, pages.

    Raises:
        IdClipError: a person cannot be resolved, or the index cannot answer it.
    """
    steps = steps or Steps()
    searched = _searched(request, index)
    vector = _vector(request, index, steps)
    with steps.encoding():
        parts = query_parts(request, people, index.encoder, index.faces, vector)
    require_faces(parts, request, index.faces)
    start = request.offset or 0
    wanted = start + request.num_result_ids
    with steps.searching():
        ranking = rank(parts, request, request.people.only, searched, wanted)
        ranking = _without_duplicates(ranking, request, index, searched, wanted, steps)
    page = ranking.take(np.arange(start, min(wanted, len(ranking.rows))))
    results = steps.with_metadata(page, request, index)
    for place, result in enumerate(results):
        result.update(explain(page, place, parts, request, index.faces))
    return results


def with_key(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with the key under clip-retrieval's name too: a text, never the file of that name."""
    return {**values, KEY_COLUMN: values[KEY]} if KEY in values else dict(values)


def picture_vector(index: OpenedIndex, content: bytes) -> np.ndarray:
    """[E] float32, a unit vector, of a request's picture; raises BadRequest where it cannot be read, in time too."""
    try:
        picture = decode_picture(content)
    except ImageRejected as error:
        raise BadRequest(
            f"'image' is not a picture that can be read ({error.reason}): send the bytes of a JPEG or PNG in base64"
        ) from None
    pixels = index.preprocess(picture).unsqueeze(0).to(index.device)
    with torch.no_grad():
        features = index.model.encode_image(pixels)
        return np.asarray((features / features.norm(dim=-1, keepdim=True)).cpu().float()[0])


def add_pictures(results: Answer, rows: Sequence[int], index: OpenedIndex) -> None:
    """Put each row's thumbnail into `image`, as base64 JPEG, where there is one."""
    for result, jpeg in zip(results, index.thumbnails.get(rows)):
        if jpeg is not None:
            result["image"] = base64.b64encode(jpeg).decode()


def _searched(request: KnnRequest, index: OpenedIndex) -> Searched:
    image_index, vectors = index.image_index, index.vectors
    if request.modality == "text" and index.text_index is not None and index.text_vectors is not None:
        image_index, vectors = index.text_index, index.text_vectors
    hidden = request.exclude_ids + (() if request.image_id is None else (request.image_id,))
    allowed = allowed_rows(index.metadata_provider, request.filters, hidden)
    left = index.removed.left
    if left is not None:
        allowed = left if allowed is None else allowed & left
    return Searched(image_index, vectors, index.faces, allowed)


def _vector(request: KnnRequest, index: OpenedIndex, steps: Steps) -> np.ndarray | None:
    """[E] of what stands for the text, in the order in which clip-retrieval looks; None where nothing does."""
    if request.text is not None:
        return None
    if request.image is not None:
        with steps.picture_encoding():
            return picture_vector(index, request.image)
    if request.embedding_input is not None:
        return np.asarray(request.embedding_input, np.float32)
    if request.image_id is not None:
        return index.vectors.get(np.array([request.image_id]))[0]
    return None


def _without_duplicates(
    ranking: Ranking, request: KnnRequest, index: OpenedIndex, searched: Searched, wanted: int, steps: Steps
) -> Ranking:
    """The first `wanted` results without those that the request calls duplicates."""
    how = request.collapse
    if how == NEAR_DUPLICATES:
        if index.faces is None:
            raise BadRequest(
                "near-duplicates are told apart by their faces, and this index holds none: add them with "
                "`idclip index_faces`, or collapse by a column"
            )
        ranking = ranking.take(np.arange(min(len(ranking.rows), 4 * wanted)))
        threshold = request.same_face(index.faces.calibration)
        ranking = collapse(ranking, wanted, near_duplicates(ranking, searched, LIKENESS, threshold))
    elif how is not None:
        values = column(index.metadata_provider, how).to_numpy()[ranking.rows]
        ranking = ranking.take(first_of_each(values)[:wanted])
    if (request.deduplicate or request.use_safety_model or request.use_violence_detector) and len(ranking.rows):
        ranking = ranking.take(
            np.arange(min(len(ranking.rows), wanted))
        )  # as in clip-retrieval: within what was asked for
        vectors = searched.vectors.get(ranking.rows)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        removed = steps.to_remove(request, index, vectors)
        ranking = ranking.take(np.setdiff1d(np.arange(len(ranking.rows)), list(removed)))
    return ranking
