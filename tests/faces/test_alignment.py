"""Similarity transforms: against the ones that insightface and scikit-image fit, and where points mean nothing."""

import numpy as np
import pytest

from open_clip_idplugin.faces.alignment import ARCFACE_LANDMARKS, align_face, similarity_transform


def test_the_landmarks_are_those_that_insightface_aligns_by():
    from insightface.utils import face_align

    np.testing.assert_array_equal(ARCFACE_LANDMARKS.astype(np.float32), face_align.arcface_dst)
    points = np.random.default_rng(0).uniform(20, 90, (5, 2))
    ours = similarity_transform(points, ARCFACE_LANDMARKS)
    np.testing.assert_allclose(ours, face_align.estimate_norm(points, 112), atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_least_squares_are_umeyamas(mirrored):
    from skimage.transform import SimilarityTransform

    rng = np.random.default_rng(1)
    source = rng.uniform(0, 4000, (5, 2))
    target = (source[:, ::-1] if mirrored else source) + rng.normal(0, 30, (5, 2))
    theirs = SimilarityTransform()
    assert theirs.estimate(source, target)
    np.testing.assert_allclose(similarity_transform(source, target), theirs.params[:2], rtol=1e-9, atol=1e-9)


def test_a_known_transform_is_found_again():
    matrix = np.array([[0.6, -0.8, 5.0], [0.8, 0.6, -3.0]]) * 2
    moved = ARCFACE_LANDMARKS @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(similarity_transform(ARCFACE_LANDMARKS, moved), matrix, atol=1e-9)


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_points_that_mean_nothing(points):
    assert not np.isfinite(similarity_transform(points, ARCFACE_LANDMARKS)).all()
    assert align_face(np.zeros((40, 40, 3), np.uint8), points, 112) is None
    assert align_face(np.zeros((40, 40, 3), np.uint8), points, 112, ARCFACE_LANDMARKS) is None
