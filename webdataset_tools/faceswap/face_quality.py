"""Face image quality: picture, landmarks and box of a face -> the measures by which it is refused or paired.

Role: what a detector does not tell about a face that it found (compare ISO/IEC 29794-5: pose, sharpness, illumination,
occlusion). `unusable` judges one face alone; `pairing` judges a face and a photo together. The bounds were found on 43 faces of
real photographs and 140 drawn ones; see docs/swap.md.
"""

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from webdataset_tools.faceswap import face_skin, reasons
from webdataset_tools.faceswap.coco import CocoImage, Outline
from webdataset_tools.faceswap.geometry import pose_of, to_lab, transform

DEGREES = 100.0  # of yaw for one unit of `pose_of`, about
_NOD = (0.35, 0.8)  # units of `pose_of` between which the face of a person who looks ahead lies
_LEAST_FEATURE = (0.7, 0.95)  # contrast of eyes and of the mouth to the skin around, in units of `_FEATURE_SCALE`
_GREY_CONTRAST = 0.5  # of these contrasts is left without colours: lips are red rather than dark
_FRINGE_TURN = 15.0  # degrees beyond which a fringe hides the far eye, and detectors guess where it is
_FEATURE_SCALE = np.array([13.0, 6.0, 6.0])  # Lab
_NEUTRAL = 5.0  # chroma of skin below which a face has no colour; real skin has 10 and more
_TONED = 3.0  # Lab units by which colours of one lightness differ in a toned picture; 5 and more in one with people in colour
_LIGHTNESSES, _THUMBNAIL = 64, 64
_LEAST_PERSON = 0.7  # share of the inner face inside the person's outline; annotators cut corners
_MOST_OBJECT = 0.05  # share of it inside the outline of a thing
_REACH = 0.35  # a wrist so near to the face's box, in heights of it, has its hand at the face


@dataclass(frozen=True)
class FaceQuality:
    """Measures of one face.

    skin       middle colour of its skin, Lab
    monochrome whether it has no colour of its own: a grey or a toned picture, or a grey face in a picture with colours
    covered    share of the inner face that is not skin where skin should be, see `face_skin.SkinMap.covered`
    features   least contrast of the eyes, and contrast of the mouth, to the skin: hidden behind a hand they have none
    sharpness  of its details, as a share of its contrast: 0.2 to 0.4 of sharp faces, below 0.12 of blurred ones
    fall       how much lighter the face is on its right and its lower edge than in the middle, in lightness
    patchiness how far the skin's colour strays from an even one, in Lab
    fringe     whether hair hangs over the forehead
    """

    skin: tuple[float, float, float]
    monochrome: bool
    covered: float
    features: tuple[float, float]
    sharpness: float
    fall: tuple[float, float]
    patchiness: float
    fringe: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FaceQuality":
        """Read what `to_json` gave."""
        read: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return cls(**read)


@dataclass(frozen=True)
class QualityRules:
    """Bounds of one face: its turn in degrees (yaw), share covered, sharpness, patchiness of a photo's."""

    max_turn: float
    max_covered: float
    min_sharpness: float
    max_patchiness: float


def measure(picture: np.ndarray, landmarks: np.ndarray, box: np.ndarray) -> FaceQuality:
    """Measure the face at `landmarks` [5, 2] and `box` [4] of a picture RGB uint8 [H, W, 3]; raises SwapFailed."""
    face = face_skin.map_skin(picture, landmarks, box)
    lab = to_lab(cv2.GaussianBlur(face.pixels, (0, 0), 1.0))
    return FaceQuality(
        skin=_numbers(face.skin),
        monochrome=bool(np.hypot(*face.skin[1:]) < _NEUTRAL or is_monochrome(picture)),
        covered=round(face.covered, 4),
        features=_numbers(_feature_contrasts(lab, face, transform(face.matrix, landmarks))),
        sharpness=round(_sharpness(face), 4),
        fall=_numbers(face.fall),
        patchiness=round(face.patchiness, 4),
        fringe=bool(face.fringe.any()),
    )


def unusable(
    face_landmarks: np.ndarray, quality: FaceQuality, rules: QualityRules, lent: bool
) -> tuple[str, str] | None:
    """Return the reason (of `reasons`) and detail why a face cannot be swapped, None where it can.

    Patches of light go along with a face that is `lent`; they do no harm where another one is put.
    """
    turn, nod = pose_of(face_landmarks)
    if abs(turn) * DEGREES > rules.max_turn:
        return reasons.TURNED_AWAY, f"about {abs(turn) * DEGREES:.0f} degrees, {rules.max_turn:g} allowed"
    if not _NOD[0] <= nod <= _NOD[1]:
        return reasons.TURNED_AWAY, "it looks up or down"
    if quality.covered > rules.max_covered:
        return reasons.COVERED, f"{quality.covered:.0%} of it, {rules.max_covered:.0%} allowed"
    least = np.array(_LEAST_FEATURE) * (_GREY_CONTRAST if quality.monochrome else 1.0)
    if (np.array(quality.features) < least).any():
        return reasons.COVERED, "an eye or the mouth cannot be seen"
    if quality.fringe and not lent and abs(turn) * DEGREES > _FRINGE_TURN:
        return reasons.COVERED, "hair over the brows of a turned head"
    if quality.sharpness < rules.min_sharpness:
        return reasons.BLURRED, f"{quality.sharpness:.2f}, {rules.min_sharpness:g} wanted"
    if lent and quality.patchiness > rules.max_patchiness:
        return reasons.PATCHY, f"{quality.patchiness:.1f} in Lab, {rules.max_patchiness:g} allowed"
    return None


def is_monochrome(picture: np.ndarray) -> bool:
    """Whether a picture RGB uint8 [H, W, 3] is grey or toned (sepia): pixels of equal lightness have one colour."""
    scale = max(picture.shape[:2]) / _THUMBNAIL
    size = tuple(max(1, round(side / scale)) for side in picture.shape[1::-1])
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale > 1 else picture
    lab = to_lab(small).reshape(-1, 3)
    colours = lab[np.argsort(lab[:, 0], kind="stable"), 1:]
    groups = [group for group in np.array_split(colours, _LIGHTNESSES) if len(group)]
    return float(np.sqrt(np.percentile([group.var(0).sum() for group in groups], 90))) < _TONED


def _feature_contrasts(lab: np.ndarray, face: face_skin.SkinMap, points: np.ndarray) -> tuple[float, float]:
    bare = face.zone & ~face.foreign
    if not bare.any():
        return 0.0, 0.0
    distance = np.sqrt((((lab - lab[bare].mean(0)) / _FEATURE_SCALE) ** 2).sum(2))
    width = max(float(np.hypot(*(points[4] - points[3]))) / 2, 10.0) + 2
    places = [(points[0], 8, 6), (points[1], 8, 6), ((points[3] + points[4]) / 2 + (0, 1), width, 9)]
    masks = [face_skin.ellipse(*place) & face.face for place in places]
    left, right, mouth = (float(np.percentile(distance[mask], 70)) if mask.any() else 0.0 for mask in masks)
    return min(left, right), mouth


def _sharpness(face: face_skin.SkinMap) -> float:
    if not face.face.any():
        return 0.0
    grey = cv2.cvtColor(face.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2.0))[face.face]
    low, high = np.percentile(grey[face.face], (5, 95))
    return float(np.percentile(detail, 97) / max(high - low, 10.0))


def _numbers(values: Any) -> Any:
    return tuple(round(float(value), 4) for value in values)


def covered_by_annotated(landmarks: np.ndarray, box: np.ndarray, image: CocoImage) -> tuple[str, str] | None:
    """Occlusion by COCO's annotations, which know what colours cannot tell: a phone, a racket or a cup over the face, a hand
    at it, a face that is printed on what the person wears.

    Return the reason (of `reasons`) and detail why the annotations forbid a swap of this face, None where they do not.

    Raises SwapFailed for landmarks that lie on one point.
    """
    matrix = face_skin.frame_of(landmarks)
    if image.person and _share_inside(image.person, matrix) < _LEAST_PERSON:
        return reasons.NOT_THE_PERSON, ""
    for name, outline in image.objects:
        if (share := _share_inside(outline, matrix)) > _MOST_OBJECT:
            return reasons.COVERED_BY_OBJECT, f"{name}, {share:.0%}"
    reach = _REACH * float(box[3] - box[1])
    for x, y in image.wrists:
        if box[0] - reach < x < box[2] + reach and box[1] - reach < y < box[3] + reach:
            return reasons.HAND_AT_FACE, ""
    return None


def _share_inside(outline: Outline, matrix: np.ndarray) -> float:
    """Return the share of the inner face that lies inside polygons of the picture; `matrix` leads to the face's frame."""
    filled = np.zeros(face_skin.INNER.shape, np.uint8)
    for polygon in outline:
        points = transform(matrix, np.array(polygon[: len(polygon) // 2 * 2]).reshape(-1, 2))
        part = np.zeros_like(filled)
        cv2.fillPoly(part, [np.rint(np.clip(points, -30_000, 30_000)).astype(np.int32)], 1)
        filled |= part
    return float(np.count_nonzero(face_skin.INNER & (filled > 0)) / np.count_nonzero(face_skin.INNER))
