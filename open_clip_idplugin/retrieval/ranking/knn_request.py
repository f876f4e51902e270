"""Request validation: the JSON that `/knn-service` takes -> `KnnRequest`.

The stock fields of clip-retrieval keep their meaning, with defaults where the stock service fails on a missing one; `faces`,
`identities`, `person_as`, `find_names`, `image_id` and `include_images` are ours, and those of `ranking_request`. This is the one
place that states what a search takes.
"""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, FailFast, Field, StrictStr, model_validator
from typing_extensions import Self

from open_clip_idplugin.queries.person_words import AUTO, CHOICES
from open_clip_idplugin.retrieval.ranking.ranking_request import LONGEST_TEXT as LONGEST_TEXT
from open_clip_idplugin.retrieval.ranking.ranking_request import MOST_FACES as MOST_FACES
from open_clip_idplugin.retrieval.ranking.ranking_request import People, PeopleClause, RankingRequest
from open_clip_idplugin.retrieval.ranking.request_fields import MOST_RESULTS as MOST_RESULTS
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest as BadRequest
from open_clip_idplugin.retrieval.ranking.request_fields import (
    Count,
    EmptyIsLeftOut,
    Face,
    Finite,
    Flag,
    OneOf,
    Picture,
    Row,
    Text,
    Vector,
    alone_in_list,
    refusing,
)


def _one_face(value: object) -> object:
    """A photo or an embedding stands for the list of it."""
    alone = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], (int, float)))
    return [value] if alone else value


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class KnnRequest(RankingRequest):
    """One search, with everything that clip-retrieval's `KnnService.query` wants to know.

    `text` may hold `[TOK]`, `[TOK:2]` ...: these stand for the people of `faces`, then those of `identities`, in order.
    """

    text: Annotated[Text, Field(max_length=LONGEST_TEXT)] | None = Field(
        default=None, description="what the images show; [TOK], [TOK:2] ... stand for people"
    )
    image: Picture | None = Field(default=None, description="a picture to find similar ones to")
    image_url: Text | None = Field(
        default=None, description="address of such a picture; only where the service fetches"
    )
    embedding_input: Vector | None = Field(default=None, description="the query's vector itself")
    image_id: Row | None = Field(default=None, description="find images like this one, by its stored vector")
    faces: Annotated[
        tuple[Face, ...],
        Field(max_length=MOST_FACES),
        FailFast(),
        BeforeValidator(_one_face),
        refusing(f"must be a list of at most {MOST_FACES} base64 photos or embeddings"),
    ] = Field(default=(), description="people: base64 photos or face embeddings")
    identities: Annotated[
        tuple[StrictStr, ...],
        Field(max_length=MOST_FACES),
        FailFast(),
        alone_in_list(str),
        refusing(f"must be a list of at most {MOST_FACES} enrolled names"),
    ] = Field(default=(), description="people: enrolled names, after `faces`")
    modality: Annotated[str, OneOf(("image", "text")), EmptyIsLeftOut] = Field(
        default="image", description="what is searched"
    )
    num_images: Count = Field(default=40, description="results with metadata")
    num_result_ids: Count = Field(
        default=40,
        description="results in all; as many as `num_images` by default",
        json_schema_extra=_without_default,
    )
    indice_name: Text | None = Field(default=None, description="which index; the first one by default")
    use_mclip: Flag = Field(default=False, description="must be false: no multilingual model is loaded")
    deduplicate: Flag = Field(default=False, description="leave out near-duplicates")
    use_safety_model: Flag = Field(default=False, description="without effect: none is loaded")
    use_violence_detector: Flag = Field(default=False, description="without effect: none is loaded")
    aesthetic_score: Annotated[int, BeforeValidator(_whole), EmptyIsLeftOut] | None = Field(
        default=None, description="without effect: no such vectors are loaded"
    )
    aesthetic_weight: Annotated[Finite, EmptyIsLeftOut] | None = Field(
        default=None, description="without effect: no such vectors are loaded"
    )
    include_images: Flag = Field(default=True, description="send thumbnails as base64 JPEG in `image`")
    people: People = Field(
        default_factory=lambda: PeopleClause(), description="who is in the images: enrolled names, or face objects"
    )
    find_names: Flag = Field(default=True, description="enrolled names in the text become people")
    person_as: Annotated[str, OneOf(CHOICES), EmptyIsLeftOut] = Field(
        default=AUTO,
        description="what people are in the text: identity token, words, or both; auto is the token where an adaptor trained "
        "for this face model is there, else words, and the faces rank",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_many_ids_as_images(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("num_result_ids") is None:
            return {**values, "num_result_ids": values.get("num_images")}
        return values

    @model_validator(mode="after")
    def _require_a_query(self) -> Self:
        if self.has_people and self.text is None:
            raise BadRequest(
                "'faces' and 'identities' need a 'text' that says where the person stands in it, such as '[TOK]'"
            )
        queries = (self.text, self.image, self.image_url, self.embedding_input, self.image_id)
        if all(query is None for query in queries) and not self.people.wanted:
            raise BadRequest(
                "the request asks for nothing: fill in one of text, image, image_url, embedding_input, image_id or people"
            )
        return self

    @property
    def has_people(self) -> bool:
        """Whether the text's placeholders stand for somebody."""
        return bool(self.faces or self.identities)

    def beyond_stock(self, index_has_faces: bool) -> bool:
        """Whether the request needs more than clip-retrieval's own ranking."""
        compares_faces = self.has_people and index_has_faces and self.text is not None
        return compares_faces or not self.people.empty or self.image_id is not None or not self.is_usual

    @property
    def enrolled(self) -> tuple[str, ...]:
        """Names of everybody who is asked for by name."""
        clause = (*self.people.all, *self.people.any, *self.people.none)
        return (*self.identities, *(one.identity for one in clause if one.identity is not None))

    @property
    def photos(self) -> tuple[bytes, ...]:
        """Photos of people, of the text's and then of the clause's."""
        clause = (*self.people.all, *self.people.any, *self.people.none)
        faces = (face for face in self.faces if isinstance(face, bytes))
        return (*faces, *(one.photo for one in clause if one.photo is not None))

    @property
    def text_counts(self) -> bool:
        """Whether the query is a text, which may be one about people alone: a text wins over what stands for it."""
        others = (self.image, self.image_url, self.embedding_input, self.image_id)
        return self.text is not None or all(other is None for other in others)


def parse_request(values: object) -> KnnRequest:
    """Check the JSON of a request.

    Raises:
        BadRequest: in one sentence, naming the field. Unknown fields are left alone: clients may send their own.
    """
    if not isinstance(values, dict):
        raise BadRequest('the request must be a JSON object, for example {"text": "a red bicycle"}')
    return KnnRequest.read(values)
