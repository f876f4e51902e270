"""The search service: clip-retrieval's Flask endpoints, with people in the query.

Role: indices + loaded model + people -> a Flask application. `/knn-service` takes every stock request, and `faces` or
`identities` beside a text with `[TOK]`; `/metadata`, `/indices-list`, `/metrics` and the stock page below `/stock/` are
clip-retrieval's; the page at `/`, `/people/...`, `/service-info`, `/healthz` and `/openapi.json` are ours. A bad request is
answered with HTTP 400 and one sentence.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flask
import numpy as np
from clip_retrieval.clip_back import IndicesList, MetadataService, MetricsSummary

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.retrieval.ranking.answerable import choose_index
from open_clip_idplugin.retrieval.ranking.answering import Answer, add_pictures
from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder
from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest
from open_clip_idplugin.retrieval.ranking.query_people import People, without_path
from open_clip_idplugin.retrieval.service.access import CONTENT_RULES, Access, close
from open_clip_idplugin.retrieval.service.answers import (
    FiniteJSON,
    answer,
    json_body,
)
from open_clip_idplugin.retrieval.service.immich import Immich, add_immich
from open_clip_idplugin.retrieval.service.knn_service import IdentityKnnService
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.monitoring import add_monitoring
from open_clip_idplugin.retrieval.service.openapi import describe_service
from open_clip_idplugin.retrieval.service.page import add_page, add_stock_page
from open_clip_idplugin.retrieval.service.people_service import PeopleService, add_people
from open_clip_idplugin.retrieval.service.picture_urls import fetch_picture
from open_clip_idplugin.retrieval.service.served_indices import ServedIndices, open_indices
from open_clip_idplugin.retrieval.service.service_info import describe_indices


class RowMetadataService(MetadataService):
    """clip-retrieval's metadata endpoint, with pictures, and sentences for bad requests."""

    def __init__(self, indices: ServedIndices, limits: Limits) -> None:
        """Take the indices as they are at the beginning of a request; Flask makes a view for each."""
        super().__init__(clip_resources=indices.current())
        self._limits = limits

    def post(self) -> Any:
        """Answer {"ids": [...], "indice_name": ...} with a list of {"id", "metadata"}."""
        return answer(self._metadata)

    def _metadata(self) -> Answer:
        values = json_body()
        ids = values.get("ids") if isinstance(values, dict) else None
        if not isinstance(ids, list) or len(ids) > self._limits.results or any(type(row) is not int for row in ids):
            raise BadRequest(f"'ids' must be a list of at most {self._limits.results} whole numbers")
        resource = choose_index(self.clip_resources, values.get("indice_name"))
        if any(not 0 <= row < resource.rows for row in ids):
            raise BadRequest(f"'ids' must lie between 0 and {resource.rows - 1}")
        if np.isin(ids, resource.removed.ids).any():
            raise BadRequest("'ids' names images that were removed from the index")
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
    access: Access | None = None,
    limits: Limits | None = None,
    mmap: bool = False,
    immich: Immich | None = None,
) -> flask.Flask:
    """Build the service.

    Args:
        indices: name -> index folder; the first one answers requests that name none. None at all with `immich` alone,
            which searches its own.
        loaded: the model, with float32 weights (precision fp32, amp or amp_bf16).
        people: gallery and face engine of the service.
        allow_urls: fetch `image_url` (http and https, public addresses only).
        allow_cors: let pages of any origin read the answers, as stock clip-retrieval does.
        access: token and names of the service; None: no token, and this machine's own names only.
        limits: how much a request may ask for; None: the defaults.
        mmap: leave the vectors on the disk.
        immich: also answer an Immich server.

    Raises:
        IndexMismatch: an index is damaged, or was made with another image tower.
        HostMismatchError: the installed clip-retrieval is not one that this was built for.
    """
    served = open_indices(indices, loaded, mmap)
    access, limits = access or Access(allow_cors=allow_cors), limits or Limits()
    app = flask.Flask(__name__, static_folder=None)
    app.json = FiniteJSON(app)
    app.before_request(lambda: _bound_body(limits))
    add_monitoring(app)
    close(app, access)
    if immich is not None:
        encoder = next((opened.encoder for opened in served.current().values()), None) or JointEncoder(loaded)
        add_immich(app, immich, people, encoder, limits)
    if not indices:
        return app
    names, fetch = list(indices), partial(fetch_picture, most_bytes=limits.request_bytes)
    _add_endpoints(app, names, served, people, fetch if allow_urls else None, limits)
    add_people(app, PeopleService(people, served, limits), access.may_edit_people)

    def describe() -> dict[str, Any]:
        with without_path(people.gallery), people.one_state():
            return describe_indices(served, people, limits, access, loaded)

    app.add_url_rule("/service-info", "service-info", lambda: answer(describe))
    add_page(app)
    add_stock_page(app, CONTENT_RULES)
    if access.allow_cors:
        from flask_cors import CORS

        CORS(app, resources=r"/(?!people/).*")  # who is enrolled is for our own page alone
    return app


def _bound_body(limits: Limits) -> None:
    """Have the body refused (413) when it is read and too large for its address; form fields cost many times their bytes."""
    request = flask.request
    request.max_content_length = request.max_form_memory_size = limits.bytes_of(request.path)


def _add_endpoints(
    app: flask.Flask,
    names: list[str],
    served: ServedIndices,
    people: People,
    fetch: Callable[[str], bytes] | None,
    limits: Limits,
) -> None:
    """clip-retrieval's resources as plain Flask views: its own wrapper answers errors with what they say inside."""
    knn = {"people": people, "fetch": fetch, "limits": limits}
    views = {
        "/metrics-summary": MetricsSummary.as_view("metrics-summary"),
        "/indices-list": IndicesList.as_view("indices-list", indices=names),
        "/metadata": RowMetadataService.as_view("metadata", indices=served, limits=limits),
        "/knn-service": IdentityKnnService.as_view("knn-service", indices=served, **knn),
    }
    for address, view in views.items():
        app.add_url_rule(address, view_func=view)
    description = describe_service(names, limits)
    app.add_url_rule("/openapi.json", "openapi", lambda: description)
