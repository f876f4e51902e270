"""Request validation: the JSON that the addresses below `/people/` take -> one frozen model each (see `request_fields`).

Fields that nobody would read are refused, because these requests change what is kept of people.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt, StrictStr, model_validator
from typing_extensions import Self

from open_clip_idplugin.gallery import LONGEST_NAME, Details
from open_clip_idplugin.gallery.details import LONGEST_TEXT as LONGEST_DETAIL
from open_clip_idplugin.gallery.details import LONGEST_WORD
from open_clip_idplugin.retrieval.ranking.request_fields import (
    BadRequest,
    Cosine,
    Flag,
    Picture,
    Request,
    Row,
    Text,
)

MOST_PEOPLE = 500  # of one page of the list
LONGEST_LABEL = 200  # characters
DETAILS = ("notes", "consent", "consent_date", "consent_until", "word")

_Name = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_NAME)]
_Detail = Annotated[Text, Field(max_length=LONGEST_DETAIL)]
_Index = Annotated[Text | None, Field(description="which index; the first one by default")]
_SameFace = Annotated[Cosine | None, Field(description="cosine from which a face is called by a name")]
_A_NAME = "a person's name"


class PeopleRequest(Request):
    """What all of them share."""

    model_config = ConfigDict(extra="forbid")


class ListRequest(PeopleRequest):
    """Which of the enrolled people are listed."""

    find: Annotated[Text, Field(max_length=LONGEST_NAME)] | None = Field(
        default=None, description="part of a name or alias"
    )
    offset: Row = 0
    count: Annotated[StrictInt, Field(ge=1, le=MOST_PEOPLE)] = 60
    include_images: Flag = True


class InImageRequest(PeopleRequest):
    """An indexed image whose faces are asked for."""

    image_id: Row = Field(description="a whole number from 0")
    indice_name: _Index = None
    same_face: _SameFace = None


class InPhotoRequest(PeopleRequest):
    """A photo whose faces are asked for."""

    photo: Picture = Field(description="a picture in base64")
    same_face: _SameFace = None


class EnrollRequest(PeopleRequest):
    """A name and its face: of a `photo`, or of the indexed image `image_id`; `face` from 0, best detection first."""

    name: _Name = Field(description=_A_NAME)
    photo: Picture | None = None
    image_id: Row | None = None
    face: Row | None = Field(default=None, description="which face, best detection first")
    indice_name: _Index = None
    label: Annotated[Text, Field(max_length=LONGEST_LABEL)] | None = Field(
        default=None, description="of the photo, for listing; by default which image it is"
    )
    notes: _Detail | None = None
    consent: _Detail | None = None
    consent_date: _Detail | None = Field(default=None, json_schema_extra={"maxLength": 10})
    consent_until: _Detail | None = Field(default=None, json_schema_extra={"maxLength": 10})
    word: _Detail | None = Field(
        default=None,
        description="what the person is in words, such as 'a woman'",
        json_schema_extra={"maxLength": LONGEST_WORD},
    )

    @model_validator(mode="before")
    @classmethod
    def _one_face(cls, values: Any) -> Any:
        if isinstance(values, dict) and sum(values.get(name) not in (None, "") for name in ("photo", "image_id")) != 1:
            raise BadRequest("give one of 'photo' and 'image_id'")
        return values

    @model_validator(mode="after")
    def _good_details(self) -> Self:
        Details().changed(**self.details)  # a bad date is refused before a face is looked for
        return self

    @property
    def details(self) -> Mapping[str, str | None]:
        """What is said of the person."""
        return {name: getattr(self, name) for name in DETAILS}

    @property
    def photo_label(self) -> str:
        """What the photo is called in lists."""
        return self.label or ("" if self.image_id is None else f"image {self.image_id}")


class RenameRequest(PeopleRequest):
    """A person and the name to come."""

    name: _Name = Field(description=_A_NAME)
    new_name: _Name = Field(description=_A_NAME)


class ForgetRequest(PeopleRequest):
    """A person to be erased."""

    name: _Name = Field(description=_A_NAME)
