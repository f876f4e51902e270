"""The JSON of requests about people, checked field by field.

Role: parsed JSON -> values; raises BadRequest in one sentence. Fields that nobody would read are refused, because these
requests change what is kept of people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from open_clip_idplugin.gallery import LONGEST_NAME, Details
from open_clip_idplugin.gallery.details import LONGEST_TEXT as LONGEST_DETAIL
from open_clip_idplugin.retrieval.ranking.request_fields import (
    BadRequest,
    count_field,
    flag_field,
    number_field,
    refuse_unknown,
    row_field,
    text_field,
)

MOST_PEOPLE = 500  # of one page of the list
USUAL_PEOPLE = 60
LONGEST_LABEL = 200  # characters
DETAILS = ("notes", "consent", "consent_date", "consent_until", "word")


@dataclass(frozen=True)
class ListRequest:
    """Which of the enrolled people are listed."""

    find: str | None = None
    offset: int = 0
    count: int = USUAL_PEOPLE
    include_images: bool = True


@dataclass(frozen=True)
class EnrollRequest:
    """A name and its face: of a base64 `photo`, or of the indexed image `image_id`; `face` from 0, best detection first."""

    name: str
    photo: str | None = None
    image_id: int | None = None
    face: int | None = None
    indice_name: str | None = None
    label: str = ""
    details: Mapping[str, str | None] = field(default_factory=dict)


def require_object(values: object) -> Mapping[str, Any]:
    """The request's JSON as an object."""
    if not isinstance(values, dict):
        raise BadRequest("the request must be a JSON object")
    return values


def parse_list(values: Mapping[str, Any]) -> ListRequest:
    """Fields of `/people/list`."""
    refuse_unknown(values, ("find", "offset", "count", "include_images"), "the request")
    count = count_field(values, "count", USUAL_PEOPLE)
    if count > MOST_PEOPLE:
        raise BadRequest(f"'count' must be at most {MOST_PEOPLE}")
    return ListRequest(
        text_field(values, "find", LONGEST_NAME),
        row_field(values, "offset") or 0,
        count,
        flag_field(values, "include_images", True),
    )


def parse_enroll(values: Mapping[str, Any]) -> EnrollRequest:
    """Fields of `/people/enroll`."""
    known = ("name", "photo", "image_id", "face", "indice_name", "label", *DETAILS)
    refuse_unknown(values, known, "the request")
    photo, image_id = text_field(values, "photo"), row_field(values, "image_id")
    if (photo is None) == (image_id is None):
        raise BadRequest("give one of 'photo' and 'image_id'")
    label = text_field(values, "label", LONGEST_LABEL) or ("" if image_id is None else f"image {image_id}")
    details = {name: text_field(values, name, LONGEST_DETAIL) for name in DETAILS}
    Details().changed(**details)  # a bad date is refused before a face is looked for
    return EnrollRequest(
        required_name(values, "name"),
        photo,
        image_id,
        row_field(values, "face"),
        text_field(values, "indice_name"),
        label,
        details,
    )


def required_name(values: Mapping[str, Any], name: str) -> str:
    """A field with a person's name, which must be there."""
    text = text_field(values, name, LONGEST_NAME)
    if text is None:
        raise BadRequest(f"'{name}' must be a person's name")
    return text


def parse_threshold(values: Mapping[str, Any]) -> float | None:
    """The field `same_face`: cosine from which a face is called by a name."""
    number: float | None = number_field(values, "same_face", float)
    if number is not None and not -1 <= number <= 1:
        raise BadRequest("'same_face' must be a number from -1 to 1")
    return number
