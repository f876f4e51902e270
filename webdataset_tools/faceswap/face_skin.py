"""Skin segmentation of one face: picture and landmarks -> what of the face is its own skin and what covers it.

Role: the one place that knows hair, background, frames of glasses and things in front of a face from the face. A
robust colour model (a plane for lightness and chroma over the face, since light falls from one side) is fitted to cheeks and the
bridge of the nose, grown over the face, and compared with every pixel; eyes, nose and mouth have colours of their own and are
left out. Faces are judged in one frame, so that nothing depends on their size.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from open_clip_idplugin.faces.alignment import ARCFACE_LANDMARKS
from webdataset_tools.faceswap.geometry import fit_similarity, outline_of, pixels_inside, scale_of, to_lab, transform

SIDE = 160  # pixels of the frame: ArcFace's 112 with a border
_FRAME = ARCFACE_LANDMARKS + (SIDE - 112) / 2
_TOLERANCE = np.array([26.0, 11.0, 13.0])  # Lab units by which skin differs from its plane
_LARGEST_FALL = np.array([25.0, 8.0, 8.0])  # of the plane from the face's middle: more is not light
_BROWS = 13.0  # pixels of the frame above the eyes
_BARE_FOREHEAD = 7.5  # standard deviation of lightness: 3 to 6 of bare foreheads, 8 to 18 under hair
_ROUNDS = 6
_LEAST_SKIN = 50  # pixels of the frame that a plane needs
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


@dataclass(frozen=True, eq=False)
class SkinMap:
    """A face in its frame; masks are bool [SIDE, SIDE].

    pixels   RGB uint8 [SIDE, SIDE, 3]
    matrix   [2, 3] from the picture to the frame
    face     between forehead and chin, see `face_region.outline_of`
    zone     of it, what is skin on a bare face: without eyes, brows, nose and mouth
    features eyes (below a fringe), nose and mouth, float32
    foreign  of the zone, what is not of the skin's colour
    fringe   where hair hangs over the forehead, all above the brows: single hairs look like skin
    stray    distance of each pixel's colour (without its lightness) from the plane, float [SIDE, SIDE]
    skin     Lab [3], the middle of what is
    fall     how much lighter the face is on its right and on its lower edge than in the middle, [2] in lightness
    """

    pixels: np.ndarray
    matrix: np.ndarray
    face: np.ndarray
    zone: np.ndarray
    features: np.ndarray
    foreign: np.ndarray
    fringe: np.ndarray
    stray: np.ndarray
    skin: np.ndarray
    fall: np.ndarray

    @property
    def patchiness(self) -> float:
        """How far the skin's colour strays from an even one, in Lab: 3 to 5 in soft light, more where the sun burns patches."""
        bare = self.zone & ~self.foreign & INNER
        return float(self.stray[bare].mean()) if bare.any() else 0.0

    @property
    def covered(self) -> float:
        """Share of the inner face that is not skin where it should be: hair, frames, hands in other light, things."""
        inner = self.zone & INNER
        count = np.count_nonzero(inner)
        return float(np.count_nonzero(self.foreign & inner) / count) if count else 1.0


def map_skin(picture: np.ndarray, landmarks: np.ndarray, box: np.ndarray) -> SkinMap:
    """Map the face at `landmarks` [5, 2] and `box` [4] of a picture RGB uint8 [H, W, 3].

    Raises SwapFailed for landmarks that lie on one point.
    """
    matrix = frame_of(landmarks)
    pixels = cv2.warpAffine(_softened(picture, matrix), matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    points = transform(matrix, landmarks)
    face = pixels_inside(transform(matrix, outline_of(landmarks, box)), (SIDE, SIDE))
    shown = face & _features(points)
    zone = face & ~shown
    features = (shown & (points[:2, 1].min() - _BROWS / 2 < _Y)).astype(np.float32)
    lab = to_lab(cv2.GaussianBlur(pixels, (0, 0), 1.0))
    seed = _cheeks(points) & zone
    if np.count_nonzero(seed) < _LEAST_SKIN:
        return SkinMap(
            pixels, matrix, face, zone, features, zone, zone, lab[:, :, 1], np.zeros(3, np.float32), np.zeros(2)
        )
    middle = np.median(lab[seed], axis=0)
    plane, slope = np.broadcast_to(middle, lab.shape), np.zeros((2, 3))
    skin = seed
    for _ in range(_ROUNDS):
        plane, slope = _fit_plane(lab, skin, middle)
        grown = (_distance(lab, plane) < 1) & zone
        if np.count_nonzero(grown) < _LEAST_SKIN:
            break
        skin = grown
    other = cv2.medianBlur((_distance(lab, plane) >= 1).astype(np.uint8), 5) > 0
    fringe = _fringe(lab[:, :, 0] - plane[:, :, 0], points) & face
    stray, colour = np.hypot(*(lab - plane).transpose(2, 0, 1)[1:]), np.median(lab[skin], axis=0)
    return SkinMap(pixels, matrix, face, zone, features, other & zone, fringe, stray, colour, slope[:, 0] * SIDE / 4)


def frame_of(landmarks: np.ndarray) -> np.ndarray:
    """Return the transform [2, 3] from a picture to the frame of its face; raises SwapFailed for landmarks on one point."""
    return fit_similarity(landmarks, _FRAME)


def own_face(skin_map: SkinMap, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return what of a face is the person's own, bool [H, W] of a canvas: without hair and background at its edge.

    `matrix` [2, 3] leads from the face's picture to the canvas. Dark spots inside a face (a mole, a wrinkle, a
    moustache) stay part of it; what reaches its edge does not.
    """
    outside = ~(skin_map.face & _JAW)
    # Opened, since the tail of a brow touches the hair of the temple and is no hair.
    other = cv2.morphologyEx((skin_map.foreign | outside).astype(np.uint8), cv2.MORPH_OPEN, _BROW_TAIL) > 0
    other |= skin_map.fringe | outside
    count, labels = cv2.connectedComponents(other.astype(np.uint8))
    edge = np.zeros(count, bool)
    edge[np.unique(labels[outside])] = True
    own = (~(edge[labels] & other)).astype(np.float32)
    return from_frame(skin_map, cv2.GaussianBlur(own, (0, 0), 3.0), matrix, shape)  # no ragged seams


def from_frame(skin_map: SkinMap, mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask of the frame, float32 [SIDE, SIDE], on a canvas, bool [H, W]; `matrix` as in `own_face`."""
    back = np.vstack([skin_map.matrix, (0, 0, 1)])
    to_canvas = (np.vstack([matrix, (0, 0, 1)]) @ np.linalg.inv(back))[:2]
    return cv2.warpAffine(mask, to_canvas, (shape[1], shape[0]), flags=cv2.INTER_LINEAR) > 0.5


def _fringe(lightness: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return all above the brows where the forehead's lightness, less its plane, varies as hair does; else nothing."""
    eyes = points[:2].mean(0)
    height = eyes[1] - _Y
    forehead = (height > _BROWS + 1) & (height < _BROWS + 13) & (np.abs(_X - eyes[0]) < 22)
    return (height > _BROWS) & bool(lightness[forehead].std() > _BARE_FOREHEAD)


def _softened(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Blur a large face before it is made small, else the warp would skip pixels."""
    scale = scale_of(matrix)
    return picture if scale > 0.5 else cv2.GaussianBlur(picture, (0, 0), 0.5 / scale)


def _features(points: np.ndarray) -> np.ndarray:
    """Eyes with brows, the tip of the nose, the mouth."""
    left, right, nose, *corners = points
    mouth = np.mean(corners, axis=0)
    width = max(float(np.hypot(*(corners[1] - corners[0]))) / 2, 10.0) + 5
    up, down = np.array([0.0, -4.0]), np.array([0.0, 1.0])
    eyes = ellipse(left + up, 13, 11) | ellipse(right + up, 13, 11)
    return eyes | ellipse(nose + down, 9, 7) | ellipse(mouth + down, width, 12)


def _cheeks(points: np.ndarray) -> np.ndarray:
    """Where a face is nearly always bare: both cheeks and the bridge of the nose."""
    left, right, nose, low_left, low_right = points
    cheeks = ellipse(0.45 * left + 0.55 * low_left + (-5, 2), 9, 9)
    cheeks |= ellipse(0.45 * right + 0.55 * low_right + (5, 2), 9, 9)
    return cheeks | ellipse((left + right) / 4 + nose / 2, 5, 8)


def ellipse(middle: np.ndarray, across: float, down: float) -> np.ndarray:
    """Return the inside of an ellipse of the frame, bool [SIDE, SIDE]; middle [2] and radii in pixels."""
    return ((_X - middle[0]) / across) ** 2 + ((_Y - middle[1]) / down) ** 2 <= 1


def _fit_plane(lab: np.ndarray, skin: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the plane [SIDE, SIDE, 3] and its slope [2, 3] a pixel, kept near the middle of the cheeks."""
    places = np.column_stack([_X[skin], _Y[skin], np.ones(np.count_nonzero(skin), np.float32)])
    slope = np.linalg.lstsq(places, lab[skin], rcond=None)[0][:2]
    plane = lab[skin].mean(0) + (np.stack([_X, _Y], axis=-1) - places[:, :2].mean(0)) @ slope
    return np.clip(plane, middle - _LARGEST_FALL, middle + _LARGEST_FALL), slope


def _distance(lab: np.ndarray, plane: np.ndarray) -> np.ndarray:
    return np.sqrt((((lab - plane) / _TOLERANCE) ** 2).sum(2))


INNER = ellipse(np.array([80.0, 88.0]), 33, 40)  # the inner face: no hair, no background on nearly every face
# Cheeks and chin of a narrow face: beyond may lie a neck, an arm or another face, of the same colour.
_JAW = (_Y < 92) | ellipse(np.array([80.0, 92.0]), 44, 48)
_BROW_TAIL = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
