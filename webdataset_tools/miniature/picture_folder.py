"""A folder of drawn pictures: its settings, its marked JPEGs, and the items of one task.

Role: what the swapped and the unswapped miniature share on disk. A folder is claimed by its settings; pictures appear whole
or not at all, so that a killed run goes on where it stopped.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.marking import ALGORITHMIC, mark_jpeg

SETTINGS_FILE = "miniature.json"
CONTACT_SHEET = "contact_sheet.jpg"
_NOTE = "This picture was drawn by a program; nobody in it exists."
_QUALITY = 85
_TASK_SIZE = 8  # scenes or people a task


def claim(output: Path, settings: dict[str, Any]) -> None:
    """Record the settings in a new folder; raises IdClipError for a folder with other contents."""
    path = output / SETTINGS_FILE
    if path.is_file():
        if json.loads(path.read_text()) != settings:
            raise IdClipError(
                f"{output} holds a miniature made with other settings; give another --output or remove it."
            )
        return
    if output.exists() and any(output.iterdir()):
        raise IdClipError(f"{output} is not empty and holds no miniature; give another --output.")
    atomic_write(path, json_text(settings, indent=1))


def remove_leftovers(output: Path) -> None:
    """Remove the temporary files of a run that was killed."""
    for leftover in output.rglob(".*.part"):
        leftover.unlink()


def chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Return slices of `items`, one a task."""
    return [items[start : start + _TASK_SIZE] for start in range(0, len(items), _TASK_SIZE)]


def encode_picture(picture: np.ndarray) -> bytes:
    """Return RGB uint8 [H, W, 3] as a JPEG that says it was drawn by a program."""
    encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return mark_jpeg(encoded, ALGORITHMIC, _NOTE)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a JPEG under a temporary name, then rename it.

    Unlike `atomic_write` it does not wait for the disk: thousands of small pictures would take minutes, and a picture lost in
    a power cut can be drawn again.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(encode_picture(picture))
    temporary.replace(path)
