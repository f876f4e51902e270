"""A search request: the JSON that `/knn-service` takes, checked field by field.

Role: parsed JSON -> `KnnRequest`. The stock fields of clip-retrieval keep their meaning, with defaults where the
stock service fails on a missing one; `faces`, `identities`, `person_as`, `image_id` and `include_images` are ours, and those of
`ranking_request`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from open_clip_idplugin.person_words import AUTO, CHOICES
from open_clip_idplugin.retrieval.ranking.ranking_request import (
    MOST_FACES,
    PeopleClause,
    RankingRequest,
    parse_people,
    parse_ranking,
)
from open_clip_idplugin.retrieval.ranking.request_fields import MOST_RESULTS as MOST_RESULTS
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest as BadRequest
from open_clip_idplugin.retrieval.ranking.request_fields import (
    count_field,
    flag_field,
    number_field,
    row_field,
    text_field,
    vector_field,
)

LONGEST_TEXT = 10_000  # characters; far more than any text tower reads
_MODALITIES = ("image", "text")


@dataclass(frozen=True)
class KnnRequest:
    """One search, with everything that clip-retrieval's `KnnService.query` wants to know.

    `text` may hold `[TOK]`, `[TOK:2]` ...: these stand for the people of `faces`, then those of `identities`, in order.
    """

    text: str | None = None
    image: str | None = None  # base64
    image_url: str | None = None
    embedding_input: list[float] | None = None
    image_id: int | None = None  # row whose stored vector is the query
    faces: tuple[str | np.ndarray, ...] = ()  # base64 photos, or embeddings [D] float32
    identities: tuple[str, ...] = ()  # enrolled names
    modality: str = "image"
    num_images: int = 40
    num_result_ids: int = 40
    indice_name: str | None = None
    use_mclip: bool = False
    deduplicate: bool = False
    use_safety_model: bool = False
    use_violence_detector: bool = False
    aesthetic_score: int | None = None
    aesthetic_weight: float | None = None
    include_images: bool = True
    people: PeopleClause = field(default_factory=PeopleClause)
    ranking: RankingRequest = field(default_factory=RankingRequest)
    find_names: bool = True  # enrolled names in the text become people
    person_as: str = AUTO  # one of `person_words.CHOICES`

    @property
    def has_people(self) -> bool:
        """Whether the text's placeholders stand for somebody."""
        return bool(self.faces or self.identities)

    @property
    def enrolled(self) -> tuple[str, ...]:
        """Names of everybody who is asked for by name."""
        clause = (*self.people.all, *self.people.any, *self.people.none)
        return (*self.identities, *(one.identity for one in clause if one.identity is not None))

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
    num_images = count_field(values, "num_images", 40)
    request = KnnRequest(
        text=text_field(values, "text", LONGEST_TEXT),
        image=text_field(values, "image"),
        image_url=text_field(values, "image_url"),
        embedding_input=_embedding(values),
        image_id=row_field(values, "image_id"),
        faces=_faces(values),
        identities=_identities(values),
        modality=_modality(values),
        num_images=num_images,
        num_result_ids=count_field(values, "num_result_ids", num_images),
        indice_name=text_field(values, "indice_name"),
        use_mclip=flag_field(values, "use_mclip"),
        deduplicate=flag_field(values, "deduplicate"),
        use_safety_model=flag_field(values, "use_safety_model"),
        use_violence_detector=flag_field(values, "use_violence_detector"),
        aesthetic_score=number_field(values, "aesthetic_score", int),
        aesthetic_weight=number_field(values, "aesthetic_weight", float),
        include_images=flag_field(values, "include_images", True),
        people=parse_people(values),
        ranking=parse_ranking(values, LONGEST_TEXT),
        find_names=flag_field(values, "find_names", True),
        person_as=_person_as(values),
    )
    _require_a_query(request)
    return request


def _require_a_query(request: KnnRequest) -> None:
    if request.has_people and request.text is None:
        raise BadRequest(
            "'faces' and 'identities' need a 'text' that says where the person stands in it, such as '[TOK]'"
        )
    queries = (request.text, request.image, request.image_url, request.embedding_input, request.image_id)
    if all(query is None for query in queries) and not request.people.wanted:
        raise BadRequest(
            "the request asks for nothing: fill in one of text, image, image_url, embedding_input, image_id or people"
        )


def _modality(values: Mapping[str, Any]) -> str:
    modality = text_field(values, "modality") or "image"
    if modality not in _MODALITIES:
        raise BadRequest(f"'modality' must be one of {', '.join(_MODALITIES)}")
    return modality


def _person_as(values: Mapping[str, Any]) -> str:
    person_as = text_field(values, "person_as") or AUTO
    if person_as not in CHOICES:
        raise BadRequest(f"'person_as' must be one of {', '.join(CHOICES)}")
    return person_as


def _embedding(values: Mapping[str, Any]) -> list[float] | None:
    value = values.get("embedding_input")
    if value is None:
        return None
    return [float(number) for number in vector_field(value, "embedding_input")]


def _faces(values: Mapping[str, Any]) -> tuple[str | np.ndarray, ...]:
    """A list of base64 photos and embeddings, or one of either."""
    value = values.get("faces")
    if value is None:
        return ()
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], (int, float))):
        value = [value]
    if not isinstance(value, list) or len(value) > MOST_FACES:
        raise BadRequest(f"'faces' must be a list of at most {MOST_FACES} base64 photos or embeddings")
    return tuple(face if isinstance(face, str) else vector_field(face, "faces") for face in value)


def _identities(values: Mapping[str, Any]) -> tuple[str, ...]:
    value = values.get("identities")
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > MOST_FACES or not all(isinstance(name, str) for name in names):
        raise BadRequest(f"'identities' must be a list of at most {MOST_FACES} enrolled names")
    return tuple(names)
