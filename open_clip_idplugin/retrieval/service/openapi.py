"""The service's OpenAPI description: one table of the fields that a search takes.

Role: names of the indices + limits -> the JSON of `/openapi.json`. A test compares the table with what `knn_request` reads.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from open_clip_idplugin import fusion
from open_clip_idplugin.person_words import AUTO, CHOICES
from open_clip_idplugin.retrieval.ranking.knn_request import MOST_FACES
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.openapi_people import people_paths

_VECTOR = {"type": "array", "items": {"type": "number"}, "minItems": 1}
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


def search_fields(indices: Sequence[str], limits: Limits) -> dict[str, dict[str, Any]]:
    """JSON schema of every field of a search; each may also be null, which means the default."""
    results = {"type": "integer", "minimum": 1, "maximum": limits.results}
    return {
        "text": _field(
            "what the images show; [TOK], [TOK:2] ... stand for people", type="string", maxLength=limits.text_length
        ),
        "faces": _field(
            "people: base64 photos or face embeddings",
            type="array",
            maxItems=MOST_FACES,
            items={"anyOf": [_PICTURE, _VECTOR]},
        ),
        "identities": _field(
            "people: enrolled names, after `faces`", type="array", maxItems=MOST_FACES, items={"type": "string"}
        ),
        "image": _field("a picture to find similar ones to", **_PICTURE),
        "image_url": _field("address of such a picture; only where the service fetches", type="string"),
        "embedding_input": _field("the query's vector itself", **_VECTOR),
        "modality": _field("what is searched", type="string", enum=["image", "text"], default="image"),
        "num_images": _field("results with metadata", **results, default=40),
        "num_result_ids": _field("results in all; as many as `num_images` by default", **results),
        "indice_name": _field("which index; the first one by default", type="string", enum=list(indices)),
        "deduplicate": _field("leave out near-duplicates", type="boolean", default=False),
        "include_images": _field("send thumbnails as base64 JPEG in `image`", type="boolean", default=True),
        "use_mclip": _field("must be false: no multilingual model is loaded", type="boolean", default=False),
        "use_safety_model": _field("without effect: none is loaded", type="boolean", default=False),
        "use_violence_detector": _field("without effect: none is loaded", type="boolean", default=False),
        "aesthetic_score": _field("without effect: no such vectors are loaded", type="integer"),
        "aesthetic_weight": _field("without effect: no such vectors are loaded", type="number"),
    }


def people_fields(limits: Limits) -> dict[str, dict[str, Any]]:
    """JSON schema of the fields that say who is in the images and how results are ranked."""
    row = {"type": "integer", "minimum": 0}
    person = {
        "type": "object",
        "properties": {
            "photo": _PICTURE,
            "embedding": _VECTOR,
            "image_id": row,
            "face": row,
            "name": {"type": "string", "maxLength": 200},
        },
        "additionalProperties": False,
    }
    persons = {"type": "array", "maxItems": MOST_FACES, "items": {"anyOf": [{"type": "string"}, person]}}
    clauses: dict[str, Any] = dict.fromkeys(("all", "any", "none"), persons)
    cosine = {"type": "number", "minimum": -1, "maximum": 1}
    rate = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return {
        "people": _field(
            "who is in the images: enrolled names, or face objects",
            type="object",
            properties={**clauses, "only": {"type": "boolean"}},
            additionalProperties=False,
        ),
        "find_names": _field("enrolled names in the text become people", type="boolean", default=True),
        "person_as": _field(
            "what people are in the text: identity tokens, words, or both; auto is the token where one can be made",
            type="string",
            enum=list(CHOICES),
            default=AUTO,
        ),
        "image_id": _field("find images like this one", **row),
        "negative_text": _field("what the images do not show", type="string", maxLength=limits.text_length),
        "negative_weight": _field("weight of `negative_text`", type="number", minimum=0, maximum=10),
        "fusion": _field("how image and face scores are joined", type="string", enum=list(fusion.RULES)),
        "face_weight": _field("weight of the face score", type="number", minimum=0, maximum=100),
        "fmr": _field("false match rate at which two faces are one person; sets `face_threshold`", **rate),
        "face_threshold": _field("cosine from which two faces are one person, in place of `fmr`", **cosine),
        "unseen_face": _field(
            "face cosine of images in which no face was found; by the calibration by default", **cosine
        ),
        "min_similarity": _field("leave out images below this cosine", **cosine),
        "min_face_similarity": _field("leave out images whose face is below this cosine", **cosine),
        "min_face_fmr": _field("leave out images whose face different people reach more often than this", **rate),
        "min_probability": _field(
            "leave out images that show the people with a lower probability", type="number", minimum=0, maximum=1
        ),
        "filters": _field("metadata columns and the values they must have", type="object"),
        "exclude_ids": _field("images to leave out", type="array", items={"type": "integer"}, maxItems=limits.results),
        "offset": _field("results to skip: paging", **row),
        "collapse": _field("keep the best of each group: near_duplicates, or a metadata column", type="string"),
    }


def describe_service(indices: Sequence[str], limits: Limits) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    search = {"type": "object", "properties": {**search_fields(indices, limits), **people_fields(limits)}}
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
            "schemas": {"Result": _RESULT, "Error": _ERROR},
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


def _field(description: str, **schema: Any) -> dict[str, Any]:
    """A schema that also takes null."""
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return {**schema, "type": [schema["type"], "null"], "description": description}


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
