"""The arithmetic of fused scores, beside slow and obvious versions of it."""

from itertools import permutations

import numpy as np
import pytest
import torch

from open_clip_idplugin.queries import fusion


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (3, 20)), rng.uniform(-1, 1, (3, 20))


def test_ranks_of_equal_scores_follow_the_order(scores):
    assert fusion.ranks(np.array([0.5, 0.9, 0.5, 0.1])).tolist() == [2, 1, 3, 4]
    for row, places in zip(scores[0], fusion.ranks(scores[0]), strict=True):
        assert [sum(other > score for other in row) + 1 for score in row] == places.tolist()


def test_filter_puts_other_people_last(scores):
    context, face = scores
    for fused in (
        fusion.filter_then_rank(context, face, 0.2),
        fusion.filter_then_rank(torch.from_numpy(context), torch.from_numpy(face), 0.2).numpy(),
    ):
        for row in range(3):
            order = np.argsort(-fused[row])
            expected = sorted(range(20), key=lambda image: (face[row, image] < 0.2, -context[row, image]))
            assert order.tolist() == expected


def test_weighted_sum_and_reciprocal_rank(scores):
    context, face = scores
    np.testing.assert_allclose(fusion.weighted_sum(context, face, 0.3), context + 0.3 * face)
    best = np.array([3.0, 2.0, 1.0])
    np.testing.assert_allclose(
        fusion.reciprocal_rank(best, best[::-1], weight=2.0), [1 / 61 + 2 / 63, 1 / 62 + 2 / 62, 1 / 63 + 2 / 61]
    )


@pytest.mark.parametrize(("people", "faces"), [(1, 4), (2, 2), (2, 5), (3, 4)])
def test_people_get_different_faces(people, faces):
    similarities = np.random.default_rng(people).uniform(-1, 1, (people, faces))
    chosen = fusion.match_faces(similarities)
    best = max(
        permutations(range(faces), people), key=lambda pick: sum(similarities[i, face] for i, face in enumerate(pick))
    )
    assert tuple(chosen) == best


def test_two_people_who_like_the_same_face_and_missing_faces():
    assert fusion.match_faces(np.array([[0.9, 0.1], [0.8, 0.2]])).tolist() == [0, 1]
    assert sorted(fusion.match_faces(np.array([[0.9], [0.95]])).tolist()) == [-1, 0]
    assert fusion.match_faces(np.zeros((2, 0))).tolist() == [-1, -1]


@pytest.mark.parametrize("rule", [fusion.WEIGHTED, fusion.RECIPROCAL_RANK])
def test_a_missing_face_counts_as_its_own_cosine(scores, rule):
    context, face = scores
    seen = np.arange(20) % 3 > 0
    chosen = fusion.Fusion(rule, weight=0.7, unseen=0.4)
    fused = chosen.fuse(context, np.where(seen, face, 9.0), seen)
    filled = np.where(seen, face, 0.4)
    whole = fusion.weighted_sum if rule == fusion.WEIGHTED else fusion.reciprocal_rank
    np.testing.assert_allclose(fused, whole(context, filled, 0.7))


def test_a_missing_face_never_passes_the_filter(scores):
    context, face = scores
    seen = np.arange(20) % 3 > 0
    fused = fusion.Fusion(fusion.FILTER, threshold=-1.0, unseen=1.0).fuse(context, face, seen)
    assert fused[:, ~seen].max() < fused[:, seen].min()
    np.testing.assert_array_equal(fusion.Fusion(fusion.NONE).fuse(context, face, seen), context)
