"""What a page needs to know of the service before the first search: indices, defaults, limits, and what is allowed.

Role: served indices + people + limits + access -> the JSON of `/service-info`.
"""

from typing import Any

from open_clip_idplugin import fusion
from open_clip_idplugin.gallery.likeness import SAME_FACE
from open_clip_idplugin.retrieval.access import Access
from open_clip_idplugin.retrieval.limits import Limits
from open_clip_idplugin.retrieval.people import People
from open_clip_idplugin.retrieval.ranking_request import RankingRequest
from open_clip_idplugin.retrieval.resources import IdentityResource
from open_clip_idplugin.retrieval.served_indices import ServedIndices


def describe_indices(indices: ServedIndices, people: People, limits: Limits, access: Access) -> dict[str, Any]:
    """Everything, as it is now."""
    defaults = RankingRequest()
    return {
        "indices": [_index(name, resource) for name, resource in indices.current().items()],
        "people": {
            "has_gallery": people.gallery is not None,
            "may_edit": access.may_edit_people and people.gallery is not None,
            "reads_photos": people.reads_photos,
        },
        "defaults": {
            "face_weight": fusion.FACE_WEIGHT,
            "face_threshold": defaults.face_threshold,
            "unseen_face": defaults.unseen_face,
            "negative_weight": defaults.negative_weight,
            "same_face": SAME_FACE,
        },
        "fusion_rules": list(fusion.RULES),
        "limits": {**vars(limits)},
        "needs_token": access.token is not None,
    }


def _index(name: str, resource: IdentityResource) -> dict[str, Any]:
    return {
        "name": name,
        "rows": resource.rows - len(resource.removed.ids),
        "has_faces": resource.faces is not None,
        "has_thumbnails": not resource.thumbnails.empty,
        "columns": list(resource.columns_to_return),
    }
