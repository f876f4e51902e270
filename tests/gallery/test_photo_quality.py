"""The weight of a photo: more for a large, frontal, sharp and certain face, never nothing."""

import numpy as np
import pytest

from open_clip_idplugin.faces import Face
from open_clip_idplugin.gallery.quality import LEAST_QUALITY, frontality, photo_quality, sharpness

FRONTAL = np.array([[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]], np.float32)


def a_face(score=1.0, side=112, landmarks=FRONTAL, crop=None) -> Face:
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    box = np.array([0, 0, side, side + 20], np.float32)
    return Face(box, landmarks, score, noise if crop is None else crop, np.ones(4, "f4"))


def test_the_formula():
    full = photo_quality(a_face())
    assert full == pytest.approx(sharpness(a_face().crop))
    assert photo_quality(a_face(score=0.5, side=56)) == pytest.approx(full / 4)
    assert photo_quality(a_face(side=500)) == pytest.approx(full)


def turned(radians: float, landmarks: np.ndarray) -> np.ndarray:
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    return landmarks @ turn.T


@pytest.mark.parametrize("tilt", [0, 0.5, 2])
@pytest.mark.parametrize(("nose", "expected"), [(60, 1), (70, 0.5), (50, 0.5), (80, 0), (90, 0)])
def test_frontality_is_the_noses_place_whatever_the_tilt(nose, expected, tilt):
    landmarks = FRONTAL.copy()
    landmarks[2, 0] = nose
    assert frontality(turned(tilt, landmarks)) == pytest.approx(expected, abs=1e-5)


def test_sharpness_falls_with_blur():
    edge = np.zeros((112, 112, 3), np.uint8)
    edge[:, 56:] = 200
    blurred = np.clip((np.arange(112) - 48) / 16, 0, 1)[None, :, None] * np.full((112, 1, 3), 200)
    assert sharpness(edge) > 0.8
    assert sharpness(blurred.astype(np.uint8)) < 0.1


@pytest.mark.parametrize(
    "face",
    [
        a_face(score=0),
        a_face(crop=np.zeros((112, 112, 3), np.uint8)),
        a_face(landmarks=np.zeros((5, 2), "f4")),
        a_face(landmarks=np.full((5, 2), np.nan, "f4")),
        a_face(score=float("nan")),
    ],
)
def test_the_worst_photo_still_counts(face):
    assert photo_quality(face) == LEAST_QUALITY
