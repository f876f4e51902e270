"""`sheet.jpg`: a look at the faces of a table, on request.

Role: a written table and its collection -> one picture of aligned faces, taken evenly from the table. The pictures are read
again; of shards only a few, since a tar is read from its beginning.
"""

import io
from collections.abc import Sequence, Set

import numpy as np
from PIL import Image

from open_clip_idplugin.faces.face_table import FaceRow, FaceTable, load_face_table
from open_clip_idplugin.faces.row_crops import CROP_SIZE, Crops, aligned_crops, face_of
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from webdataset_tools.collection_faces.collection import Collection, PictureTask, ShardTask, Task, find_collection
from webdataset_tools.collection_faces.options import FacesOptions
from webdataset_tools.collection_faces.picture_reading import PictureFile, read_pictures

SHEET_FILE = "sheet.jpg"
_COLUMNS, _LINES = 12, 8
_CELL, _GAP = CROP_SIZE, 4
_SHARDS = 4
_QUALITY = 90


def write_sheet(options: FacesOptions) -> bool:
    """Write the sheet of up to 96 faces of the table that `options` made; return False when it has none."""
    rows = _choose(load_face_table(options.folder))
    if not rows:
        return False
    crops = read_crops(rows, find_collection(options.input, options.pictures_per_part))
    columns = min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    sheet = np.full((lines * (_CELL + _GAP) + _GAP, columns * (_CELL + _GAP) + _GAP, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        crop = crops.get(face_of(row))
        if crop is not None:
            y, x = (place * (_CELL + _GAP) + _GAP for place in divmod(number, columns))
            sheet[y : y + _CELL, x : x + _CELL] = crop
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "JPEG", quality=_QUALITY)
    atomic_write(options.folder / SHEET_FILE, stream.getvalue(), PRIVATE)
    return True


def _choose(table: FaceTable) -> list[FaceRow]:
    aligned = table.face_of_embedding
    shards = table.column("shard")[aligned].astype(str)
    names = np.unique(shards)
    some = names[np.unique(np.linspace(0, len(names) - 1, _SHARDS).round().astype(int))] if len(names) else names
    places = aligned[np.isin(shards, some)]
    if not len(places):
        return []
    evenly = np.unique(np.linspace(0, len(places) - 1, _COLUMNS * _LINES).round().astype(int))
    return [table.row(int(place)) for place in places[evenly]]


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
