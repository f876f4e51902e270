"""`contact_sheet.jpg`: a picture to look at, with the original, the identity's photo and the swapped picture side by side.

Role: a sample of kept swaps -> one marked JPEG. Cut-outs are centred on the faces; labels are ids, since Pillow's built-in
font knows few scripts. It shows whose photo each swap was made of: only its owner can read it.
"""

import io
import random
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.locations import Location
from webdataset_tools import marking
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_scan import open_picture
from webdataset_tools.faceswap.split_result import SplitResult, SwappedImage
from webdataset_tools.faceswap.swapping import Decision
from webdataset_tools.release import COCO_FOLDER, SPLITS, swapped_file_name
from webdataset_tools.report import Skip

CONTACT_SHEET = "contact_sheet.jpg"
_EXAMPLES, _COLUMNS = 24, 3
_CELL, _LABEL, _GAP = 150, 16, 6
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
    rows = [_example(output, coco_folders, photo_folder, *kept[place]) for place in sorted(chosen)]
    if not rows:
        return
    blank = np.full_like(rows[0], 255)
    rows += [blank] * (-len(rows) % min(_COLUMNS, len(rows)))
    columns = min(_COLUMNS, len(rows))
    lines = [np.concatenate(rows[start : start + columns], axis=1) for start in range(0, len(rows), columns)]
    source_type = next(split.digital_source_type for split, _, _ in kept)
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    atomic_write(output / CONTACT_SHEET, marking.mark_jpeg(stream.getvalue(), source_type), PRIVATE)


def _example(
    output: Location,
    coco_folders: Mapping[str, Location],
    photo_folder: Location,
    split: SplitResult,
    swapped: SwappedImage,
    decision: Decision,
) -> np.ndarray:
    name = swapped_file_name(swapped.image.image_id, decision.identity_id)
    photo = split.photos[decision.identity_id][str(decision.photo)]
    cells = [
        _cell(coco_folders[split.split] / swapped.image.file_name, swapped.face, f"{split.split} original"),
        _cell(place_of(photo_folder / decision.identity_id, str(decision.photo)), photo, decision.identity_id),
        _cell(
            output / COCO_FOLDER / SPLITS[split.split].images / name,
            swapped.face,
            f"{decision.similarity_identity:.2f} / {decision.similarity_original:.2f}",
        ),
    ]
    return np.concatenate([*cells, np.full((_CELL + _LABEL + _GAP, _GAP, 3), 255, np.uint8)], axis=1)


def _cell(path: Location, face: FoundFace, label: str) -> np.ndarray:
    """Return the surroundings of a face, [cell, cell, 3], with a label above; white where the file is gone."""
    canvas = Image.new("RGB", (_CELL + 2, _CELL + _LABEL + _GAP), "white")
    picture = open_picture(path, label)
    if not isinstance(picture, Skip):
        half = (0.5 + _AROUND) * float(face.box[3] - face.box[1])
        x, y = (float(value) for value in (face.box[:2] + face.box[2:]) / 2)
        height, width = picture.shape[:2]
        corners = (max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height))
        cut = Image.fromarray(picture).crop(corners)
        cut.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
        if max(cut.size) < _CELL:
            cut = cut.resize([round(side * _CELL / max(cut.size)) for side in cut.size], Image.Resampling.BICUBIC)
        canvas.paste(cut, (0, _LABEL))
    ImageDraw.Draw(canvas).text((2, 2), label, fill=(40, 40, 40))
    return np.asarray(canvas)
