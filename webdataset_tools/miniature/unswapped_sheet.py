"""A contact sheet of an unswapped world: scenes of every stratum with their annotations, and identity photos."""

import cv2
import numpy as np

from webdataset_tools.miniature.coco_annotations import scene_annotations
from webdataset_tools.miniature.contact_sheet import draw_cell
from webdataset_tools.miniature.identity_photos import draw_identity_photo
from webdataset_tools.miniature.release_plan import PlannedScene
from webdataset_tools.miniature.scenes import STRATA, draw_scene, sample_scene
from webdataset_tools.miniature.unswapped_plan import UnswappedPlan

_COLUMNS = 7
_LINE = {True: (230, 40, 40), False: (40, 90, 230)}  # of the person, of other things


def draw_unswapped_sheet(world: UnswappedPlan) -> np.ndarray:
    """Return an RGB picture uint8 [H, W, 3]: a row a stratum, one of look-alikes and one of identity photos."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*STRATA, "look-alikes")}
    for planned in reversed(world.plan.scenes):  # unseen people first
        stratum = sample_scene(planned.scene_seed).stratum
        name = "look-alikes" if planned.look_alike and stratum == "plain" else stratum
        if len(rows[name]) < _COLUMNS:
            rows[name].append(draw_cell(f"{name}: {planned.split}", _annotated(planned)))
    photos = [
        draw_cell(person.name, draw_identity_photo(person, 0).picture) for person in world.plan.people[-_COLUMNS:]
    ]
    filled = [_row(cells) for cells in [*rows.values(), photos] if cells]
    return np.concatenate(filled) if filled else np.full((8, 8, 3), 255, np.uint8)


def _row(cells: list[np.ndarray]) -> np.ndarray:
    blank = np.full_like(cells[0], 255)
    return np.concatenate([*cells, *[blank] * (_COLUMNS - len(cells))], axis=1)


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
