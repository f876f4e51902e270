"""clip-retrieval's knn-service with people in the query: a checked request -> results, by its own ranking or by ours."""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
from clip_retrieval.clip_back import (
    FULL_KNN_REQUEST_TIME,
    IMAGE_CLIP_INFERENCE_TIME,
    KNN_INDEX_TIME,
    TEXT_CLIP_INFERENCE_TIME,
    KnnService,
)

from open_clip_idplugin.gallery.named_people import Hint
from open_clip_idplugin.prompts import placeholder_numbers
from open_clip_idplugin.queries.person_as import encode_people
from open_clip_idplugin.retrieval.index_folder.removed_rows import IndexWithout
from open_clip_idplugin.retrieval.ranking.answerable import choose_index, require_answerable, require_ranked
from open_clip_idplugin.retrieval.ranking.answering import (
    Answer,
    Steps,
    add_pictures,
    picture_vector,
    ranked_answer,
    with_key,
)
from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest, parse_request
from open_clip_idplugin.retrieval.ranking.opened_index import OpenedIndex
from open_clip_idplugin.retrieval.ranking.query_parts import Persons, named_people, person_as_of
from open_clip_idplugin.retrieval.ranking.query_people import People, without_path
from open_clip_idplugin.retrieval.ranking.ranking import Ranking
from open_clip_idplugin.retrieval.service.answers import answer, json_body, with_hints
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.resources import IdentityResource
from open_clip_idplugin.retrieval.service.served_indices import ServedIndices


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
            with IMAGE_CLIP_INFERENCE_TIME.time():
                vector = picture_vector(clip_resource, others["image_input"])
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
        return [with_key(result) for result in results]

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
        if request.beyond_stock(resource.faces is not None):
            results = ranked_answer(request, resource, people, _HostSteps(self))
        else:
            results = self._stock(request, resource, people)
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

    def _text(self, request: KnnRequest, resource: IdentityResource, people: People) -> str | None:
        """The text, with its people where it has any."""
        if request.text is None or not (request.has_people or placeholder_numbers(request.text)):
            return request.text
        asked = named_people(request, people, resource.faces)
        person_as, why_not = person_as_of(request, people, resource.encoder, resource.faces, asked)
        require_ranked(len(asked) > 0, person_as, why_not, request, resource.faces)
        return TextWithPeople.with_persons(request.text, asked, person_as)


class _HostSteps(Steps):
    """Steps of an answer measured by clip-retrieval's metrics, filtered and mapped to metadata by its service."""

    def __init__(self, service: KnnService) -> None:
        self._service = service

    def encoding(self) -> contextlib.AbstractContextManager[Any]:
        timer: contextlib.AbstractContextManager[Any] = TEXT_CLIP_INFERENCE_TIME.time()
        return timer

    def picture_encoding(self) -> contextlib.AbstractContextManager[Any]:
        timer: contextlib.AbstractContextManager[Any] = IMAGE_CLIP_INFERENCE_TIME.time()
        return timer

    def searching(self) -> contextlib.AbstractContextManager[Any]:
        timer: contextlib.AbstractContextManager[Any] = KNN_INDEX_TIME.time()
        return timer

    def to_remove(self, request: KnnRequest, index: OpenedIndex, vectors: np.ndarray) -> Collection[int]:
        checks = (request.deduplicate, request.use_safety_model, request.use_violence_detector)
        removed: set[int] = self._service.post_filter(None, vectors, *checks, violence_detector=None)
        return removed

    def with_metadata(self, ranking: Ranking, request: KnnRequest, index: OpenedIndex) -> Answer:
        metadata = index.metadata_provider
        results: Answer = self._service.map_to_metadata(
            ranking.rows, ranking.similarities, request.num_images, metadata, metadata.columns
        )
        return results
