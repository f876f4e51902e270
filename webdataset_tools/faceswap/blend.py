"""Blending swapper, without weights: the identity's photo -> moved onto the target's face, recoloured and cloned in.

Role: two faces in pictures -> the target's picture with the source's face between forehead and chin. Steps: rotation,
scale and shift by the five landmarks (an affine fit would give everybody the same proportions), transfer of colour and
sharpness, seamless cloning (Perez et al. 2003) by OpenCV. Hair, ears and background stay; everything works on a cut-out
around the face, so that its cost does not depend on the picture's size.
"""

import cv2
import numpy as np

from webdataset_tools import marking
from webdataset_tools.faceswap.face_skin import SkinMap, from_frame, map_skin, own_face
from webdataset_tools.faceswap.geometry import (
    SwapFailed,
    fit_similarity,
    outline_of,
    pixels_inside,
    scale_of,
    to_lab,
    transform,
)
from webdataset_tools.faceswap.swapper import KEEP_SKIN, FaceInPicture

_MARGIN = 16  # pixels around the mask: cloning needs neighbours, OpenCV fails on masks that touch the border
_LEAST_FEATURES = (
    0.85  # share of eyes, nose and mouth that both pictures must show: what is left out stays the other person's
)
_SMALLEST = 12  # pixels a side of a mask below which cloning has nothing to solve
_CONTRAST = (0.75, 1.2)  # limits of the change in contrast by colour transfer: more would bring up noise
_EDGES = 97  # percentile of local differences that tells a picture's sharpness; lower ones tell its noise
# Share of the cloned picture in the middle of a face that keeps no skin: more lets hair and background bleed into it.
_CLONED = 0.25
# Lab units by which a face may differ from the scene: more is light, not skin.
_LARGEST_OWN = np.array([30.0, 20.0, 20.0])
# The face fades in over this part of the mask's side, and the edge is cloned alone and its share falls inwards over this part,
# where no skin of the person is kept and where all is. A softer edge takes more of the person away.
_EDGE, _SEAM = (12.0, 40.0), (5.0, 20.0)


class BlendSwapper:
    """Warp, recolour, clone.

    keep_skin: share of the photo's own skin colour that stays, 0 to 1. The colour of a face is skin and light, and nothing
    in two pictures tells them apart: 0 fits the scene and gives everybody the skin of who was there, 1 keeps the
    person's skin and shows where the face ends if it is another one.
    whole_face: whether all within the face's edge is moved; else hair and background of both pictures are left out, see
    `face_skin`.
    """

    # Two photos put together by calculation, without a generative model; see `marking` for the choice.
    digital_source_type = marking.COMPOSITE_SYNTHETIC

    def __init__(self, keep_skin: float = KEEP_SKIN, whole_face: bool = False) -> None:
        self._keep_skin = keep_skin
        self._whole_face = whole_face

    def swap(self, target: FaceInPicture, source: FaceInPicture) -> np.ndarray:
        """Return the target's picture [H, W, 3] uint8 with the source's face; raises SwapFailed (see `Swapper`)."""
        outline = outline_of(target.landmarks, target.box)
        x0, y0, x1, y1 = _window(outline, target.picture.shape)
        scene = target.picture[y0:y1, x0:x1]
        shift = np.array([x0, y0])
        face, covered = _warp(source, target.landmarks - shift, scene.shape)
        there = map_skin(target.picture, target.landmarks, target.box)
        lent = map_skin(source.picture, source.landmarks, source.box)
        moved = fit_similarity(source.landmarks, target.landmarks - shift)
        mask = pixels_inside(outline - shift, scene.shape) & covered
        if not self._whole_face:
            mask &= _own_faces(there, lent, shift, moved, scene.shape)
        if np.count_nonzero(mask) < _SMALLEST:
            raise SwapFailed("the photo does not cover the face")
        difference = (lent.skin if source.skin is None else source.skin) - there.skin
        face = _match_sharpness(_match_colour(face, scene, mask, difference, self._keep_skin), scene, mask)
        result = target.picture.copy()
        result[y0:y1, x0:x1] = _put_in(face, scene, mask, self._keep_skin)
        return result


def _window(outline: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the cut-out x0, y0, x1, y1 around the outline, inside the picture."""
    height, width = shape[:2]
    low = np.floor(outline.min(0)).astype(int) - _MARGIN
    high = np.ceil(outline.max(0)).astype(int) + _MARGIN + 1
    x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
    if x1 - x0 < _SMALLEST or y1 - y0 < _SMALLEST:
        raise SwapFailed("the face lies outside the picture")
    return int(x0), int(y0), int(x1), int(y1)


def _warp(source: FaceInPicture, landmarks: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the source's picture warped to a canvas of `shape`, and where the canvas shows its face, bool [H, W]."""
    picture, matrix = source.picture, fit_similarity(source.landmarks, landmarks)
    outline = transform(matrix, outline_of(source.landmarks, source.box))
    while scale_of(matrix) < 0.5 and min(picture.shape[:2]) > 2:  # else the warp would skip pixels
        picture = cv2.pyrDown(picture)
        matrix = fit_similarity(source.landmarks * (picture.shape[1] / source.picture.shape[1]), landmarks)
    size = (shape[1], shape[0])
    face = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full(picture.shape[:2], 255, np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
    return face, inside & pixels_inside(outline, shape)


def _own_faces(
    there: SkinMap, lent: SkinMap, shift: np.ndarray, moved: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return where neither hair nor background of either picture lies, bool [H, W] of the cut-out at `shift`.

    `moved` [2, 3] leads from the lent face's picture to the cut-out.
    """
    to_cut = np.array([[1.0, 0.0, -shift[0]], [0.0, 1.0, -shift[1]]])
    both = own_face(there, to_cut, shape) & own_face(lent, moved, shape)
    features = from_frame(there, there.features, to_cut, shape)
    if np.count_nonzero(both & features) < _LEAST_FEATURES * np.count_nonzero(features):
        raise SwapFailed("hair or things hide an eye or the mouth")
    return both


def _match_colour(
    face: np.ndarray, scene: np.ndarray, mask: np.ndarray, difference: np.ndarray, kept: float
) -> np.ndarray:
    """Give the face the middle and spread of the scene's colours under the mask, in Lab (after Reinhard et al. 2001).

    `kept` is the share of the person's own that stays: of the `difference` of their skin to the scene's face, Lab [3]. Medians,
    because a fringe or a beard must not colour the skin.
    """
    lab, wanted = to_lab(face), to_lab(scene)
    middle, spread = np.median(lab[mask], axis=0), lab[mask].std(0)
    factor = np.clip(wanted[mask].std(0) / np.maximum(spread, 1e-3), *_CONTRAST) ** (1 - kept)
    scene_middle = np.median(wanted[mask], axis=0)
    own = np.clip(kept * difference, -_LARGEST_OWN, _LARGEST_OWN)
    moved = (lab - middle) * factor + scene_middle + own
    rgb = cv2.cvtColor(moved.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _match_sharpness(face: np.ndarray, scene: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blur a face that is sharper than what was there and what surrounds it, until its edges are as soft."""
    wanted = max(_detail(scene, mask), _detail(scene, ~mask))
    if _detail(face, mask) <= wanted:
        return face
    low, high = 0.0, 4.0  # sigma in pixels
    for _ in range(7):
        sigma = (low + high) / 2
        low, high = (sigma, high) if _detail(cv2.GaussianBlur(face, (0, 0), sigma), mask) > wanted else (low, sigma)
    return cv2.GaussianBlur(face, (0, 0), high)


def _detail(picture: np.ndarray, mask: np.ndarray) -> float:
    if not mask.any():
        return 0.0
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.percentile(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.5))[mask], _EDGES))


def _put_in(face: np.ndarray, scene: np.ndarray, mask: np.ndarray, kept: float) -> np.ndarray:
    """Return the scene with the face under the mask, its edge faded; nothing changes outside of the mask.

    The more of the person's skin is `kept`, the harder is the edge and the less of the face's middle is a seamless clone.
    """
    y, x = np.nonzero(mask)
    side = int(min(x.max() - x.min(), y.max() - y.min())) + 1
    edge, seam = (float(np.interp(kept, (0, 1), ends)) for ends in (_EDGE, _SEAM))
    alpha = _fade(mask, max(side / edge, 1.0))
    blended = face.astype(np.float32)
    if side >= _SMALLEST:
        own = (1 - (1 - kept) * _CLONED) * _fade(mask, side / seam)[:, :, None]
        blended = own * blended + (1 - own) * _clone(face, scene, mask)
    mixed = scene + alpha[:, :, None] * (blended - scene)
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def _fade(mask: np.ndarray, width: float) -> np.ndarray:
    """Return alpha float32 [H, W]: 0 outside and at the mask's edge, 1 from `width` pixels inside on."""
    # No fade where the mask ends at the picture's border: the face goes on there.
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.clip((distance - 1) / width, 0, 1).astype(np.float32)


def _clone(face: np.ndarray, scene: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Clone seamlessly on a padded canvas, since OpenCV refuses masks that touch the border."""
    pads = (_MARGIN,) * 4
    wide_face, wide_scene = (cv2.copyMakeBorder(p, *pads, cv2.BORDER_REFLECT_101) for p in (face, scene))
    wide_mask = cv2.copyMakeBorder(mask.astype(np.uint8) * 255, *pads, cv2.BORDER_CONSTANT, value=0)
    x, y, width, height = cv2.boundingRect(wide_mask)
    centre = (x + width // 2, y + height // 2)  # where OpenCV puts the mask's bounding box: onto itself
    cloned = cv2.seamlessClone(wide_face, wide_scene, wide_mask, centre, cv2.NORMAL_CLONE)
    return cloned[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
