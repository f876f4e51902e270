"""A request's texts and people -> the vectors that images are compared with.

Role: request + people + encoder -> `QueryParts`. "Any of" makes one alternative for every person; "all of" and the people
of the text's placeholders are in each alternative. A picture, a vector or a row given as the query stands for the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from open_clip_idplugin.identity_text import PLACEHOLDER
from open_clip_idplugin.prompts import entity_texts, expand
from open_clip_idplugin.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval.face_index import FaceIndex
from open_clip_idplugin.retrieval.knn_request import KnnRequest
from open_clip_idplugin.retrieval.people import People
from open_clip_idplugin.retrieval.ranking_request import PersonQuery
from open_clip_idplugin.retrieval.request_fields import BadRequest

_NUMBERED = re.compile(r"\[TOK(?::(\d+))?\]")


@dataclass(frozen=True, eq=False)
class Persons:
    """People by what answers call them, and their face embeddings [P, D] float32, unit rows."""

    names: tuple[str, ...]
    faces: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: "Persons") -> "Persons":
        return Persons(self.names + other.names, np.concatenate([self.faces, other.faces]))

    def one(self, number: int) -> "Persons":
        """One of them."""
        return Persons(self.names[number : number + 1], self.faces[number : number + 1])


@dataclass(frozen=True, eq=False)
class Alternative:
    """One way to match the query: a vector for the whole image [E] float32, and the people it must show."""

    vector: np.ndarray
    persons: Persons


@dataclass(frozen=True, eq=False)
class QueryParts:
    """The whole query; an image is scored by its best alternative."""

    alternatives: tuple[Alternative, ...]
    unwanted: Persons
    negative: np.ndarray | None  # [E] float32
    from_text: bool

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
    named = tuple(
        PersonQuery(photo=face) if isinstance(face, str) else PersonQuery(embedding=face) for face in request.faces
    )
    named += tuple(PersonQuery(identity=name, name=name) for name in request.identities)
    always = _resolve(named + request.people.all, people, faces)
    options = _resolve(request.people.any, people, faces)
    choices = [always + options.one(number) for number in range(len(options))] or [always]
    if request.text is None and vector is not None:
        vectors = [vector] * len(choices)
    else:
        vectors = _encode(request.text, len(named), choices, encoder, bool(request.people.wanted))
    text = request.ranking.negative_text
    return QueryParts(
        tuple(Alternative(row, persons) for row, persons in zip(vectors, choices, strict=True)),
        _resolve(request.people.none, people, faces),
        encoder.encode([text])[0] if text is not None else None,
        request.text is not None or vector is None,
    )


def introduce(text: str, count: int) -> str:
    """A text without placeholders -> the same, introduced by those of `count` people, as in training."""
    placeholders = [PLACEHOLDER, *(f"[TOK:{number}]" for number in range(2, count + 1))]
    listed = " and ".join(filter(None, [", ".join(placeholders[:-1]), placeholders[-1]]))
    return f"An image with {listed}. {text}".rstrip()


def _encode(
    text: str | None, required: int, choices: Sequence[Persons], encoder: QueryEncoder, clause: bool
) -> list[np.ndarray]:
    """One vector [E] a choice of people."""
    if text is None and all(len(persons) == 1 for persons in choices):
        prompts = [expand(prompt, "conf1") for prompt in entity_texts()]
        return list(encoder.encode_ensemble([prompts] * len(choices), [persons.faces for persons in choices]))
    places = [int(match.group(1) or 1) for match in _NUMBERED.finditer(text or "")]
    texts, rows = [], []
    for persons in choices:
        if places or not clause or not len(persons):
            texts.append(text or "")
            rows.append(persons.faces[: max(places, default=0)] if clause else persons.faces)
        elif required:
            raise BadRequest(
                "'faces' and 'identities' need a 'text' that says where the person stands in it, such as '[TOK]'"
            )
        else:
            texts.append(introduce(text or "", len(persons)))
            rows.append(persons.faces)
    return list(encoder.encode(texts, rows if any(map(len, rows)) else None))


def _resolve(queries: Sequence[PersonQuery], people: People, faces: FaceIndex | None) -> Persons:
    names = tuple(query.name or f"face {number}" for number, query in enumerate(queries, 1))
    rows = [_face_of(query, people, faces) for query in queries]
    matrix = np.stack(rows).astype(np.float32) if rows else np.zeros((0, people.face_dim), np.float32)
    lengths = np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    return Persons(names, matrix / lengths)


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
