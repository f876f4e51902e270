"""Service description: served indices, people, limits and access -> the JSON of `/service-info`.

It is what a page needs to know before the first search: indices, defaults, limits, and what is allowed.
"""

from typing import Any

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.faces.model_identity import same_model
from open_clip_idplugin.queries import fusion
from open_clip_idplugin.queries.person_as import choose, why_no_token
from open_clip_idplugin.queries.person_words import AUTO, CHOICES, WORDS
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex
from open_clip_idplugin.retrieval.ranking.query_parts import face_model_of
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.ranking.ranking_request import RankingRequest
from open_clip_idplugin.retrieval.service.access import Access
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.resources import IdentityResource
from open_clip_idplugin.retrieval.service.served_indices import ServedIndices

PROBABLY = 0.5  # from which the page takes a person to be in an image; below it says so


def describe_indices(
    indices: ServedIndices, people: People, limits: Limits, access: Access, loaded: LoadedModel
) -> dict[str, Any]:
    """Everything, as it is now; `loaded` is the model that encodes queries."""
    defaults, served = RankingRequest(), indices.current()
    scales = [resource.faces.calibration for resource in served.values() if resource.faces is not None]
    scale = scales[0] if scales else load_calibration(people.face_model)
    return {
        "indices": [_index(name, resource, people, loaded) for name, resource in served.items()],
        "people": {
            "has_gallery": people.gallery is not None,
            "may_edit": access.may_edit_people and people.gallery is not None,
            "reads_photos": people.reads_photos,
        },
        "defaults": {
            "face_weight": fusion.FACE_WEIGHT,
            "negative_weight": defaults.negative_weight,
            **_cosines(scale),
            "probably": PROBABLY,
        },
        "fusion_rules": list(fusion.RULES),
        "person_as": list(CHOICES),
        "limits": {**vars(limits)},
        "needs_token": access.token is not None,
    }


def _index(name: str, resource: IdentityResource, people: People, loaded: LoadedModel) -> dict[str, Any]:
    return {
        "name": name,
        "rows": resource.rows - len(resource.removed.ids),
        "has_faces": resource.faces is not None,
        "has_thumbnails": not resource.thumbnails.empty,
        "columns": list(resource.columns_to_return),
        "person_as": _person_as(resource.faces, people, loaded),
        "calibration": None if resource.faces is None else _calibration(resource.faces.calibration),
    }


def _calibration(scale: Calibration) -> dict[str, Any]:
    """How the cosines of an index's faces are read; `note` where nobody has measured its face model."""
    note = None
    if scale.assumed:
        note = f"Nobody has measured the face model '{scale.model_id}': ArcFace's scale is assumed (idclip calibrate)."
    return {"source": scale.source, "measured": not scale.assumed, "note": note, **_cosines(scale)}


def _cosines(scale: Calibration) -> dict[str, float]:
    threshold = round(scale.threshold(FMR_NAMES), 4)
    rates = {"fmr": FMR_NAMES, "face_threshold": threshold, "same_face": threshold}
    return {**rates, "unseen_face": round(scale.unseen, 4)}


def _person_as(faces: FaceIndex | None, people: People, loaded: LoadedModel) -> dict[str, Any]:
    """What people are in the texts of this index unless a request says otherwise, and a sentence on why and what it needs."""
    size = people.face_size or (faces.info.embedding_size if faces is not None else None)
    why_not = why_no_token(loaded, face_model_of(people, faces), size)
    used = choose(AUTO, why_not)
    notes = [] if why_not is None else [f"People are words in the text, because {why_not}; their faces rank."]
    if used == WORDS and faces is None:
        notes.append("This index holds no faces: until `idclip index_faces` adds them it cannot be asked for people.")
    agree = faces is None or same_model(faces.model_id, people.face_model)
    if faces is not None and not agree:
        notes = [
            f"This index cannot be asked for people: its faces come from '{faces.model_id}', theirs from "
            f"'{people.face_model}', and these cannot be compared."
        ]
    return {
        "auto": used,
        "finds_people": agree and (used != WORDS or faces is not None),
        "note": " ".join(notes) or None,
    }
