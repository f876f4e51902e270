"""The addresses below `/people/`, for the search page.

Role: Flask application + `PeopleService` -> the same with six addresses more. All take POST with JSON and nothing else, which
other origins' pages cannot send unasked (see `access`); what changes the gallery is refused where the service is read-only.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flask

from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest, refuse_unknown, row_field, text_field
from open_clip_idplugin.retrieval.service.answers import answer, json_body
from open_clip_idplugin.retrieval.service.people_requests import (
    parse_enroll,
    parse_list,
    parse_threshold,
    require_object,
    required_name,
)
from open_clip_idplugin.retrieval.service.people_service import PeopleService

Values = Mapping[str, Any]
_READ_ONLY = "this service changes nobody: it was started with --read_only_people, or others reach it without a token"


def add_people(app: flask.Flask, service: PeopleService, may_edit: bool) -> None:
    """Serve everything about people; `may_edit`: also what changes the gallery."""
    reading = {
        "list": lambda values: service.list_people(parse_list(values)),
        "in-image": lambda values: _in_image(service, values),
        "in-photo": lambda values: _in_photo(service, values),
    }
    editing = {
        "enroll": lambda values: service.enroll(parse_enroll(values)),
        "rename": lambda values: _rename(service, values),
        "forget": lambda values: _forget(service, values),
    }
    for name, work in reading.items():
        _add(app, name, work, True)
    for name, work in editing.items():
        _add(app, name, work, may_edit)


def _add(app: flask.Flask, name: str, work: Callable[[Values], dict[str, Any]], allowed: bool) -> None:
    def view() -> Any:
        if not allowed:
            return {"message": _READ_ONLY}, 403
        if flask.request.mimetype != "application/json":
            flask.abort(415)
        return answer(lambda: work(require_object(json_body())))

    app.add_url_rule(f"/people/{name}", f"people-{name}", view, methods=["POST"])


def _in_image(service: PeopleService, values: Values) -> dict[str, Any]:
    refuse_unknown(values, ("image_id", "indice_name", "same_face"), "the request")
    row = row_field(values, "image_id")
    if row is None:
        raise BadRequest("'image_id' must be a whole number from 0")
    return service.in_image(values, row, parse_threshold(values))


def _in_photo(service: PeopleService, values: Values) -> dict[str, Any]:
    refuse_unknown(values, ("photo", "same_face"), "the request")
    photo = text_field(values, "photo")
    if photo is None:
        raise BadRequest("'photo' must be a picture in base64")
    return service.in_photo(photo, parse_threshold(values))


def _rename(service: PeopleService, values: Values) -> dict[str, Any]:
    refuse_unknown(values, ("name", "new_name"), "the request")
    return service.rename(required_name(values, "name"), required_name(values, "new_name"))


def _forget(service: PeopleService, values: Values) -> dict[str, Any]:
    refuse_unknown(values, ("name",), "the request")
    return service.forget(required_name(values, "name"))
