"""Contact sheet: rows of pictures and labels -> one picture to look at, a grid of squares.

Role: the drawing of every sheet; callers choose the cells. Labels are for ids and short words: Pillow's built-in font knows few
scripts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

CONTACT_SHEET = "contact_sheet.jpg"  # where a folder has one
_LABEL, _GAP = 16, 4
_INK = (40, 40, 40)


class Cell(NamedTuple):
    """RGB uint8 [H, W, 3], None where it is missing, and the words above it."""

    picture: np.ndarray | None
    label: str = ""


def draw_sheet(rows: Sequence[Sequence[Cell]], side: int) -> np.ndarray:
    """Return RGB uint8 [H, W, 3] with each picture fitted into a square of `side` pixels; white where there is none."""
    label = _LABEL if any(cell.label for row in rows for cell in row) else 0
    columns = max((len(row) for row in rows), default=1)
    size = (columns * (side + _GAP) + _GAP, max(len(rows), 1) * (label + side + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        for column, cell in enumerate(row):
            x, y = column * (side + _GAP) + _GAP, line * (label + side + _GAP) + _GAP
            if cell.picture is not None:
                fitted = ImageOps.contain(Image.fromarray(cell.picture), (side, side), Image.Resampling.LANCZOS)
                sheet.paste(fitted, (x, y + label))
            if cell.label:
                pen.text((x, y), cell.label, fill=_INK)
    return np.asarray(sheet)


def in_rows(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
    """One list of cells as rows of `columns` each."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]
