"""The OpenAPI description of the addresses below `/people/`: bodies and answers as JSON schemas.

Role: names of the indices -> a table that `openapi` turns into paths. A test compares its fields with what `people_requests`
reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_idplugin.gallery import LONGEST_NAME
from open_clip_idplugin.gallery.details import LONGEST_WORD
from open_clip_idplugin.retrieval.service.people_requests import (
    LONGEST_DETAIL,
    LONGEST_LABEL,
    MOST_PEOPLE,
    USUAL_PEOPLE,
)

Schema = dict[str, Any]
_PICTURE = {"type": "string", "contentEncoding": "base64"}
_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_ROW = {"type": "integer", "minimum": 0}
_SHARES = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}


def people_paths(indices: Sequence[str]) -> Mapping[str, tuple[str, Schema, Schema]]:
    """Address -> summary, body and answer."""
    index = _optional(type="string", enum=[*indices, None], description="which index; the first one by default")
    threshold = _optional(
        type="number", minimum=-1, maximum=1, description="cosine from which a face is called by a name"
    )
    return {
        "/people/list": (
            "Enrolled people, a page at a time",
            _object(
                {
                    "find": _optional(type="string", maxLength=LONGEST_NAME, description="part of a name or alias"),
                    "offset": _optional(**_ROW),
                    "count": _optional(type="integer", minimum=1, maximum=MOST_PEOPLE, default=USUAL_PEOPLE),
                    "include_images": _optional(type="boolean", default=True),
                }
            ),
            _object({"total": _ROW, "people": {"type": "array", "items": PERSON}}, ("total", "people")),
        ),
        "/people/in-image": (
            "Faces of an indexed image, and who they are",
            _object({"image_id": _ROW, "indice_name": index, "same_face": threshold}, ("image_id",)),
            _object(
                {"id": _ROW, "index_has_faces": {"type": "boolean"}, "faces": {"type": "array", "items": FACE}},
                ("id", "index_has_faces", "faces"),
            ),
        ),
        "/people/in-photo": (
            "Faces of a photo, and who they are",
            _object({"photo": _PICTURE, "same_face": threshold}, ("photo",)),
            _object(
                {"width": _ROW, "height": _ROW, "faces": {"type": "array", "items": FACE}},
                ("width", "height", "faces"),
            ),
        ),
        "/people/enroll": (
            "Enroll a face of a photo or of an indexed image",
            _object({**_enroll_fields(), "indice_name": index}, ("name",)),
            _object(
                {
                    "person": PERSON,
                    "alike": {"type": "array", "items": _object({"name": _NAME, "similarity": _NUMBER})},
                },
                ("person", "alike"),
            ),
        ),
        "/people/rename": (
            "Give a person another name",
            _object({"name": _NAME, "new_name": _NAME}, ("name", "new_name")),
            _object({"person": PERSON}, ("person",)),
        ),
        "/people/forget": (
            "Erase a person",
            _object({"name": _NAME}, ("name",)),
            _object(
                {"name": _NAME, "photos": _ROW, "crops": _ROW, "aliases": _ROW, "clean": {"type": "boolean"}},
                ("name", "photos", "crops", "aliases", "clean"),
            ),
        ),
    }


def _enroll_fields() -> Schema:
    text = {"type": "string", "maxLength": LONGEST_DETAIL}
    date = {"type": "string", "maxLength": 10}
    return {
        "name": _NAME,
        "photo": _optional(**_PICTURE),
        "image_id": _optional(**_ROW),
        "face": _optional(**_ROW, description="which face, best detection first"),
        "label": _optional(type="string", maxLength=LONGEST_LABEL, description="of the photo, for listing"),
        "notes": _optional(**text),
        "consent": _optional(**text),
        "consent_date": _optional(**date),
        "consent_until": _optional(**date),
        "word": _optional(
            type="string", maxLength=LONGEST_WORD, description="what the person is in words, such as 'a woman'"
        ),
    }


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> Schema:
    schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


def _optional(**schema: Any) -> Schema:
    """A schema that also takes null."""
    return {**schema, "type": [schema["type"], "null"]}


_NUMBER = {"type": "number"}
FACE = _object(
    {
        "face": _ROW,
        "box": {**_SHARES, "description": "x0, y0, x1, y1 in pixels"},
        "box_relative": {**_SHARES, "description": "the same as shares of width and height"},
        "usable": {"type": "boolean"},
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
        "expired": {"type": "boolean"},
        "image": _PICTURE,
    },
    ("name", "photos", "aliases", "expired"),
)
