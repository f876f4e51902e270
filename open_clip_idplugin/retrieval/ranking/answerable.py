"""Request validation against an index: which one a request names, and what it cannot be asked for.

Role: a checked request + opened indices -> one of them, or BadRequest before anything is searched.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from open_clip_idplugin.queries import fusion
from open_clip_idplugin.queries.person_words import WORDS
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex
from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest, KnnRequest
from open_clip_idplugin.retrieval.ranking.opened_index import OpenedIndex
from open_clip_idplugin.retrieval.ranking.query_parts import QueryParts

Opened = TypeVar("Opened", bound=OpenedIndex)


def choose_index(resources: Mapping[str, Opened], name: object) -> Opened:
    """The index of that name, the first one for none; raises BadRequest for a name that is not served."""
    if name is None or name == "":
        return next(iter(resources.values()))
    if not isinstance(name, str) or name not in resources:
        raise BadRequest(f"'indice_name' must be one of {', '.join(resources)}")
    return resources[name]


def require_answerable(request: KnnRequest, resource: OpenedIndex) -> None:
    """Refuse what clip-retrieval would fail on, or answer with nonsense."""
    if request.modality == "text" and resource.text_index is None:
        raise BadRequest("this index holds no text index: ask for the modality 'image'")
    if request.use_mclip:
        raise BadRequest("this service has no multilingual model: leave out 'use_mclip'")
    if request.image_id is not None and request.image_id >= resource.rows:
        raise BadRequest(f"'image_id' must lie between 0 and {resource.rows - 1}")
    people = request.people.all + request.people.any + request.people.none
    used = [row for row in (request.image_id, *(person.image_id for person in people)) if row is not None]
    if used and np.isin(used, resource.removed.ids).any():
        raise BadRequest("'image_id' names an image that was removed from the index")
    if request.text is not None or request.image is not None:
        return  # as in clip-retrieval, they win over a vector that is given beside them
    if request.embedding_input is not None and len(request.embedding_input) != resource.image_index.d:
        raise BadRequest(
            f"'embedding_input' has {len(request.embedding_input)} numbers, but the index holds vectors of "
            f"{resource.image_index.d}"
        )


def require_faces(parts: QueryParts, request: KnnRequest, faces: FaceIndex | None) -> None:
    """Refuse what only faces can answer where the index holds none."""
    asked = {
        "'none' in 'people'": len(parts.unwanted) > 0,
        "'only' in 'people'": request.people.only,
        "'min_face_similarity'": request.min_face_similarity is not None,
        "'min_face_fmr'": request.min_face_fmr is not None,
        "'min_probability'": request.min_probability is not None and parts.has_people,
        f"'fusion': '{request.fusion}'": request.fusion not in (None, fusion.NONE) and parts.has_people,
    }
    for what, needed in asked.items():
        if needed and faces is None:
            raise BadRequest(f"{what} compares faces, and this index holds none: add them with `idclip index_faces`")
    require_ranked(parts.has_people, parts.person_as, parts.why_no_token, request, faces)


def require_ranked(
    has_people: bool, person_as: str, why_no_token: str | None, request: KnnRequest, faces: FaceIndex | None
) -> None:
    """Refuse where neither a token nor faces would rank by who was asked for: the answer would show strangers.

    person_as: what the people are in the text; a picture that stands for the text holds no people at all.
    """
    if not has_people or (request.text_counts and person_as != WORDS):
        return
    reason = f", because {why_no_token}" if person_as == WORDS and why_no_token else ""
    if not request.text_counts:
        told = "a picture, vector or row as the query says nothing of the people"
    else:
        told = f"the people of this query are only words in the text{reason}"
    if faces is None:
        raise BadRequest(
            f"{told}, and this index holds no faces to find them by: add them with `idclip faces` and `idclip index_faces`"
        )
    if request.fusion == fusion.NONE:
        raise BadRequest(f"{told}, and 'fusion': 'none' leaves their faces out: choose another fusion")
