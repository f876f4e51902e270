"""What the endpoints share: the body of a request, the index that it names, pictures beside results, errors as HTTP 400.

Role: the thin layer between Flask and the two services (`knn_service`, `service`).
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import flask

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.named_people import Hint
from open_clip_idplugin.retrieval.knn_request import BadRequest
from open_clip_idplugin.retrieval.request_fields import HINTS
from open_clip_idplugin.retrieval.resources import IdentityResource

Answer = list[dict[str, Any]]


def add_pictures(results: Answer, rows: Sequence[int], resource: IdentityResource) -> None:
    """Put each row's thumbnail into `image`, as base64 JPEG, where there is one."""
    for result, jpeg in zip(results, resource.thumbnails.get(rows)):
        if jpeg is not None:
            result["image"] = base64.b64encode(jpeg).decode()


def answer(work: Callable[[], Any]) -> Any:
    """The answer of `work`, or HTTP 400 with the sentence that it raised."""
    try:
        return work()
    except IdClipError as error:
        return {"message": str(error)}, 400


def with_hints(answered: Any, hints: Sequence[Hint]) -> Any:
    """An answer with its hints (`[{"written": "Will", "people": [...]}]`) in the header HINTS, where there are any."""
    if not hints or isinstance(answered, tuple):
        return answered
    response = flask.jsonify(answered)
    response.headers[HINTS] = json.dumps([asdict(hint) for hint in hints])  # JSON escapes what is not ASCII
    return response


def json_body() -> Any:
    """The JSON of the request at hand; raises BadRequest where it is none."""
    try:
        return json.loads(flask.request.get_data())
    except (ValueError, RecursionError):
        raise BadRequest("the request is not valid JSON") from None


def choose_index(resources: Mapping[str, IdentityResource], name: object) -> IdentityResource:
    """The index of that name, the first one for none; raises BadRequest for a name that is not served."""
    if name is None or name == "":
        return next(iter(resources.values()))
    if not isinstance(name, str) or name not in resources:
        raise BadRequest(f"'indice_name' must be one of {', '.join(resources)}")
    return resources[name]
