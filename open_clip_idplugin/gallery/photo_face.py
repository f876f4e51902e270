"""What a gallery keeps of one photo."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PhotoFace:
    """The person's face in one photo.

    Attributes:
        label: file name, for listing.
        embedding: [D] float32 of length 1.
        quality: weight in the mean, above 0.
        crop: JPEG of the aligned face; None where pictures are not kept.
    """

    label: str
    embedding: np.ndarray
    quality: float = 1.0
    crop: bytes | None = None
