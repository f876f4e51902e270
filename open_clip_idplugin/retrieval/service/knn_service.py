"""Query answering: a checked request + an opened index + people -> results, best first, in clip-retrieval's knn-service."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from clip_retrieval.clip_back import (
    FULL_KNN_REQUEST_TIME,
    IMAGE_CLIP_INFERENCE_TIME,
    IMAGE_PREPRO_TIME,
    KNN_INDEX_TIME,
    TEXT_CLIP_INFERENCE_TIME,
    KnnService,
    normalized,
)

from open_clip_idplugin.gallery.named_people import Hint
from open_clip_idplugin.prompts import placeholder_numbers
from open_clip_idplugin.queries.person_as import encode_people
from open_clip_idplugin.retrieval.index_folder.metadata_columns import KEY, KEY_COLUMN
from open_clip_idplugin.retrieval.index_folder.removed_rows import IndexWithout
from open_clip_idplugin.retrieval.ranking.explain import explain
from open_clip_idplugin.retrieval.ranking.filters import allowed_rows, column
from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest, KnnRequest, parse_request
from open_clip_idplugin.retrieval.ranking.query_parts import Persons, named_people, person_as_of, query_parts
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
from open_clip_idplugin.retrieval.service.answerable import (
    choose_index,
    require_answerable,
    require_faces,
    require_ranked,
)
from open_clip_idplugin.retrieval.service.answers import (
    Answer,
    add_pictures,
    answer,
    json_body,
    with_hints,
)
from open_clip_idplugin.retrieval.service.limits import Limits, picture_of
from open_clip_idplugin.retrieval.service.resources import IdentityResource
from open_clip_idplugin.retrieval.service.served_indices import ServedIndices

LIKENESS = 0.94  # cosine of two images from which clip-retrieval calls them near-duplicates


class TextWithPeople(str):
    """A text with its people: travels through clip-retrieval's `query` as the text that it is."""

    persons: Persons
    person_as: str

    @classmethod
    def with_persons(cls, text: str, persons: Persons, person_as: str) -> "TextWithPeople":
        """Attach who stands for the placeholders, and as what (see `person_as`)."""
        together = cls(text)
        together.persons, together.person_as = persons, person_as
        return together


class IdentityKnnService(KnnService):
    """clip-retrieval's knn-service, whose text may name people."""

    def __init__(
        self,
        indices: ServedIndices,
        people: People,
        fetch: Callable[[str], bytes] | None,
        limits: Limits,
    ) -> None:
        """Take the indices as they are at the beginning of a request; Flask makes a view for each.

        fetch: address -> bytes of a picture; None: addresses are refused.
        """
        super().__init__(clip_resources=indices.current())
        self._people = people
        self._fetch = fetch
        self._limits = limits
        self.hints: tuple[Hint, ...] = ()  # of the last search

    def compute_query(self, clip_resource: IdentityResource, text_input: Any, **others: Any) -> np.ndarray:
        """The query as [1, D] float32; a text is encoded by the encoder that evaluation uses too, with or without people."""
        encoder = clip_resource.encoder
        if isinstance(text_input, TextWithPeople):
            persons, groups = text_input.persons, [[str(text_input)]]
            with TEXT_CLIP_INFERENCE_TIME.time():
                return encode_people(encoder, text_input.person_as, groups, [persons.faces], [persons.words])
        if text_input:
            with TEXT_CLIP_INFERENCE_TIME.time():
                return encoder.encode([text_input])
        if others.get("image_input") is not None:  # clip-retrieval would decode it without bounds
            vector = _picture_vector(clip_resource, others["image_input"])
            others = {**others, "image_input": None, "embedding_input": vector}
        query: np.ndarray = super().compute_query(clip_resource, text_input, **others)
        return query

    def knn_search(self, query: np.ndarray, modality: str, num_result_ids: int, clip_resource: Any, **rest: Any) -> Any:
        """clip-retrieval's search, around the images that were removed."""
        left = clip_resource.removed.left
        if left is not None:
            name = "image_index" if modality == "image" else "text_index"
            clip_resource = replace(clip_resource, **{name: IndexWithout(getattr(clip_resource, name), left)})
        return super().knn_search(query, modality, num_result_ids, clip_resource, **rest)

    def map_to_metadata(self, *args: Any, **kwargs: Any) -> Answer:
        """The host's, with the key under clip-retrieval's name too: a text, never the file of that name."""
        results: Answer = super().map_to_metadata(*args, **kwargs)
        return [{**result, KEY_COLUMN: result[KEY]} if KEY in result else result for result in results]

    @FULL_KNN_REQUEST_TIME.time()
    def post(self) -> Any:
        """Answer one request; hints at people who may have been meant come in a header, as the answer is a plain list."""
        return with_hints(answer(self._answer), self.hints)

    def _answer(self) -> Answer:
        return self.search(self._limits.admit(parse_request(json_body()), self._fetch))

    def search(self, request: KnnRequest) -> Answer:
        """Results of a request that `Limits.admit` let in, best first; `similarity` is the cosine in [-1, 1].

        Raises:
            IdClipError: the request cannot be answered, in one sentence, which does not say where the gallery lies.
        """
        with without_path(self._people.gallery):
            return self._results(request)

    def _results(self, request: KnnRequest) -> Answer:
        resource = choose_index(self.clip_resources, request.indice_name)
        require_answerable(request, resource)
        request, people, self.hints = self._people.of_request(request, resource.faces)
        answer_by = self._hybrid if request.beyond_stock(resource.faces is not None) else self._stock
        results = answer_by(request, resource, people)
        if request.include_images:
            shown = results[: request.num_images]
            add_pictures(shown, [result["id"] for result in shown], resource)
        return results

    def _stock(self, request: KnnRequest, resource: IdentityResource, people: People) -> Answer:
        """By clip-retrieval itself; at most the text's people are ours."""
        text = self._text(request, resource, people)
        results: Answer = self.query(
            text_input=text,
            image_input=request.image,
            image_url_input=None,  # fetched above; clip-retrieval's own fetcher would follow any address
            embedding_input=request.embedding_input,
            modality=request.modality,
            num_images=request.num_images,
            num_result_ids=min(request.num_result_ids, resource.rows),
            indice_name=request.indice_name,
            use_mclip=False,
            deduplicate=request.deduplicate,
            use_safety_model=request.use_safety_model,
            use_violence_detector=request.use_violence_detector,
            aesthetic_score=request.aesthetic_score,
            aesthetic_weight=request.aesthetic_weight,
        )
        if isinstance(text, TextWithPeople) and len(text.persons):
            for result in results:
                result["person_as"] = text.person_as
        return results

    def _hybrid(self, request: KnnRequest, resource: IdentityResource, people: People) -> Answer:
        """By our own ranking: people in the images, thresholds, filters, pages."""
        searched = self._searched(request, resource)
        with TEXT_CLIP_INFERENCE_TIME.time():
            vector = self._vector(request, resource, searched)
            parts = query_parts(request, people, resource.encoder, resource.faces, vector)
        require_faces(parts, request, resource.faces)
        start = request.offset or 0
        with KNN_INDEX_TIME.time():
            ranking = rank(parts, request, request.people.only, searched, start + request.num_result_ids)
            ranking = self._without_duplicates(ranking, request, resource, searched, start + request.num_result_ids)
        page = ranking.take(np.arange(start, min(start + request.num_result_ids, len(ranking.rows))))
        results: Answer = self.map_to_metadata(
            page.rows, page.similarities, request.num_images, resource.metadata_provider, resource.columns_to_return
        )
        for place, result in enumerate(results):
            result.update(explain(page, place, parts, request, resource.faces))
        return results

    def _searched(self, request: KnnRequest, resource: IdentityResource) -> Searched:
        index, vectors = resource.image_index, resource.vectors
        if request.modality == "text" and resource.text_vectors is not None:
            index, vectors = resource.text_index, resource.text_vectors
        hidden = request.exclude_ids + (() if request.image_id is None else (request.image_id,))
        allowed = allowed_rows(resource.metadata_provider, request.filters, hidden)
        left = resource.removed.left
        if left is not None:
            allowed = left if allowed is None else allowed & left
        return Searched(index, vectors, resource.faces, allowed)

    def _vector(self, request: KnnRequest, resource: IdentityResource, searched: Searched) -> np.ndarray | None:
        """[E] of what stands for the text, in the order in which clip-retrieval looks; None where nothing does."""
        if request.text is not None:
            return None
        others = (request.image, request.image_url, request.embedding_input)
        if any(other is not None for other in others):
            image, url, embedding = others
            query = self.compute_query(
                resource,
                None,
                image_input=image,
                image_url_input=url,
                embedding_input=embedding,
                use_mclip=False,
                aesthetic_score=request.aesthetic_score,
                aesthetic_weight=request.aesthetic_weight,
            )
            return np.asarray(query[0], np.float32)
        if request.image_id is not None:
            return resource.vectors.get(np.array([request.image_id]))[0]
        return None

    def _without_duplicates(
        self, ranking: Ranking, request: KnnRequest, resource: IdentityResource, searched: Searched, wanted: int
    ) -> Ranking:
        """The first `wanted` results without those that the request calls duplicates."""
        how = request.collapse
        if how == NEAR_DUPLICATES:
            if resource.faces is None:
                raise BadRequest(
                    "near-duplicates are told apart by their faces, and this index holds none: add them with "
                    "`idclip index_faces`, or collapse by a column"
                )
            ranking = ranking.take(np.arange(min(len(ranking.rows), 4 * wanted)))
            threshold = request.same_face(resource.faces.calibration)
            ranking = collapse(ranking, wanted, near_duplicates(ranking, searched, LIKENESS, threshold))
        elif how is not None:
            values = column(resource.metadata_provider, how).to_numpy()[ranking.rows]
            ranking = ranking.take(first_of_each(values)[:wanted])
        checks = (request.deduplicate, request.use_safety_model, request.use_violence_detector)
        if any(checks) and len(ranking.rows):  # as in clip-retrieval, within what was asked for
            ranking = ranking.take(np.arange(min(len(ranking.rows), wanted)))
            vectors = normalized(searched.vectors.get(ranking.rows))
            removed = self.post_filter(
                resource.safety_model, vectors, *checks, violence_detector=resource.violence_detector
            )
            ranking = ranking.take(np.setdiff1d(np.arange(len(ranking.rows)), list(removed)))
        return ranking

    def _text(self, request: KnnRequest, resource: IdentityResource, people: People) -> str | None:
        """The text, with its people where it has any."""
        if request.text is None or not (request.has_people or placeholder_numbers(request.text)):
            return request.text
        asked = named_people(request, people, resource.faces)
        person_as, why_not = person_as_of(request, people, resource.encoder, resource.faces, asked)
        require_ranked(len(asked) > 0, person_as, why_not, request, resource.faces)
        return TextWithPeople.with_persons(request.text, asked, person_as)


def _picture_vector(resource: IdentityResource, content: bytes) -> np.ndarray:
    """[E] float32, a unit vector, of a picture."""
    with IMAGE_PREPRO_TIME.time():
        pixels = resource.preprocess(picture_of(content)).unsqueeze(0).to(resource.device)
    with IMAGE_CLIP_INFERENCE_TIME.time(), torch.no_grad():
        features = resource.model.encode_image(pixels)
        return np.asarray((features / features.norm(dim=-1, keepdim=True)).cpu().float()[0])
