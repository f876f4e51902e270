"""The search service: clip-retrieval's Flask endpoints, with people in the query.

Role: indices + loaded model + people -> a Flask application. `/knn-service` takes every stock request, and `faces` or
`identities` beside a text with `[TOK]`; `/metadata`, `/indices-list`, `/metrics` and the stock page are
clip-retrieval's. A bad request is answered with HTTP 400 and one sentence.
"""

import base64
import http.client
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flask
import numpy as np
from clip_retrieval.clip_back import (
    FULL_KNN_REQUEST_TIME,
    TEXT_CLIP_INFERENCE_TIME,
    IndicesList,
    KnnService,
    MetadataService,
    MetricsSummary,
)
from flask_restful import Api

from open_clip_idplugin.checkpoints import LoadedModel
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.host_contract import verify_hosts
from open_clip_idplugin.retrieval.knn_request import MOST_RESULTS, BadRequest, KnnRequest, parse_request
from open_clip_idplugin.retrieval.people import People, decode_base64
from open_clip_idplugin.retrieval.resources import IdentityResource, load_resources

LARGEST_REQUEST = 64 << 20  # bytes

Answer = list[dict[str, Any]]


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

    def __init__(self, clip_resources: dict[str, IdentityResource], people: People, allow_urls: bool) -> None:
        super().__init__(clip_resources=clip_resources)
        self._people = people
        self._allow_urls = allow_urls

    def compute_query(self, clip_resource: IdentityResource, text_input: Any, **others: Any) -> np.ndarray:
        """The query as [1, D] float32; a text with people is encoded by the encoder that evaluation uses too."""
        if isinstance(text_input, TextWithPeople):
            with TEXT_CLIP_INFERENCE_TIME.time():
                return clip_resource.encoder.encode([str(text_input)], faces=[text_input.faces])
        try:
            query: np.ndarray = super().compute_query(clip_resource, text_input, **others)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if text_input is not None or others.get("image_url_input") is None:
                raise
            raise BadRequest(f"no picture could be fetched from 'image_url' ({type(error).__name__})") from None
        return query

    @FULL_KNN_REQUEST_TIME.time()
    def post(self) -> Any:
        """Answer one request."""
        return _answer(lambda: self.search(parse_request(_json_body())))

    def search(self, request: KnnRequest) -> Answer:
        """Results of a request, best first; `similarity` is the cosine in [-1, 1].

        Raises:
            IdClipError: the request cannot be answered, in one sentence.
        """
        resource = _choose_index(self.clip_resources, request.indice_name)
        self._require_answerable(request, resource)
        results: Answer = self.query(
            text_input=self._text(request),
            image_input=request.image,
            image_url_input=request.image_url,
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
        elif request.image_url is not None:
            self._require_allowed(request.image_url)
        elif request.embedding_input is not None and len(request.embedding_input) != resource.image_index.d:
            raise BadRequest(
                f"'embedding_input' has {len(request.embedding_input)} numbers, but the index holds vectors of "
                f"{resource.image_index.d}"
            )

    def _require_allowed(self, url: str) -> None:
        if not self._allow_urls:
            raise BadRequest("this service fetches no addresses: send the picture itself in 'image', as base64")
        if not url.lower().startswith(("http://", "https://")):
            raise BadRequest("'image_url' must be an http or https address")


class RowMetadataService(MetadataService):
    """clip-retrieval's metadata endpoint, with pictures, and sentences for bad requests."""

    def post(self) -> Any:
        """Answer {"ids": [...], "indice_name": ...} with a list of {"id", "metadata"}."""
        return _answer(self._metadata)

    def _metadata(self) -> Answer:
        values = _json_body()
        ids = values.get("ids") if isinstance(values, dict) else None
        if not isinstance(ids, list) or len(ids) > MOST_RESULTS or any(type(row) is not int for row in ids):
            raise BadRequest(f"'ids' must be a list of at most {MOST_RESULTS} whole numbers")
        resource = _choose_index(self.clip_resources, values.get("indice_name"))
        if any(not 0 <= row < resource.rows for row in ids):
            raise BadRequest(f"'ids' must lie between 0 and {resource.rows - 1}")
        metas = resource.metadata_provider.get(ids)
        add_pictures(metas, ids, resource)
        return [{"id": row, "metadata": meta} for row, meta in zip(ids, metas)]


def create_app(
    indices: Mapping[str, str | Path],
    loaded: LoadedModel,
    people: People,
    *,
    allow_urls: bool = False,
    allow_cors: bool = False,
) -> flask.Flask:
    """Build the service.

    Args:
        indices: name -> index folder; the first one answers requests that name none.
        loaded: the model, with float32 weights (precision fp32, amp or amp_bf16).
        people: gallery and face engine of the service.
        allow_urls: fetch `image_url` (http and https).
        allow_cors: let pages of any origin read the answers, as stock clip-retrieval does.

    Raises:
        IndexMismatch: an index is damaged, or was made with another image tower.
        HostMismatchError: the installed clip-retrieval is not one that this was built for.
    """
    verify_hosts()
    resources = load_resources({name: Path(folder) for name, folder in indices.items()}, loaded)
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    _add_metrics(app)
    _add_stock_page(app)
    api = Api(app)
    api.add_resource(MetricsSummary, "/metrics-summary")
    api.add_resource(IndicesList, "/indices-list", resource_class_kwargs={"indices": list(resources)})
    api.add_resource(RowMetadataService, "/metadata", resource_class_kwargs={"clip_resources": resources})
    api.add_resource(
        IdentityKnnService,
        "/knn-service",
        resource_class_kwargs={"clip_resources": resources, "people": people, "allow_urls": allow_urls},
    )
    if allow_cors:
        from flask_cors import CORS

        CORS(app)
    return app


def add_pictures(results: Answer, rows: Sequence[int], resource: IdentityResource) -> None:
    """Put each row's thumbnail into `image`, as base64 JPEG, where there is one."""
    for result, jpeg in zip(results, resource.thumbnails.get(rows)):
        if jpeg is not None:
            result["image"] = base64.b64encode(jpeg).decode()


def _answer(work: Callable[[], Answer]) -> Any:
    try:
        return work()
    except IdClipError as error:
        return {"message": str(error)}, 400


def _json_body() -> Any:
    try:
        return json.loads(flask.request.get_data())
    except (ValueError, RecursionError):
        raise BadRequest("the request is not valid JSON") from None


def _choose_index(resources: Mapping[str, IdentityResource], name: object) -> IdentityResource:
    if name is None or name == "":
        return next(iter(resources.values()))
    if not isinstance(name, str) or name not in resources:
        raise BadRequest(f"'indice_name' must be one of {', '.join(resources)}")
    return resources[name]


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


def _add_metrics(app: flask.Flask) -> None:
    from prometheus_client import make_wsgi_app
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    # Flask's documented way to wrap an application; setattr, because a type checker sees a method there.
    setattr(app, "wsgi_app", DispatcherMiddleware(app.wsgi_app, {"/metrics": make_wsgi_app()}))  # noqa: B010


def _add_stock_page(app: flask.Flask) -> None:
    """clip-retrieval's own search page, where its wheel brought it along."""
    import clip_retrieval
    from clip_retrieval.clip_front import add_static_endpoints

    if (Path(clip_retrieval.__file__).parent.parent / "front" / "build" / "index.html").exists():
        add_static_endpoints(app, None, None, "url")
