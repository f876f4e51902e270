"""The search service: clip-retrieval's Flask endpoints, with people in the query.

Role: indices + loaded model + people -> a Flask application. `/knn-service` takes every stock request, and `faces` or
`identities` beside a text with `[TOK]`; `/metadata`, `/indices-list`, `/metrics` and the stock page are
clip-retrieval's. A bad request is answered with HTTP 400 and one sentence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flask
from clip_retrieval.clip_back import IndicesList, MetadataService, MetricsSummary
from flask_restful import Api

from open_clip_idplugin.checkpoints import LoadedModel
from open_clip_idplugin.retrieval.answers import Answer, add_pictures, answer, choose_index, json_body
from open_clip_idplugin.retrieval.host_contract import verify_hosts
from open_clip_idplugin.retrieval.knn_request import MOST_RESULTS, BadRequest
from open_clip_idplugin.retrieval.knn_service import IdentityKnnService
from open_clip_idplugin.retrieval.people import People
from open_clip_idplugin.retrieval.resources import load_resources

LARGEST_REQUEST = 64 << 20  # bytes


class RowMetadataService(MetadataService):
    """clip-retrieval's metadata endpoint, with pictures, and sentences for bad requests."""

    def post(self) -> Any:
        """Answer {"ids": [...], "indice_name": ...} with a list of {"id", "metadata"}."""
        return answer(self._metadata)

    def _metadata(self) -> Answer:
        values = json_body()
        ids = values.get("ids") if isinstance(values, dict) else None
        if not isinstance(ids, list) or len(ids) > MOST_RESULTS or any(type(row) is not int for row in ids):
            raise BadRequest(f"'ids' must be a list of at most {MOST_RESULTS} whole numbers")
        resource = choose_index(self.clip_resources, values.get("indice_name"))
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
