"""Folder of drawn pictures: settings -> a claimed folder, its marked JPEGs, and the items of one task.

Role: what the swapped and the unswapped miniature share on disk. Pictures appear whole
or not at all, so that a killed run goes on where it stopped.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from open_clip_idplugin.storage.output_folder import OutputKind, claimed_folder, remove_leftovers
from webdataset_tools.marking import ALGORITHMIC, mark_jpeg

MINIATURE = OutputKind("a miniature made with other settings", note="miniature.json")
_NOTE = "This picture was drawn by a program; nobody in it exists."
_QUALITY = 85
_TASK_SIZE = 8  # scenes or people a task


@contextmanager
def claimed_world(output: Path, settings: dict[str, Any]) -> Iterator[None]:
    """`claimed_folder` for a folder of drawn pictures, all of whose folders are this run's."""
    with claimed_folder(output, settings, MINIATURE):
        remove_leftovers(*(path for path in output.rglob("*") if path.is_dir()))
        yield


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
