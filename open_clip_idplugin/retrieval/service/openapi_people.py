"""The OpenAPI description of the addresses below `/people/`: bodies and answers as JSON schemas.

Role: names of the indices -> a table that `openapi` turns into paths. Bodies are what `people_requests` reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_idplugin.gallery import LONGEST_NAME
from open_clip_idplugin.retrieval.ranking.request_fields import Request
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
_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_ROW = {"type": "integer", "minimum": 0}
_SHARES = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}


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
