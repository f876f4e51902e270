"""OpenAPI description: the schemas of the service's requests, the names of its indices and its limits -> `/openapi.json`.

What HTTP adds to the schemas is here too: addresses, answers and errors.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_idplugin.gallery import LONGEST_NAME
from open_clip_idplugin.queries.person_words import AUTO, CHOICES
from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest
from open_clip_idplugin.retrieval.ranking.request_fields import Request
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.people_requests import (
    EnrollRequest,
    ForgetRequest,
    InImageRequest,
    InPhotoRequest,
    ListRequest,
    RenameRequest,
)

Schema = dict[str, Any]
_PICTURE = {"type": "string", "contentEncoding": "base64"}
_ERRORS = {
    "400": "The request cannot be answered.",
    "401": "The service's token is missing.",
    "403": "The request comes from another origin's page, calls the service by another name, or may change nobody.",
    "413": "The request is too large.",
    "415": "The request does not say that it is JSON.",
    "500": "A defect; the message holds an id for the service's log.",
}

_POST_ERRORS = ("400", "401", "403", "413", "500")
_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_ROW = {"type": "integer", "minimum": 0}
_SHARES = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}


def search_body(indices: Sequence[str], limits: Limits) -> dict[str, Any]:
    """JSON schema of a search, within the limits of a service."""
    body = body_of(KnnRequest, indices)
    for name in ("num_images", "num_result_ids"):
        body["properties"][name]["maximum"] = limits.results
    for name in ("text", "negative_text"):
        body["properties"][name]["maxLength"] = limits.text_length
    return body


def describe_service(indices: Sequence[str], limits: Limits) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    search = search_body(indices, limits)
    parts = search.pop("$defs")
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": limits.results}
    metadata = {
        "type": "object",
        "required": ["ids"],
        "properties": {"ids": ids, "indice_name": {"type": "string", "enum": list(indices)}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "IdCLIP search", "version": importlib.metadata.version("open-clip-idplugin")},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**parts, "Result": _RESULT, "Error": _ERROR},
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/knn-service": _post("Search images", search, {"type": "array", "items": _reference("Result")}),
            "/metadata": _post("Metadata of images by id", metadata, _METADATA),
            "/indices-list": _get("Names of the indices", {"type": "array", "items": {"type": "string"}}),
            **{address: _post(*entry, more=["415"]) for address, entry in people_paths(indices).items()},
            "/service-info": _get("Indices, defaults, limits and what is allowed", {"type": "object"}),
            "/healthz": _get("Whether the service is ready", {"type": "object"}),
        },
    }


_RESULT = {
    "type": "object",
    "required": ["id", "similarity"],
    "properties": {
        "id": {"type": "integer"},
        "similarity": {"type": "number", "description": "cosine, in [-1, 1]"},
        "probability": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "that all people asked for are in the image, as far as faces tell",
        },
        "key": {"type": "string"},
        "caption": {"type": "string"},
        "image": _PICTURE,
        "person_as": {
            "type": "string",
            "enum": [way for way in CHOICES if way != AUTO],
            "description": "what the people of the query were in the text; where there were any",
        },
    },
}
_ERROR = {"type": "object", "required": ["message"], "properties": {"message": {"type": "string"}}}
_METADATA = {
    "type": "array",
    "items": {"type": "object", "properties": {"id": {"type": "integer"}, "metadata": {"type": "object"}}},
}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _post(summary: str, body: Mapping[str, Any], answer: Mapping[str, Any], more: Sequence[str] = ()) -> dict[str, Any]:
    request = {"required": True, "content": _content(body)}
    codes = [*_POST_ERRORS, *more]
    return {"post": {"summary": summary, "requestBody": request, "responses": _responses(answer, codes)}}


def _get(summary: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(answer, ["401", "403", "500"])}}


def _responses(answer: Mapping[str, Any], errors: Sequence[str]) -> dict[str, Any]:
    refusals = {code: {"description": _ERRORS[code], "content": _content(_reference("Error"))} for code in errors}
    return {"200": {"description": "The answer.", "content": _content(answer)}, **refusals}


def body_of(schema: type[Request], indices: Sequence[str]) -> Schema:
    """JSON schema of a request's body; parts that it refers to lie in `$defs`, by the names of `/components/schemas`."""
    body = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    if "indice_name" in body["properties"]:
        body["properties"]["indice_name"]["enum"] = [*indices, None]
    return body


def people_paths(indices: Sequence[str]) -> Mapping[str, tuple[str, Schema, Schema]]:
    """Address -> summary, body and answer."""
    faces = {"type": "array", "items": FACE}
    alike = {"type": "array", "items": _object({"name": _NAME, "similarity": _NUMBER})}
    gone = {"name": _NAME, "photos": _ROW, "crops": _ROW, "aliases": _ROW, "clean": _BOOLEAN}
    described: Mapping[str, tuple[str, type[Request], Schema]] = {
        "list": (
            "Enrolled people, a page at a time",
            ListRequest,
            {"total": _ROW, "people": {"type": "array", "items": PERSON}},
        ),
        "in-image": (
            "Faces of an indexed image, and who they are",
            InImageRequest,
            {"id": _ROW, "index_has_faces": _BOOLEAN, "faces": faces},
        ),
        "in-photo": (
            "Faces of a photo, and who they are",
            InPhotoRequest,
            {"width": _ROW, "height": _ROW, "faces": faces},
        ),
        "enroll": (
            "Enroll a face of a photo or of an indexed image",
            EnrollRequest,
            {"person": PERSON, "alike": alike},
        ),
        "rename": ("Give a person another name", RenameRequest, {"person": PERSON}),
        "forget": ("Erase a person", ForgetRequest, gone),
    }
    return {
        f"/people/{name}": (summary, body_of(schema, indices), _object(answer, list(answer)))
        for name, (summary, schema, answer) in described.items()
    }


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> Schema:
    schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


_BOOLEAN = {"type": "boolean"}
_NUMBER = {"type": "number"}
FACE = _object(
    {
        "face": _ROW,
        "box": {**_SHARES, "description": "x0, y0, x1, y1 in pixels"},
        "box_relative": {**_SHARES, "description": "the same as shares of width and height"},
        "usable": _BOOLEAN,
        "name": _NAME,
        "similarity": {**_NUMBER, "description": "cosine with the person's mean"},
    },
    ("face", "box", "box_relative", "usable"),
)
PERSON = _object(
    {
        "name": _NAME,
        "photos": _ROW,
        "aliases": {"type": "array", "items": _NAME},
        "notes": {"type": "string"},
        "consent": {"type": "string"},
        "consent_date": {"type": "string"},
        "consent_until": {"type": "string"},
        "word": {"type": "string"},
        "expired": _BOOLEAN,
        "image": _PICTURE,
    },
    ("name", "photos", "aliases", "expired"),
)
