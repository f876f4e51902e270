"""The interface of a swapper: two faces in their pictures -> the one picture with the other's face."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class FaceInPicture:
    """A face and the picture that shows it.

    picture    [H, W, 3] uint8 RGB
    landmarks  [5, 2] float32 pixels: left eye, right eye, nose, left and right mouth corner as seen in the picture
    box        [4] float32 pixels: x0, y0, x1, y1 of the face
    embedding  [D] float32 of length 1, by the face engine of the run
    skin       [3] float32, the person's skin in Lab: the middle over their photos, which differ in light; None of a target
    """

    picture: np.ndarray
    landmarks: np.ndarray
    box: np.ndarray
    embedding: np.ndarray
    skin: np.ndarray | None = None


KEEP_SKIN = 0.25  # of --keep-skin: on real photographs more begins to show where the face ends


@dataclass(frozen=True)
class SwapperSettings:
    """What a factory may need; it goes to every worker process."""

    model: Path | None = None  # the file of --swapper-model
    threads: int = 1
    keep_skin: float = (
        KEEP_SKIN  # share of the identity's own skin colour that stays, 0 to 1, where a swapper can choose
    )
    whole_face: bool = (
        False  # swap hair and background within the face's edge too: of drawn faces, that have sharp edges
    )


class Swapper(Protocol):
    """Puts a face into a picture.

    `digital_source_type` is the IPTC code (see `marking`) that tells what the pictures it makes are.
    """

    digital_source_type: str

    def swap(self, target: FaceInPicture, source: FaceInPicture) -> np.ndarray:
        """Return the target's picture, [H, W, 3] uint8 RGB, with the source's face; nothing but the face may change.

        The inputs stay as they are, and the same inputs give the same pixels. Raises ValueError (best: SwapFailed of
        `geometry`) when this pair cannot be swapped.
        """
        ...
