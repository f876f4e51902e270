"""Face crops of a table's rows, cut from their pictures again: tables keep where faces are, and no pixels.

Role: rows + picture -> aligned crops by what names a face.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from open_clip_idplugin.faces.alignment import align_face
from open_clip_idplugin.faces.face_table import FaceRow
from open_clip_idplugin.pictures import ImageRejected, PictureSource, load_picture
from open_clip_idplugin.pictures.names import place_of

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
