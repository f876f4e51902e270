"""Request validation: what a request says about people and ranking beyond clip-retrieval's own fields.

Role: JSON -> `PeopleClause` and `RankingRequest`. What depends on the index (columns, faces, rows) is checked when the request is
answered.
"""

from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import Self

from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration
from open_clip_idplugin.queries.fusion import RULES, WEIGHTED, Fusion
from open_clip_idplugin.retrieval.ranking.request_fields import (
    MOST_RESULTS,
    BadRequest,
    Cosine,
    EmptyIsLeftOut,
    Finite,
    Flag,
    OneOf,
    Picture,
    Rate,
    Request,
    Row,
    Share,
    Text,
    Vector,
    alone_in_list,
    properties,
    refuse_unknown,
    refusing,
)

LONGEST_TEXT = 10_000  # characters; far more than any text tower reads
MOST_FACES = 16
MOST_FILTERS = 32
MOST_EXCLUDED = 10_000
NEAR_DUPLICATES = "near_duplicates"


class PersonQuery(Request):
    """One person: an enrolled name, a photo, an embedding [D], or face `face` (from 0) of an indexed image."""

    model_config = ConfigDict(extra="forbid")

    identity: SkipJsonSchema[str | None] = None  # in JSON the name alone
    photo: Picture | None = None
    embedding: Vector | None = None
    image_id: Row | None = None
    face: Row = 0
    name: Annotated[Text, Field(max_length=200)] | None = Field(
        default=None, description="what to call this person in answers"
    )


def _person(entry: object, handler: Any, info: ValidationInfo) -> PersonQuery:
    clause = info.field_name
    if isinstance(entry, PersonQuery):
        return entry
    if isinstance(entry, str):
        return PersonQuery(identity=entry, name=entry)
    if not isinstance(entry, dict):
        raise BadRequest(f"'{clause}' in 'people' must hold enrolled names or face objects")
    refuse_unknown(entry, list(properties(PersonQuery)), f"people.{clause}")
    person: PersonQuery = handler(entry)
    if sum(value is not None for value in (person.photo, person.embedding, person.image_id)) != 1:
        raise BadRequest(f"a face object in 'people.{clause}' must have one of photo, embedding or image_id")
    return person


Persons = Annotated[
    tuple[Annotated[PersonQuery, WrapValidator(_person, json_schema_input_type=str | PersonQuery)], ...],
    Field(max_length=MOST_FACES),
    FailFast(),
    alone_in_list(str, dict),
    refusing(f"in 'people' must be a list of at most {MOST_FACES} enrolled names or face objects"),
]


class PeopleClause(Request):
    """Images must show `all` of these people as different faces, at least one of `any`, and nobody of `none`."""

    model_config = ConfigDict(extra="forbid")
    called = "people"

    all: Persons = Field(default=(), description="people who must all be in an image, as different faces")
    any: Persons = Field(default=(), description="people of whom one must be in an image")
    none: Persons = Field(default=(), description="people who must not be in an image")
    only: Annotated[Flag, refusing("in 'people' must be true or false")] = Field(
        default=False, description="nobody but those of `all` may be in an image"
    )

    @model_validator(mode="after")
    def _only_with_all(self) -> Self:
        if self.only and self.any:
            raise BadRequest("'only' in 'people' goes with 'all', not with 'any'")
        return self

    @property
    def wanted(self) -> bool:
        """Whether the clause alone says what to look for."""
        return bool(self.all or self.any)

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.wanted or self.none or self.only)


class RankingRequest(Request):
    """How results are scored, cut off and paged; the defaults are clip-retrieval's ranking.

    Cosines of faces that are not given follow from false match rates and the face model's calibration.
    """

    negative_text: Annotated[Text, Field(max_length=LONGEST_TEXT)] | None = Field(
        default=None, description="what the images should not show"
    )
    negative_weight: Annotated[Finite, Field(ge=0, le=10), EmptyIsLeftOut] = Field(
        default=0.5, description="weight of `negative_text`"
    )
    fusion: Annotated[str, OneOf(RULES), EmptyIsLeftOut] | None = Field(
        default=None,
        description="how face and text make one score; where there are people and faces, the weighted sum by default",
    )
    face_weight: Annotated[Finite, Field(ge=0, le=100), EmptyIsLeftOut] | None = Field(
        default=None, description="weight of the face in the score"
    )
    fmr: Rate = Field(
        default=FMR_NAMES,
        description="false match rate at which two faces are the same person: how often different people are taken for one",
    )
    face_threshold: Cosine | None = Field(
        default=None,
        description="cosine from which two faces are the same person, for the fusion filter and `none`, in place of `fmr`",
    )
    unseen_face: Cosine | None = Field(
        default=None, description="cosine that counts where no face was found in an image; low to trust the detector"
    )
    min_similarity: Cosine | None = Field(
        default=None, description="cosine of text and image below which nothing is shown"
    )
    min_face_similarity: Cosine | None = Field(
        default=None, description="cosine of the faces below which nothing is shown"
    )
    min_face_fmr: Rate | None = Field(
        default=None,
        description="leave out images whose face different people reach more often than this, in place of a cosine",
    )
    min_probability: Share | None = Field(
        default=None,
        description="leave out images that show the people with a lower probability, so that nothing may be found",
    )
    filters: Annotated[
        dict[str, Any],
        Field(max_length=MOST_FILTERS),
        refusing('must be an object of columns and values, such as {"stratum": "dark"}'),
    ] = Field(default_factory=dict, description="metadata columns and the values they must have")
    exclude_ids: Annotated[
        tuple[StrictInt, ...],
        Field(max_length=MOST_EXCLUDED),
        FailFast(),
        refusing(f"must be a list of at most {MOST_EXCLUDED} whole numbers"),
    ] = Field(default=(), description="images to leave out")
    offset: Annotated[Row, Field(le=MOST_RESULTS)] | None = Field(
        default=None, description="results to leave out at the start, for the next page"
    )
    collapse: Text | None = Field(
        default=None, description=f"{NEAR_DUPLICATES}, or a metadata column of which every value is shown once"
    )

    def same_face(self, calibration: Calibration) -> float:
        """Cosine from which two faces are one person."""
        return calibration.threshold(self.fmr) if self.face_threshold is None else self.face_threshold

    def least_face(self, calibration: Calibration) -> float | None:
        """Cosine of the faces below which nothing is shown; None where everything is."""
        if self.min_face_similarity is None and self.min_face_fmr is not None:
            return calibration.threshold(self.min_face_fmr)
        return self.min_face_similarity

    @property
    def cuts_faces(self) -> bool:
        """Whether images are left out because of their faces."""
        return any(value is not None for value in (self.min_face_similarity, self.min_face_fmr, self.min_probability))

    @property
    def is_usual(self) -> bool:
        """Whether it asks for clip-retrieval's ranking and nothing else."""
        usual = RankingRequest()
        return all(getattr(self, name) == getattr(usual, name) for name in RankingRequest.model_fields)

    def fused_by(self, calibration: Calibration) -> Fusion:
        """The rule and its numbers, on the scale of a face model."""
        threshold = self.same_face(calibration)
        return Fusion.of(calibration, self.fusion or WEIGHTED, self.face_weight, threshold, self.unseen_face)


def require_clause(value: object) -> object:
    """What `people` is read from; raises BadRequest for what is no object."""
    if not isinstance(value, (dict, PeopleClause)):
        raise BadRequest('\'people\' must be an object such as {"all": ["Ada Lovelace"], "none": []}')
    return value


People = Annotated[PeopleClause, BeforeValidator(require_clause)]
