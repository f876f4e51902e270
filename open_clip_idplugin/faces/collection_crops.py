"""Crops of a face table's rows, read from the collection that the table was made of: rows + collection -> aligned crops.

Role: what shows faces again after the pictures were scanned. Of shards only the wanted ones are read, each from its beginning.
"""

from collections.abc import Sequence, Set

from open_clip_idplugin.faces.face_table import FaceRow
from open_clip_idplugin.faces.row_crops import Crops, aligned_crops
from open_clip_idplugin.pictures.collection import Collection, PictureTask, ShardTask, Task
from open_clip_idplugin.pictures.collection_reading import PictureFile, read_pictures


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
