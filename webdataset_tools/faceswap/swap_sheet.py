"""Contact sheet of swaps: a sample of kept swaps -> one marked JPEG, with original, identity's photo and swap side by side.

Cut-outs are centred on the faces. It shows whose photo each swap was made of: only its owner can read it.
"""

import io
import random
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools import marking
from webdataset_tools.contact_sheet import CONTACT_SHEET, Cell, draw_sheet, in_rows
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_scan import open_picture
from webdataset_tools.faceswap.swapping import Decision, SplitResult, SwappedImage
from webdataset_tools.release import COCO_FOLDER, SPLITS, swapped_file_name

_EXAMPLES, _COLUMNS = 24, 3
_SIDE = 150
_AROUND = 0.9  # faces of context on each side of a face, in its heights
_QUALITY = 90


def write_contact_sheet(
    output: Location,
    splits: Sequence[SplitResult],
    coco_folders: Mapping[str, Location],
    photo_folder: Location,
    seed: int,
) -> None:
    """Write the sheet of up to 24 swaps, drawn at random from all splits; the folders of COCO's images are by split."""
    kept = [(split, *pair) for split in splits for pair in split.kept()]
    chosen = random.Random(f"contact sheet {seed}").sample(range(len(kept)), min(_EXAMPLES, len(kept)))
    if not chosen:
        return
    cells = [_cells(output, coco_folders, photo_folder, *kept[place]) for place in sorted(chosen)]
    sheet = draw_sheet(in_rows([cell for three in cells for cell in three], 3 * min(_COLUMNS, len(cells))), _SIDE)
    source_type = next(split.digital_source_type for split, _, _ in kept)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    atomic_write(output / CONTACT_SHEET, marking.mark_jpeg(stream.getvalue(), source_type), PRIVATE)


def _cells(
    output: Location,
    coco_folders: Mapping[str, Location],
    photo_folder: Location,
    split: SplitResult,
    swapped: SwappedImage,
    decision: Decision,
) -> tuple[Cell, Cell, Cell]:
    """The original, the identity's photo and the swapped picture."""
    name = swapped_file_name(swapped.image.image_id, decision.identity_id)
    photo = split.photos[decision.identity_id][str(decision.photo)]
    return (
        _cell(coco_folders[split.split] / swapped.image.file_name, swapped.face, f"{split.split} original"),
        _cell(place_of(photo_folder / decision.identity_id, str(decision.photo)), photo, decision.identity_id),
        _cell(
            output / COCO_FOLDER / SPLITS[split.split].images / name,
            swapped.face,
            f"{decision.similarity_identity:.2f} / {decision.similarity_original:.2f}",
        ),
    )


def _cell(path: Location, face: FoundFace, label: str) -> Cell:
    """The surroundings of a face; no picture where the file is gone."""
    picture = open_picture(path, label)
    if isinstance(picture, Skip):
        return Cell(None, label)
    half = (0.5 + _AROUND) * float(face.box[3] - face.box[1])
    x, y = (float(value) for value in (face.box[:2] + face.box[2:]) / 2)
    height, width = picture.shape[:2]
    corners = (max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height))
    return Cell(np.asarray(Image.fromarray(picture).crop(corners)), label)
