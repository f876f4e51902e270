"""Query encoding: a request's texts and people -> the vectors and faces that images are compared with.

Role: request + people + encoder -> `QueryParts`. "Any of" makes one alternative for every person; "all of" and the people
of the text's placeholders are in each alternative. A picture, a vector or a row given as the query stands for the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from open_clip_idplugin.prompts import entity_texts, expand, placeholder_numbers
from open_clip_idplugin.queries.person_as import choose, encode_people, why_no_token
from open_clip_idplugin.queries.person_words import SOMEBODY, TOKEN, WORDS, in_words, introduced, with_people
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex
from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.ranking.ranking_request import PersonQuery
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest


@dataclass(frozen=True, eq=False)
class Persons:
    """People by what answers call them, their face embeddings [P, D] float32, unit rows, and what they are in words."""

    names: tuple[str, ...]
    faces: np.ndarray
    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: "Persons") -> "Persons":
        if not len(self) or not len(other):  # nobody has faces of no size
            return self if len(self) else other
        return Persons(self.names + other.names, np.concatenate([self.faces, other.faces]), self.words + other.words)

    def one(self, number: int) -> "Persons":
        """One of them."""
        some = slice(number, number + 1)
        return Persons(self.names[some], self.faces[some], self.words[some])


_NOBODY = Persons((), np.zeros((0, 0), np.float32))


@dataclass(frozen=True, eq=False)
class Alternative:
    """One way to match the query: a vector for the whole image [E] float32, and the people it must show.

    in_words: the text in which people are words, None where they are tokens alone or there is no text.
    """

    vector: np.ndarray
    persons: Persons
    in_words: str | None = None


@dataclass(frozen=True, eq=False)
class QueryParts:
    """The whole query; an image is scored by its best alternative."""

    alternatives: tuple[Alternative, ...]
    unwanted: Persons
    negative: np.ndarray | None  # [E] float32
    from_text: bool
    person_as: str = TOKEN  # what the people are in the text: TOKEN, WORDS or BOTH
    why_no_token: str | None = None

    @property
    def has_people(self) -> bool:
        """Whether faces can count."""
        return any(len(alternative.persons) for alternative in self.alternatives)


def query_parts(
    request: KnnRequest, people: People, encoder: QueryEncoder, faces: FaceIndex | None, vector: np.ndarray | None
) -> QueryParts:
    """Resolve the people and encode the texts.

    Args:
        request: names in its text are placeholders already.
        people: of the service.
        encoder: of the index's model.
        faces: of the index, for people given as a face of an indexed image.
        vector: [E] of a picture, vector or row that stands for the text; a text wins over it.

    Raises:
        IdClipError: a person cannot be resolved, or texts and people do not fit together.
    """
    named = named_people(request, people, faces)
    always, options, unwanted = (
        _resolve(queries, people, faces) for queries in (request.people.all, request.people.any, request.people.none)
    )
    choices = [named + always + options.one(number) for number in range(len(options))] or [named + always]
    person_as, why_not = person_as_of(request, people, encoder, faces, choices[0])
    if request.text is None and vector is not None:
        alternatives = [Alternative(vector, persons) for persons in choices]
    else:
        alternatives = _encode(request, len(named), choices, encoder, person_as)
    text = request.negative_text
    negative = encode_people(encoder, TOKEN, [[text]], [_NOBODY.faces], [()])[0] if text is not None else None
    return QueryParts(tuple(alternatives), unwanted, negative, request.text_counts, person_as, why_not)


def named_people(request: KnnRequest, people: People, faces: FaceIndex | None) -> Persons:
    """Those who stand for the placeholders of the text: of `faces`, then of `identities`."""
    named = [
        PersonQuery(photo=face) if isinstance(face, bytes) else PersonQuery(embedding=face) for face in request.faces
    ]
    return _resolve([*named, *(PersonQuery(identity=name, name=name) for name in request.identities)], people, faces)


def face_model_of(people: People, faces: FaceIndex | None) -> str | None:
    """Where the faces of queries come from: the people of the service, else the faces of the index."""
    return people.face_model or (faces.model_id if faces is not None else None)


def person_as_of(
    request: KnnRequest, people: People, encoder: QueryEncoder, faces: FaceIndex | None, persons: Persons
) -> tuple[str, str | None]:
    """What `persons` are in the text, and why no token can be made of them; raises IdClipError as `person_as.choose`."""
    why_not = why_no_token(encoder.loaded, face_model_of(people, faces), persons.faces.shape[1] or None)
    return (choose(request.person_as, why_not) if len(persons) else TOKEN), why_not


def _encode(
    request: KnnRequest, required: int, choices: Sequence[Persons], encoder: QueryEncoder, person_as: str
) -> list[Alternative]:
    """One alternative a choice of people, by the text."""
    clause = bool(request.people.wanted)
    groups = [_texts(request.text, required, persons, clause, person_as) for persons in choices]
    placed = [_with_a_place(texts, persons, clause) for texts, persons in zip(groups, choices, strict=True)]
    rows, words = [persons.faces for persons in placed], [persons.words for persons in placed]
    vectors = encode_people(encoder, person_as, groups, rows, words)
    shown = [
        in_words(texts[0], persons.words) if person_as != TOKEN and len(choice) else None
        for texts, persons, choice in zip(groups, placed, choices, strict=True)
    ]
    return [Alternative(*entry) for entry in zip(vectors, choices, shown, strict=True)]


def _texts(text: str | None, required: int, persons: Persons, clause: bool, person_as: str) -> list[str]:
    """The texts that ask for one choice of people, with placeholders; more than one is an ensemble."""
    if text is None and len(persons) == 1:
        return [expand(prompt, "conf1") for prompt in entity_texts()]
    text = text or ""
    if placeholder_numbers(text) or not clause or not len(persons):
        return [text]
    if required:
        raise BadRequest(
            "'faces' and 'identities' need a 'text' that says where the person stands in it, such as '[TOK]'"
        )
    return [with_people(text, len(persons)) if person_as == WORDS else introduced(text, len(persons))]


def _with_a_place(texts: Sequence[str], persons: Persons, clause: bool) -> Persons:
    """Those who have a place in the texts; the people of a clause may be sought by their faces alone."""
    if not clause:
        return persons
    most = max((number for text in texts for number in placeholder_numbers(text)), default=0)
    return Persons(persons.names[:most], persons.faces[:most], persons.words[:most])


def _resolve(queries: Sequence[PersonQuery], people: People, faces: FaceIndex | None) -> Persons:
    if not queries:
        return _NOBODY
    names = tuple(query.name or f"face {number}" for number, query in enumerate(queries, 1))
    rows = [_face_of(query, people, faces) for query in queries]
    size = faces.info.embedding_size if faces is not None else len(rows[0])
    for name, row in zip(names, rows, strict=True):
        if len(row) != size:
            raise BadRequest(
                f"the face embedding of '{name}' has {len(row)} numbers, but those it is compared with have {size}: give "
                "embeddings of one face model"
            )
    matrix = np.stack(rows).astype(np.float32)
    lengths = np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    return Persons(names, matrix / lengths, tuple(_word_of(query, people) for query in queries))


def _word_of(query: PersonQuery, people: People) -> str:
    """What a person is in a text without a token: the own word of whoever is enrolled."""
    return people.word(query.identity) if query.identity is not None else SOMEBODY


def _face_of(query: PersonQuery, people: People, faces: FaceIndex | None) -> np.ndarray:
    if query.image_id is not None:
        if faces is None:
            raise BadRequest("this index holds no faces: add them with `idclip index_faces`, or give a photo")
        found = faces.faces_of(query.image_id)
        if query.face >= len(found):
            raise BadRequest(
                f"image {query.image_id} has {len(found)} faces in this index, not one of number {query.face}"
            )
        return np.asarray(faces.embeddings[found[query.face]])
    if query.identity is not None:
        return people.embeddings((), (query.identity,))[0]
    given = query.photo if query.photo is not None else query.embedding
    assert given is not None  # one of the three is always there
    return people.embeddings((given,), ())[0]
