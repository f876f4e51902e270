"""Monitoring: Flask application -> the same with `/healthz` and Prometheus metrics, clip-retrieval's and ours.

clip-retrieval empties the process's registry when it is imported, so that our metrics are made after it.
"""

import time
from typing import Any

import clip_retrieval.clip_back  # noqa: F401  (must come before our metrics; see above)
import flask
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

ANSWERS = Counter("idclip_answers", "Answers by endpoint and HTTP status", ("endpoint", "status"))
SECONDS = Histogram("idclip_request_seconds", "Time from request to answer by endpoint", ("endpoint",))
IN_PROGRESS = Gauge("idclip_requests_in_progress", "Requests being answered")
INDEX_ROWS = Gauge("idclip_index_rows", "Images of each served index", ("indice_name",))


def add_monitoring(app: flask.Flask) -> None:
    """Count and time every request; serve `/healthz` and `/metrics`."""
    app.before_request(_begin)
    app.teardown_request(_end)
    app.after_request(_count)
    app.add_url_rule("/healthz", "healthz", lambda: {"status": "ready"})
    app.add_url_rule("/metrics", "metrics", lambda: flask.Response(generate_latest(), content_type=CONTENT_TYPE_LATEST))


def _begin() -> None:
    flask.g.began = time.perf_counter()
    IN_PROGRESS.inc()


def _end(_: Any) -> None:
    if flask.g.pop("began", None) is not None:
        IN_PROGRESS.dec()


def _count(response: flask.Response) -> flask.Response:
    endpoint = flask.request.endpoint or "none"  # names of ours, never what a client wrote
    ANSWERS.labels(endpoint, str(response.status_code)).inc()
    SECONDS.labels(endpoint).observe(time.perf_counter() - flask.g.get("began", time.perf_counter()))
    return response
