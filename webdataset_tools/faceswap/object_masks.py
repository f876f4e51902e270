"""Occlusion by COCO's annotations: the place of a face and the outlines of an image -> what stands before the face.

Role: annotations know what colours cannot tell: a phone, a racket or a cup over the face, a hand at it, a face that is
printed on what the person wears.
"""

import cv2
import numpy as np

from webdataset_tools.faceswap import face_skin, reasons
from webdataset_tools.faceswap.coco import CocoImage, Outline
from webdataset_tools.faceswap.geometry import transform

_LEAST_PERSON = 0.7  # share of the inner face inside the person's outline; annotators cut corners
_MOST_OBJECT = 0.05  # share of it inside the outline of a thing
_REACH = 0.35  # a wrist so near to the face's box, in heights of it, has its hand at the face


def in_front_of(landmarks: np.ndarray, box: np.ndarray, image: CocoImage) -> tuple[str, str] | None:
    """Return the reason (of `reasons`) and detail why the annotations forbid a swap of this face, None where they do not.

    Raises SwapFailed for landmarks that lie on one point.
    """
    matrix = face_skin.frame_of(landmarks)
    if image.person and _share(image.person, matrix) < _LEAST_PERSON:
        return reasons.NOT_THE_PERSON, ""
    for name, outline in image.objects:
        if (share := _share(outline, matrix)) > _MOST_OBJECT:
            return reasons.COVERED_BY_OBJECT, f"{name}, {share:.0%}"
    reach = _REACH * float(box[3] - box[1])
    for x, y in image.wrists:
        if box[0] - reach < x < box[2] + reach and box[1] - reach < y < box[3] + reach:
            return reasons.HAND_AT_FACE, ""
    return None


def _share(outline: Outline, matrix: np.ndarray) -> float:
    """Return the share of the inner face that lies inside polygons of the picture; `matrix` leads to the face's frame."""
    filled = np.zeros(face_skin.INNER.shape, np.uint8)
    for polygon in outline:
        points = transform(matrix, np.array(polygon[: len(polygon) // 2 * 2]).reshape(-1, 2))
        part = np.zeros_like(filled)
        cv2.fillPoly(part, [np.rint(np.clip(points, -30_000, 30_000)).astype(np.int32)], 1)
        filled |= part
    return float(np.count_nonzero(face_skin.INNER & (filled > 0)) / np.count_nonzero(face_skin.INNER))
