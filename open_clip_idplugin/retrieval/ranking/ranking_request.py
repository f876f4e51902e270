"""What a request says about people and ranking beyond clip-retrieval's own fields.

Role: parsed JSON -> `PeopleClause` and `RankingRequest`, checked field by field. What depends on the index (columns,
faces, rows) is checked when the request is answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration
from open_clip_idplugin.fusion import RULES, WEIGHTED, Fusion
from open_clip_idplugin.gallery import fold_name
from open_clip_idplugin.retrieval.ranking.request_fields import (
    MOST_RESULTS,
    BadRequest,
    number_field,
    refuse_unknown,
    row_field,
    text_field,
    vector_field,
)

MOST_FACES = 16
MOST_FILTERS = 32
MOST_EXCLUDED = 10_000
NEAR_DUPLICATES = "near_duplicates"
_CLAUSES = ("all", "any", "none")
_PERSON = ("photo", "embedding", "image_id", "face", "name")


@dataclass(frozen=True, eq=False)
class PersonQuery:
    """One person: an enrolled name, a base64 photo, an embedding [D], or face `face` (from 0) of an indexed image."""

    identity: str | None = None
    photo: str | None = None
    embedding: np.ndarray | None = None
    image_id: int | None = None
    face: int = 0
    name: str | None = None  # what to call this person in answers


@dataclass(frozen=True)
class PeopleClause:
    """Images must show `all` of these people as different faces, at least one of `any`, and nobody of `none`."""

    all: tuple[PersonQuery, ...] = ()
    any: tuple[PersonQuery, ...] = ()
    none: tuple[PersonQuery, ...] = ()
    only: bool = False  # no further face

    @property
    def wanted(self) -> bool:
        """Whether the clause alone says what to look for."""
        return bool(self.all or self.any)

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.wanted or self.none or self.only)


@dataclass(frozen=True)
class RankingRequest:
    """How results are scored, cut off and paged; the defaults are clip-retrieval's ranking.

    Cosines of faces that are not given follow from false match rates and the face model's calibration.
    """

    negative_text: str | None = None
    negative_weight: float = 0.5
    fusion: str | None = None  # one of RULES; None: the weighted sum where there are people and faces
    face_weight: float | None = None
    fmr: float = FMR_NAMES  # of `face_threshold`, where that is not given
    face_threshold: float | None = None
    unseen_face: float | None = None  # face similarity of an image in which no face was found
    min_similarity: float | None = None
    min_face_similarity: float | None = None
    min_face_fmr: float | None = None  # of `min_face_similarity`, where that is not given
    min_probability: float | None = None  # that all people asked for are in the image
    filters: Mapping[str, Any] = field(default_factory=dict)
    exclude_ids: tuple[int, ...] = ()
    offset: int | None = None
    collapse: str | None = None  # NEAR_DUPLICATES or a metadata column

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

    def fused_by(self, calibration: Calibration) -> Fusion:
        """The rule and its numbers, on the scale of a face model."""
        threshold = self.same_face(calibration)
        return Fusion.of(calibration, self.fusion or WEIGHTED, self.face_weight, threshold, self.unseen_face)


def parse_people(values: Mapping[str, Any]) -> PeopleClause:
    """The field `people`; raises BadRequest."""
    clause = values.get("people")
    if clause is None:
        return PeopleClause()
    if not isinstance(clause, dict):
        raise BadRequest('\'people\' must be an object such as {"all": ["Ada Lovelace"], "none": []}')
    refuse_unknown(clause, (*_CLAUSES, "only"), "people")
    only = clause.get("only")
    if only is not None and not isinstance(only, bool):
        raise BadRequest("'only' in 'people' must be true or false")
    parsed = PeopleClause(**{name: _persons(clause.get(name), name) for name in _CLAUSES}, only=bool(only))
    if parsed.only and parsed.any:
        raise BadRequest("'only' in 'people' goes with 'all', not with 'any'")
    return parsed


def parse_ranking(values: Mapping[str, Any], longest_text: int) -> RankingRequest:
    """Everything but the people; raises BadRequest."""
    rule = text_field(values, "fusion")
    if rule is not None and rule not in RULES:
        raise BadRequest(f"'fusion' must be one of {', '.join(RULES)}")
    defaults = RankingRequest()
    return RankingRequest(
        negative_text=text_field(values, "negative_text", longest_text),
        negative_weight=_or(_number(values, "negative_weight", 0, 10), defaults.negative_weight),
        fusion=rule,
        face_weight=_number(values, "face_weight", 0, 100),
        fmr=_or(_rate(values, "fmr"), defaults.fmr),
        face_threshold=_number(values, "face_threshold", -1, 1),
        unseen_face=_number(values, "unseen_face", -1, 1),
        min_similarity=_number(values, "min_similarity", -1, 1),
        min_face_similarity=_number(values, "min_face_similarity", -1, 1),
        min_face_fmr=_rate(values, "min_face_fmr"),
        min_probability=_number(values, "min_probability", 0, 1),
        filters=_filters(values),
        exclude_ids=_excluded(values),
        offset=_offset(values),
        collapse=text_field(values, "collapse"),
    )


def without_named(clause: PeopleClause, identities: Sequence[str], names: Mapping[str, str]) -> PeopleClause:
    """The clause without those of `all` whom the text names already: one person, and not two different faces."""
    if not identities or not clause.all:
        return clause
    people = {fold_name(spelling): person for spelling, person in names.items()}
    kept = [one for one in clause.all if one.identity is None or people.get(fold_name(one.identity)) not in identities]
    return replace(clause, all=tuple(kept))


def _persons(entries: object, clause: str) -> tuple[PersonQuery, ...]:
    if entries is None:
        return ()
    if isinstance(entries, (str, dict)):
        entries = [entries]
    if not isinstance(entries, list) or len(entries) > MOST_FACES:
        raise BadRequest(
            f"'{clause}' in 'people' must be a list of at most {MOST_FACES} enrolled names or face objects"
        )
    return tuple(_person(entry, clause) for entry in entries)


def _person(entry: object, clause: str) -> PersonQuery:
    if isinstance(entry, str):
        return PersonQuery(identity=entry, name=entry)
    if not isinstance(entry, dict):
        raise BadRequest(f"'{clause}' in 'people' must hold enrolled names or face objects")
    refuse_unknown(entry, _PERSON, f"people.{clause}")
    photo, image_id = text_field(entry, "photo"), row_field(entry, "image_id")
    embedding = None if entry.get("embedding") is None else vector_field(entry["embedding"], "embedding")
    if sum(value is not None for value in (photo, embedding, image_id)) != 1:
        raise BadRequest(f"a face object in 'people.{clause}' must have one of photo, embedding or image_id")
    name = text_field(entry, "name", 200)
    return PersonQuery(None, photo, embedding, image_id, row_field(entry, "face") or 0, name)


def _number(values: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    number: float | None = number_field(values, name, float)
    if number is not None and not least <= number <= most:
        raise BadRequest(f"'{name}' must be a number from {least} to {most}")
    return number


def _rate(values: Mapping[str, Any], name: str) -> float | None:
    number = _number(values, name, 0, 1)
    if number is not None and not 0 < number < 1:
        raise BadRequest(f"'{name}' is a false match rate: a number between 0 and 1, such as 0.001")
    return number


def _or(number: float | None, default: float) -> float:
    return default if number is None else number


def _filters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    filters = values.get("filters")
    if filters is None:
        return {}
    if not isinstance(filters, dict) or len(filters) > MOST_FILTERS:
        raise BadRequest('\'filters\' must be an object of columns and values, such as {"stratum": "dark"}')
    return filters


def _excluded(values: Mapping[str, Any]) -> tuple[int, ...]:
    ids = values.get("exclude_ids")
    if ids is None:
        return ()
    if not isinstance(ids, list) or len(ids) > MOST_EXCLUDED or any(type(row) is not int for row in ids):
        raise BadRequest(f"'exclude_ids' must be a list of at most {MOST_EXCLUDED} whole numbers")
    return tuple(ids)


def _offset(values: Mapping[str, Any]) -> int | None:
    offset = row_field(values, "offset")
    if offset is not None and offset > MOST_RESULTS:
        raise BadRequest(f"'offset' must be at most {MOST_RESULTS}")
    return offset
