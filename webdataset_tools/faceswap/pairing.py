"""Which photo of a person may be put onto which face: pose, light, colour -> photos in the order in which they are tried.

Role: a pair that no swapper without a model can put together well is not tried: a frontal face on a head that is
turned, a face lit from the left on one lit from the right, grey on colour. The photo with the most similar pose comes first.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from webdataset_tools.faceswap import reasons
from webdataset_tools.faceswap.face_quality import DEGREES
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.geometry import pose_of

_ROLL = 45.0  # degrees: a photo is turned in the picture's plane, but light and hair are not
_SKIN_WEIGHTS = np.array([0.5, 1.0, 1.0])  # of Lab: lightness is half the light's
_NOD = 1.5  # a nod counts less than a turn: people's proportions differ as much


@dataclass(frozen=True)
class PairRules:
    """Bounds of a pair: difference of pose in degrees, of the light's fall in lightness, of the skins' colours in Lab."""

    max_pose: float
    max_light: float
    max_skin: float


def photos_for(
    target: FoundFace, photos: Mapping[str, FoundFace], rules: PairRules | None, refused: "Counter[str] | None" = None
) -> list[str]:
    """Return the photos that may be put onto the target's face, most similar pose first; all where there are no rules.

    `refused` counts why others may not, where none is left: the reason of the photo whose pose fits best.
    """
    by_pose = sorted(photos, key=lambda photo: (_pose_distance(target, photos[photo]), photo))
    if rules is None or not photos:
        return by_pose
    skin = skin_of(photos)
    whys = {photo: why_not(target, photos[photo], skin, rules) for photo in by_pose}
    left = [photo for photo in by_pose if whys[photo] is None]
    if refused is not None and not left:
        refused[str(whys[by_pose[0]])] += 1
    return left


def why_not(target: FoundFace, photo: FoundFace, skin: np.ndarray, rules: PairRules) -> str | None:
    """Return the reason (of `reasons`) why a photo of a person with this skin cannot be put onto a face, None where it can."""
    if _pose_distance(target, photo) * DEGREES > rules.max_pose or _roll_between(target, photo) > _ROLL:
        return reasons.OTHER_POSE
    here, there = target.quality, photo.quality
    if here.monochrome != there.monochrome:
        return reasons.GREY_AND_COLOUR
    if float(np.hypot(*np.subtract(here.fall, there.fall))) > rules.max_light:
        return reasons.OTHER_LIGHT
    if float(np.linalg.norm(np.subtract(here.skin, skin) * _SKIN_WEIGHTS)) > rules.max_skin:
        return reasons.OTHER_SKIN
    return None


def skin_of(photos: Mapping[str, FoundFace]) -> np.ndarray:
    """Return the middle of the skin's colours [3], Lab, over the photos of a person, which differ in light."""
    return np.median([face.quality.skin for face in photos.values()], axis=0)


def _pose_distance(target: FoundFace, photo: FoundFace) -> float:
    turn, nod = np.abs(pose_of(photo.landmarks) - pose_of(target.landmarks))
    return float(max(turn, nod / _NOD))


def _roll_between(target: FoundFace, photo: FoundFace) -> float:
    """Degrees by which a photo is turned in the picture's plane."""
    across = [complex(*(face.landmarks[1] - face.landmarks[0]).tolist()) for face in (target, photo)]
    return float(abs(np.degrees(np.angle(across[0] * across[1].conjugate()))))
