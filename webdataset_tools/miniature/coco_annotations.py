"""COCO annotations: drawn scenes -> `instances_*.json`, who and what is where, to the pixel.

Role: a planned scene -> its annotations; many -> one file. Boxes and areas are those of the visible pixels; polygons run
through the middles of the pixels at the edge. Held things that COCO does not know are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from webdataset_tools.miniature.release_plan import PlannedScene
from webdataset_tools.miniature.scenes import PERSON, THING, sample_scene, visible_parts

# COCO's categories that occur in scenes: id, name and group.
_CATEGORIES = (
    (1, "person", "person"),
    (17, "cat", "animal"),
    (28, "umbrella", "accessory"),
    (31, "handbag", "accessory"),
    (33, "suitcase", "accessory"),
    (34, "frisbee", "sports"),
    (37, "sports ball", "sports"),
    (38, "kite", "sports"),
    (39, "baseball bat", "sports"),
    (41, "skateboard", "sports"),
    (42, "surfboard", "sports"),
    (43, "tennis racket", "sports"),
    (47, "cup", "kitchen"),
    (59, "pizza", "food"),
    (61, "cake", "food"),
    (73, "laptop", "electronic"),
    (77, "cell phone", "electronic"),
    (84, "book", "indoor"),
    (88, "teddy bear", "indoor"),
)
_CATEGORY_IDS = {name: number for number, name, _ in _CATEGORIES}
_COCO_NAMES = {"soccer ball": "sports ball", "basketball": "sports ball", "phone": "cell phone"}


def scene_annotations(planned: PlannedScene) -> list[dict[str, Any]]:
    """Return the annotations of one scene with its body's own face; the person comes first."""
    scene = sample_scene(planned.scene_seed)
    parts = visible_parts(scene, planned.body)
    found = [_annotation(parts == PERSON, _CATEGORY_IDS["person"])]
    thing = _CATEGORY_IDS.get(_COCO_NAMES.get(str(scene.held), str(scene.held)))
    if thing is not None and (parts == THING).any():
        found.append(_annotation(parts == THING, thing))
    return [{"image_id": planned.image_id, **annotation} for annotation in found]


def coco_instances(
    scenes: Sequence[PlannedScene], annotations: Mapping[int, list[dict[str, Any]]], info: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of an instances file; `annotations` by image id, `info` are the keys that all COCO files share."""
    rows = [annotation for planned in scenes for annotation in annotations[planned.image_id]]
    return {
        **info,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(rows, 1)],
        "categories": [{"supercategory": group, "id": number, "name": name} for number, name, group in _CATEGORIES],
    }


def _annotation(mask: np.ndarray, category: int) -> dict[str, Any]:
    """Return the annotation of the pixels `mask`, bool [H, W]."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [contour.reshape(-1).tolist() for contour in contours if len(contour) > 2]  # fewer points are no area
    return {
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": int(mask.sum()),
        "segmentation": polygons,
        "iscrowd": 0,
    }
