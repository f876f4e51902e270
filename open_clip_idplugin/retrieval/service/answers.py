"""Request parsing and error mapping: JSON in and out, refusals as HTTP 400.

Role: the thin layer between Flask and the two services (`knn_service`, `service`).
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import flask
from flask.json.provider import DefaultJSONProvider

from open_clip_idplugin.errors import Busy, IdClipError
from open_clip_idplugin.gallery.named_people import Hint
from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest
from open_clip_idplugin.retrieval.ranking.request_fields import HINTS
from open_clip_idplugin.storage.finite_json import finite, json_text

MOST_VALUES = (
    250_000  # in one request: 100,000 ids, or 16 people as embeddings and more, which take milliseconds to read
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that is half of a character


class FiniteJSON(DefaultJSONProvider):
    """Flask's JSON, in the order of the keys, which never writes what is no JSON (see `finite_json`)."""

    sort_keys = False

    def dumps(self, obj: Any, **options: Any) -> str:
        """JSON of `obj`."""
        try:
            return super().dumps(obj, allow_nan=False, **options)
        except ValueError:
            return super().dumps(finite(obj), allow_nan=False, **options)


def answer(work: Callable[[], Any]) -> Any:
    """The answer of `work`, or HTTP 400 with the sentence that it raised (503 where it is busy, see `access`)."""
    try:
        return work()
    except Busy:
        raise
    except IdClipError as error:
        return {"message": str(error)}, 400


def with_hints(answered: Any, hints: Sequence[Hint]) -> Any:
    """An answer with its hints (`[{"written": "Will", "people": [...]}]`) in the header HINTS, where there are any."""
    if not hints or isinstance(answered, tuple):
        return answered
    response = flask.jsonify(answered)
    response.headers[HINTS] = json_text([asdict(hint) for hint in hints])  # JSON escapes what is not ASCII
    return response


def json_body() -> Any:
    """The JSON of the request at hand; raises BadRequest where it is none, or more than a request can need.

    Counted before it is read: eleven million empty lists fit into 32 MB and keep every thread waiting for seconds.
    """
    content = flask.request.get_data()
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MOST_VALUES:
        raise BadRequest(f"the request has more than {MOST_VALUES} values")
    try:
        text = content.decode()
        values = json.loads(text, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            json_text(values, ensure_ascii=False).encode()
    except UnicodeError:
        raise BadRequest("the request is not valid JSON: send text as UTF-8, without halves of characters") from None
    except (ValueError, RecursionError):
        raise BadRequest("the request is not valid JSON") from None
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
