"""A contact sheet of a release: a plan -> one picture to look at, with examples of every stratum and of look-alikes.

Each row shows one scene: a photo of the first person, the picture before the swap, and the pictures with swapped faces.
"""

import cv2
import numpy as np

from webdataset_tools.miniature.drawing import DrawnFace
from webdataset_tools.miniature.identity_photos import draw_identity_photo
from webdataset_tools.miniature.people import Person
from webdataset_tools.miniature.release_plan import PlannedScene, ReleasePlan
from webdataset_tools.miniature.scenes import STRATA, draw_scene, sample_scene

_CELL, _LABEL, _GAP = 144, 22, 4
_SWAPS = 5


def draw_contact_sheet(plan: ReleasePlan) -> np.ndarray:
    """Return an RGB picture uint8 [H, W, 3] with one row a stratum and one of look-alikes, from the last split that has it."""
    rows = [_row(name, planned, plan.photos_per_person) for name, planned in _examples(plan).items()]
    return np.concatenate(rows) if rows else np.full((_CELL, _CELL, 3), 255, np.uint8)


def _examples(plan: ReleasePlan) -> dict[str, PlannedScene]:
    """Return an example of each stratum and of look-alikes; unseen people first."""
    found: dict[str, PlannedScene] = {}
    for planned in reversed(plan.scenes):
        stratum = sample_scene(planned.scene_seed).stratum
        name = "look-alikes" if planned.look_alike and stratum == "plain" else stratum
        if not planned.look_alike or name == "look-alikes":
            found.setdefault(name, planned)
    return {name: found[name] for name in (*STRATA, "look-alikes") if name in found}


def _row(name: str, planned: PlannedScene, photos: int) -> np.ndarray:
    scene = sample_scene(planned.scene_seed)
    people = planned.faces[:_SWAPS]
    cells = [("photo: " + people[0].name, _clear_photo(people[0], photos).picture)]
    cells.append((f"{name}: before", draw_scene(scene, planned.body).picture))
    cells += [(person.name, draw_scene(scene, planned.body, person).picture) for person in people]
    return np.concatenate([draw_cell(label, picture) for label, picture in cells], axis=1)


def _clear_photo(person: Person, photos: int) -> DrawnFace:
    """Return the photo of `person` whose eyes are farthest apart: near and frontal."""
    drawn = [draw_identity_photo(person, index) for index in range(photos)]
    return max(drawn, key=lambda photo: float(np.hypot(*(photo.landmarks[1] - photo.landmarks[0]))))


def draw_cell(label: str, picture: np.ndarray, side: int = _CELL) -> np.ndarray:
    """Return a picture of the sheet, `side` pixels high and wide, with a line of text above it."""
    cell = np.full((side + _LABEL + _GAP, side + _GAP, 3), 255, np.uint8)
    cell[_LABEL : _LABEL + side, :side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    cv2.putText(cell, label, (2, _LABEL - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)
    return cell
