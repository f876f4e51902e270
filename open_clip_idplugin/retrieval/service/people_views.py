"""The addresses below `/people/`, for the search page.

Role: Flask application + `PeopleService` -> the same with six addresses more. All take POST with JSON and nothing else, which
other origins' pages cannot send unasked (see `access`); what changes the gallery is refused where the service is read-only.
"""

from collections.abc import Callable
from typing import Any

import flask

from open_clip_idplugin.retrieval.ranking.request_fields import Request
from open_clip_idplugin.retrieval.service.answers import answer, json_body
from open_clip_idplugin.retrieval.service.people_requests import (
    EnrollRequest,
    ForgetRequest,
    InImageRequest,
    InPhotoRequest,
    ListRequest,
    RenameRequest,
)
from open_clip_idplugin.retrieval.service.people_service import PeopleService

View = tuple[str, type[Request], Callable[[Any], dict[str, Any]]]
_READ_ONLY = "this service changes nobody: it was started with --read_only_people, or others reach it without a token"


def add_people(app: flask.Flask, service: PeopleService, may_edit: bool) -> None:
    """Serve everything about people; `may_edit`: also what changes the gallery."""
    reading: list[View] = [
        ("list", ListRequest, service.list_people),
        ("in-image", InImageRequest, service.in_image),
        ("in-photo", InPhotoRequest, service.in_photo),
    ]
    editing: list[View] = [
        ("enroll", EnrollRequest, service.enroll),
        ("rename", RenameRequest, service.rename),
        ("forget", ForgetRequest, service.forget),
    ]
    for name, schema, work in reading:
        _add(app, name, schema, work, True)
    for name, schema, work in editing:
        _add(app, name, schema, work, may_edit)


def _add(
    app: flask.Flask, name: str, schema: type[Request], work: Callable[[Any], dict[str, Any]], allowed: bool
) -> None:
    def view() -> Any:
        if not allowed:
            return {"message": _READ_ONLY}, 403
        if flask.request.mimetype != "application/json":
            flask.abort(415)
        return answer(lambda: work(schema.read(json_body())))

    app.add_url_rule(f"/people/{name}", f"people-{name}", view, methods=["POST"])
