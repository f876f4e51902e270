"""Request validation: types of a JSON request's fields, with bounds and sentences -> a checked, frozen model, or BadRequest.

Role: what the schemas of requests (`knn_request`, `ranking_request`, `people_requests`) are made of. A field states its type, its
bounds, its default and its description once; parsing, OpenAPI and the flags of `idclip search` follow from it.
"""

import base64
import binascii
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticUseDefault, core_schema
from typing_extensions import Self

from open_clip_idplugin.errors import IdClipError

MOST_RESULTS = 100_000
HINTS = "Idclip-Hints"  # header of an answer: names that its text may have meant


class BadRequest(IdClipError):
    """A request that cannot be answered; the service turns it into HTTP 400."""


class Request(BaseModel):
    """A JSON object, checked; null stands for a field that is left out, as clients send it.

    Unknown fields are left alone, unless a schema forbids them. What pydantic refuses, and what a validator refuses with
    BadRequest, leaves `read` as BadRequest in one sentence that names the field.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    called: ClassVar[str] = "the request"

    @classmethod
    def read(cls, values: object) -> Self:
        """Check a JSON object; raises BadRequest."""
        if not isinstance(values, dict):
            raise BadRequest("the request must be a JSON object")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise refusal_of(error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _left_out(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        if field.is_required() and value in (None, ""):
            raise BadRequest(f"'{info.field_name}' must be {field.description}")
        if value is None:
            raise PydanticUseDefault
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, values: Any, handler: Any) -> Self:
        try:
            checked: Self = handler(values)
        except ValidationError as error:
            raise refusal_of(error, cls) from None
        return checked

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """pydantic's schema without titles and empty defaults, where each field that may be left out takes null too."""
        described: dict[str, Any] = handler(schema)
        own = handler.resolve_ref_schema(described)
        required = own.get("required", ())
        own["properties"] = {
            name: field if name in required else _or_null(field) for name, field in own["properties"].items()
        }
        for useless in [own, *own["properties"].values()]:
            useless.pop("title", None)
        own.pop("description", None)  # the class's docstring, which speaks to programmers
        return described


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != null]
    schema = {**(kinds[0] if len(kinds) == 1 else {}), **schema}
    if schema.get("default") is None:
        schema.pop("default", None)
    if "$ref" in schema or len(kinds) > 1:
        kinds = kinds if len(kinds) > 1 else [{"$ref": schema.pop("$ref")}]
        return {"anyOf": [*kinds, null], **schema}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return {**schema, "type": [schema["type"], "null"]}


@functools.cache
def properties(schema: type[Request]) -> Mapping[str, dict[str, Any]]:
    """JSON schema of every field that a request of this kind may have."""
    described: dict[str, dict[str, Any]] = schema.model_json_schema()["properties"]
    return described


def refusal_of(error: ValidationError, schema: type[Request] | None = None) -> BadRequest:
    """The sentence for the first thing that is wrong; `schema` is the model whose own fields were read."""
    first = error.errors(include_url=False)[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, IdClipError):
        return raised if isinstance(raised, BadRequest) else BadRequest(str(raised))
    assert schema is not None  # every schema turns its own refusals into sentences
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "extra_forbidden":
        return _unknown(schema.called, name, list(properties(schema)))
    if first["type"] == "missing":
        return BadRequest(f"'{name}' must be {schema.model_fields[name].description}")
    return BadRequest(f"'{name}' {_expected(properties(schema)[name], first['type'], value)}")


def _expected(field: Mapping[str, Any], problem: str, value: object) -> str:
    """What a field must be, by its JSON schema."""
    kind = field["type"] if isinstance(field["type"], str) else field["type"][0]
    least, most = field.get("minimum"), field.get("maximum")
    if kind == "string" and not isinstance(value, str):
        return f"must be a string, not {kind_of(value)}"
    if "enum" in field:
        return f"must be one of {', '.join(choice for choice in field['enum'] if choice is not None)}"
    if kind == "string":
        return f"has {len(str(value))} characters, at most {field['maxLength']} are taken: shorten it"
    if kind == "boolean":
        return f"must be true or false, not {kind_of(value)}"
    if kind == "integer" and least is not None:
        return f"must be at most {most}" if problem == "less_than_equal" else f"must be a whole number from {least}"
    if problem.startswith(("greater", "less")):
        return f"must be a number from {least:g} to {most:g}"
    return "must be a number, or left out"


def _unknown(where: str, name: str, known: Sequence[str]) -> BadRequest:
    return BadRequest(f"'{where}' has no field '{name[:80]}': use {', '.join(known)}")


def refuse_unknown(values: Mapping[str, Any], known: Sequence[str], name: str) -> None:
    """Raise BadRequest where an object inside a request has a field that nobody would read."""
    for field in values:
        if field not in known:
            raise _unknown(name, str(field), known)


def refusing(sentence: str) -> WrapValidator:
    """Says this of whatever the type before it refuses, behind the field's name; what its parts say stays."""

    def check(value: object, handler: Any, info: ValidationInfo) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            raised = error.errors(include_url=False)[0].get("ctx", {}).get("error")
            raise raised if isinstance(raised, BadRequest) else BadRequest(f"'{info.field_name}' {sentence}") from None

    return WrapValidator(check)


def alone_in_list(*kinds: type) -> BeforeValidator:
    """One value of these types stands for the list of it."""
    return BeforeValidator(lambda value: [value] if isinstance(value, kinds) else value)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def decode_base64(text: str) -> bytes:
    """Bytes of a base64 text, with or without the head of a data URL; raises BadRequest."""
    _, comma, tail = text.partition(",")
    content = tail if comma and text.startswith("data:") else text
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("a picture is not valid base64: send the bytes of the file in base64") from None


def _picture(value: object, info: ValidationInfo) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise BadRequest(f"'{info.field_name}' must be a string, not {kind_of(value)}")
    return decode_base64(value)


def _vector(value: object, info: ValidationInfo) -> np.ndarray:
    """[D] float32 of finite numbers that are not all zero."""
    name = info.field_name
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, list) or any(isinstance(number, (bool, str)) for number in value):
        raise BadRequest(f"'{name}' must hold a list of numbers as embedding, not {kind_of(value)}")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused below
            vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.zeros(0, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise BadRequest(f"the embedding in '{name}' must be a flat list of finite numbers that are not all zero")
    return vector


def _face(value: object, info: ValidationInfo) -> bytes | np.ndarray:
    return _picture(value, info) if isinstance(value, (str, bytes)) else _vector(value, info)


def _not_empty(value: object) -> object:
    if isinstance(value, str) and not value:  # as clients send for fields they do not use
        raise PydanticUseDefault
    return value


@dataclass(frozen=True)
class OneOf:
    """Annotation of a string: it is one of these."""

    choices: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """See pydantic."""
        return core_schema.literal_schema(list(self.choices))


EmptyIsLeftOut = BeforeValidator(_not_empty)
_Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
_Numbers = Annotated[list[float], Field(min_length=1)]

Text = Annotated[StrictStr, EmptyIsLeftOut]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Cosine = Annotated[Finite, Field(ge=-1, le=1), EmptyIsLeftOut]
Share = Annotated[Finite, Field(ge=0, le=1), EmptyIsLeftOut]
Rate = Annotated[
    Finite,
    Field(gt=0, lt=1),
    refusing("is a false match rate: a number between 0 and 1, such as 0.001"),
    EmptyIsLeftOut,
]
Flag = StrictBool
Row = Annotated[StrictInt, Field(ge=0)]
Count = Annotated[StrictInt, Field(ge=1, le=MOST_RESULTS), refusing(f"must be a whole number from 1 to {MOST_RESULTS}")]
Picture = Annotated[bytes, PlainValidator(_picture, json_schema_input_type=_Base64), EmptyIsLeftOut]  # from base64
Vector = Annotated[np.ndarray, PlainValidator(_vector, json_schema_input_type=_Numbers)]  # [D] float32
Face = Annotated[bytes | np.ndarray, PlainValidator(_face, json_schema_input_type=_Base64 | _Numbers)]
