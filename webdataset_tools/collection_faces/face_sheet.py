"""Contact sheet of faces: a written table and its collection -> one picture of aligned faces, on request.

Role: faces taken evenly from the table. The pictures are read
again; of shards only a few, since a tar is read from its beginning.
"""

import io

import numpy as np
from PIL import Image

from open_clip_idplugin.faces.face_table import FaceRow, FaceTable, load_face_table
from open_clip_idplugin.faces.row_crops import CROP_SIZE, face_of, read_crops
from open_clip_idplugin.pictures.collection import find_collection
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from webdataset_tools.collection_faces.build import FacesOptions
from webdataset_tools.contact_sheet import Cell, draw_sheet, in_rows

SHEET_FILE = "sheet.jpg"
_COLUMNS, _LINES = 12, 8
_SHARDS = 4
_QUALITY = 90


def write_sheet(options: FacesOptions) -> bool:
    """Write the sheet of up to 96 faces of the table that `options` made; return False when it has none."""
    rows = _choose(load_face_table(options.folder))
    if not rows:
        return False
    crops = read_crops(rows, find_collection(options.input, options.pictures_per_part))
    cells = [Cell(crops.get(face_of(row))) for row in rows]
    sheet = draw_sheet(in_rows(cells, _COLUMNS), CROP_SIZE)
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
