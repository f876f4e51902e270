"""Crops of a face table's rows: rows + the pictures or collection that they come from -> aligned crops.

Tables keep where faces are, and no pixels. Of shards only the wanted ones are read, each from its beginning.
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from open_clip_idplugin.faces.alignment import align_face
from open_clip_idplugin.faces.face_table import FaceRow
from open_clip_idplugin.pictures import ImageRejected, PictureSource, load_picture
from open_clip_idplugin.pictures.collection import Collection, PictureFile, PictureTask, ShardTask, Task, read_pictures
from open_clip_idplugin.pictures.keys import place_of

CROP_SIZE = 112
FaceName = tuple[str | None, str, int]
Crops = dict[FaceName, np.ndarray]


def face_of(row: FaceRow) -> FaceName:
    """What names a face in its collection: shard, key and number in the picture."""
    return row.shard, row.key, row.face


def aligned_crops(picture: PictureSource, rows: Sequence[FaceRow]) -> Iterator[tuple[FaceName, np.ndarray]]:
    """The aligned crops [112, 112, 3] of faces of one picture; none where it cannot be read."""
    try:
        pixels = load_picture(picture) if rows else None
    except ImageRejected:
        return
    for row in rows:
        crop = align_face(pixels, row.landmarks, CROP_SIZE) if pixels is not None else None
        if crop is not None:
            yield face_of(row), crop


def crops_below(root: Path, rows: Sequence[FaceRow]) -> Crops:
    """The crops of faces of picture files, whose keys are paths below `root`, as far as the files are still there."""
    by_file: dict[str, list[FaceRow]] = {}
    for row in rows:
        if row.shard is None:
            by_file.setdefault(row.key, []).append(row)
    return {
        name: crop
        for key, faces in by_file.items()
        for name, crop in aligned_crops(Path(str(place_of(root, key))), faces)
    }


def read_crops(rows: Sequence[FaceRow], collection: Collection) -> Crops:
    """The aligned crops [112, 112, 3] of the rows' faces by `face_of`, as far as the pictures are still there."""
    wanted: dict[tuple[str | None, str], list[FaceRow]] = {}
    for row in rows:
        wanted.setdefault((row.shard, row.key), []).append(row)
    crops: Crops = {}
    for task in _tasks(collection, set(wanted)):
        for picture in read_pictures(task):
            if not isinstance(picture, PictureFile):
                continue
            faces = wanted.pop((picture.shard, picture.key), [])
            crops.update(aligned_crops(picture.content, faces))
            if not any(shard == picture.shard for shard, _ in wanted):
                break
    return crops


def _tasks(collection: Collection, names: Set[tuple[str | None, str]]) -> list[Task]:
    """What must be read for the pictures of these names."""
    shards = {shard for shard, _ in names}
    tasks: list[Task] = []
    for task in collection.tasks:
        if isinstance(task, ShardTask) and task.shard in shards:
            tasks.append(task)
        elif isinstance(task, PictureTask):
            keys = tuple(key for key in task.keys if (None, key) in names)
            if keys:
                tasks.append(PictureTask(task.name, task.root, keys))
    return tasks
