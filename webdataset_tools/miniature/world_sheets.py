"""Contact sheets of a drawn world: a plan -> one picture with examples of every stratum, of look-alikes and of photos."""

from collections.abc import Iterator

import cv2
import numpy as np

from webdataset_tools.contact_sheet import Cell, draw_sheet
from webdataset_tools.miniature.coco_annotations import scene_annotations
from webdataset_tools.miniature.drawing import DrawnFace
from webdataset_tools.miniature.identity_photos import draw_identity_photo
from webdataset_tools.miniature.people import Person
from webdataset_tools.miniature.release_plan import PlannedScene, ReleasePlan
from webdataset_tools.miniature.scenes import STRATA, draw_scene, sample_scene
from webdataset_tools.miniature.unswapped_plan import UnswappedPlan

_SIDE = 144
_SWAPS, _COLUMNS = 5, 7
_LOOK_ALIKES = "look-alikes"
_LINE = {True: (230, 40, 40), False: (40, 90, 230)}  # of the person, of other things


def draw_release_sheet(plan: ReleasePlan) -> np.ndarray:
    """Return an RGB picture uint8 [H, W, 3]: a row a stratum and one of look-alikes, from the last split that has it.

    Each row shows one scene: a photo of the first person, the picture before the swap, and the pictures with swapped faces.
    """
    found: dict[str, PlannedScene] = {}
    for name, planned in _examples(plan):
        if not planned.look_alike or name == _LOOK_ALIKES:
            found.setdefault(name, planned)
    names = [name for name in (*STRATA, _LOOK_ALIKES) if name in found]
    return draw_sheet([_swaps(name, found[name], plan.photos_per_person) for name in names], _SIDE)


def draw_unswapped_sheet(world: UnswappedPlan) -> np.ndarray:
    """Return an RGB picture uint8 [H, W, 3]: a row a stratum, with annotations, one of look-alikes and one of photos."""
    rows: dict[str, list[Cell]] = {name: [] for name in (*STRATA, _LOOK_ALIKES)}
    for name, planned in _examples(world.plan):
        if len(rows[name]) < _COLUMNS:
            rows[name].append(Cell(_annotated(planned), f"{name}: {planned.split}"))
    people = world.plan.people[-_COLUMNS:]
    photos = [Cell(draw_identity_photo(person, 0).picture, person.name) for person in people]
    return draw_sheet([cells for cells in [*rows.values(), photos] if cells], _SIDE)


def _examples(plan: ReleasePlan) -> Iterator[tuple[str, PlannedScene]]:
    """Scenes under the name of their stratum, or as look-alikes; unseen people first."""
    for planned in reversed(plan.scenes):
        stratum = sample_scene(planned.scene_seed).stratum
        yield _LOOK_ALIKES if planned.look_alike and stratum == "plain" else stratum, planned


def _swaps(name: str, planned: PlannedScene, photos: int) -> list[Cell]:
    scene = sample_scene(planned.scene_seed)
    people = planned.faces[:_SWAPS]
    cells = [Cell(_clear_photo(people[0], photos).picture, f"photo: {people[0].name}")]
    cells.append(Cell(draw_scene(scene, planned.body).picture, f"{name}: before"))
    return cells + [Cell(draw_scene(scene, planned.body, person).picture, person.name) for person in people]


def _clear_photo(person: Person, photos: int) -> DrawnFace:
    """Return the photo of `person` whose eyes are farthest apart: near and frontal."""
    drawn = [draw_identity_photo(person, index) for index in range(photos)]
    return max(drawn, key=lambda photo: float(np.hypot(*(photo.landmarks[1] - photo.landmarks[0]))))


def _annotated(planned: PlannedScene) -> np.ndarray:
    """Return the picture of a scene with the outlines and boxes of its annotations."""
    picture = draw_scene(sample_scene(planned.scene_seed), planned.body).picture.copy()
    for annotation in scene_annotations(planned):
        colour = _LINE[annotation["category_id"] == 1]
        outlines = [np.array(points, np.int32).reshape(-1, 1, 2) for points in annotation["segmentation"]]
        cv2.polylines(picture, outlines, True, colour, 1)
        x, y, width, height = annotation["bbox"]
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), colour, 1)
    return picture
