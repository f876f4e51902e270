"""clip-retrieval's knn-service, with people in the query.

Role: a checked request + an opened index + people -> results, best first.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from clip_retrieval.clip_back import DOWNLOAD_TIME, FULL_KNN_REQUEST_TIME, TEXT_CLIP_INFERENCE_TIME, KnnService

from open_clip_idplugin.retrieval.answers import Answer, add_pictures, answer, choose_index, json_body
from open_clip_idplugin.retrieval.knn_request import BadRequest, KnnRequest, parse_request
from open_clip_idplugin.retrieval.limits import Limits
from open_clip_idplugin.retrieval.people import People, decode_base64
from open_clip_idplugin.retrieval.removed_rows import IndexWithout
from open_clip_idplugin.retrieval.resources import IdentityResource


class TextWithPeople(str):
    """A text with its people: travels through clip-retrieval's `query` as the text that it is."""

    faces: np.ndarray  # [F, D] float32

    @classmethod
    def with_faces(cls, text: str, faces: np.ndarray) -> "TextWithPeople":
        """Attach face embeddings [F, D] float32 to a text."""
        together = cls(text)
        together.faces = faces
        return together


class IdentityKnnService(KnnService):
    """clip-retrieval's knn-service, whose text may name people."""

    def __init__(
        self,
        clip_resources: dict[str, IdentityResource],
        people: People,
        fetch: Callable[[str], bytes] | None,
        limits: Limits,
    ) -> None:
        """`fetch`: address -> bytes of a picture; None: addresses are refused."""
        super().__init__(clip_resources=clip_resources)
        self._people = people
        self._fetch = fetch
        self._limits = limits

    def compute_query(self, clip_resource: IdentityResource, text_input: Any, **others: Any) -> np.ndarray:
        """The query as [1, D] float32; a text with people is encoded by the encoder that evaluation uses too."""
        if isinstance(text_input, TextWithPeople):
            with TEXT_CLIP_INFERENCE_TIME.time():
                return clip_resource.encoder.encode([str(text_input)], faces=[text_input.faces])
        query: np.ndarray = super().compute_query(clip_resource, text_input, **others)
        return query

    def knn_search(self, query: np.ndarray, modality: str, num_result_ids: int, clip_resource: Any, **rest: Any) -> Any:
        """clip-retrieval's search, around the images that were removed."""
        left = clip_resource.removed.left
        if left is not None:
            name = "image_index" if modality == "image" else "text_index"
            clip_resource = replace(clip_resource, **{name: IndexWithout(getattr(clip_resource, name), left)})
        return super().knn_search(query, modality, num_result_ids, clip_resource, **rest)

    @FULL_KNN_REQUEST_TIME.time()
    def post(self) -> Any:
        """Answer one request."""
        return answer(lambda: self.search(parse_request(json_body())))

    def search(self, request: KnnRequest) -> Answer:
        """Results of a request, best first; `similarity` is the cosine in [-1, 1].

        Raises:
            IdClipError: the request cannot be answered, in one sentence.
        """
        resource = choose_index(self.clip_resources, request.indice_name)
        self._limits.check(request)
        request = self._with_fetched_picture(request)
        self._require_answerable(request, resource)
        results: Answer = self.query(
            text_input=self._text(request),
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
        if request.include_images:
            shown = results[: request.num_images]
            add_pictures(shown, [result["id"] for result in shown], resource)
        return results

    def _text(self, request: KnnRequest) -> str | None:
        if request.text is None or not request.has_people:
            return request.text
        return TextWithPeople.with_faces(request.text, self._people.embeddings(request.faces, request.identities))

    def _require_answerable(self, request: KnnRequest, resource: IdentityResource) -> None:
        if request.modality == "text" and resource.text_index is None:
            raise BadRequest("this index holds no text index: ask for the modality 'image'")
        if request.use_mclip:
            raise BadRequest("this service has no multilingual model: leave out 'use_mclip'")
        if request.text is not None:
            return  # as in clip-retrieval, a text wins over what is given beside it
        if request.image is not None:
            _require_picture(request.image)
        elif request.embedding_input is not None and len(request.embedding_input) != resource.image_index.d:
            raise BadRequest(
                f"'embedding_input' has {len(request.embedding_input)} numbers, but the index holds vectors of "
                f"{resource.image_index.d}"
            )

    def _with_fetched_picture(self, request: KnnRequest) -> KnnRequest:
        if request.image_url is None or request.text is not None or request.image is not None:
            return request
        if self._fetch is None:
            raise BadRequest("this service fetches no addresses: send the picture itself in 'image', as base64")
        with DOWNLOAD_TIME.time():
            content = self._fetch(request.image_url)
        self._limits.check_picture(content, "what lies behind 'image_url'")
        return replace(request, image=base64.b64encode(content).decode(), image_url=None)


def _require_picture(content: str) -> None:
    """Refuse what clip-retrieval would fail on: it decodes the picture again, by itself."""
    from PIL import Image

    raw = decode_base64(content)
    try:
        with Image.open(io.BytesIO(raw)) as picture:
            picture.load()
    except Exception:  # Pillow raises anything on damaged data
        raise BadRequest(
            "'image' is not a picture that can be read: send the bytes of a JPEG or PNG in base64"
        ) from None
