"""The metrics against a full argsort, against the definitions written out, and against tables made by hand."""

import random

import numpy as np
import pytest
import torch
from evaluation_fixtures import MatrixScores

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import image_ranks, metrics
from open_clip_idplugin.evaluation.metrics import (
    KS,
    CosineScores,
    entity_metrics,
    general_metrics,
    general_ranks,
    top_k,
)


@pytest.fixture(params=[1, 40, 1_000_000])
def block_elements(request, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", request.param)


def brute_force_general(similarities, image_of_query):
    """Every ranking as a stable descending sort of the full matrix [Q, N], read off position by position."""
    result = {}
    by_query = np.argsort(-similarities, axis=1, kind="stable")
    by_image = np.argsort(-similarities.T, axis=1, kind="stable")
    for k in KS:
        result[f"t2i_R@{k}"] = np.mean([image_of_query[q] in by_query[q, :k] for q in range(len(by_query))])
        asked = [n for n in range(similarities.shape[1]) if n in image_of_query]
        result[f"i2t_R@{k}"] = np.mean([any(image_of_query[q] == n for q in by_image[n, :k]) for n in asked])
    result["t2i_sum"] = sum(result[f"t2i_R@{k}"] for k in KS)
    result["i2t_sum"] = sum(result[f"i2t_R@{k}"] for k in KS)
    result["sum"] = result["t2i_sum"] + result["i2t_sum"]
    return result


def written_out_entity(similarities, people, owners):
    """The entity metrics as the protocol words them."""
    result = {}
    for name in [f"entity_R@{k}" for k in KS] + [f"entity_R@{k}_kmin" for k in KS] + ["mAP@10", "mAP@10_standard"]:
        values = []
        for query, person in enumerate(people):
            ranking = sorted(range(len(owners)), key=lambda n: (-similarities[query, n], n))
            relevant = sum(owner == person for owner in owners)
            if name.startswith("entity"):
                k = int(name.split("@")[1].split("_")[0])
                hits = sum(owners[n] == person for n in ranking[:k])
                values.append(hits / (min(k, relevant) if name.endswith("kmin") else relevant))
                continue
            precisions, hits = 0.0, 0
            for position, n in enumerate(ranking[:10], start=1):
                if owners[n] == person:
                    hits += 1
                    precisions += hits / position
            values.append(precisions / (min(10, relevant) if name.endswith("standard") else 10))
        result[name] = sum(values) / len(values)
    return result


def unit(generator, *shape):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("seed", [0, 1])
def test_general_equals_a_full_argsort(block_elements, seed):
    generator = torch.Generator().manual_seed(seed)
    images, texts = unit(generator, 60, 8), unit(generator, 180, 8)
    image_of_query = np.arange(180) % 57  # three images have no text: distractors
    ranks = general_ranks(CosineScores(texts, images), image_of_query)
    expected = brute_force_general((texts @ images.T).numpy(), image_of_query)
    assert general_metrics(ranks) == pytest.approx(expected, abs=1e-6)
    assert (ranks.i2t[57:] == -1).all()
    assert (ranks.top == (texts @ images.T).argmax(1).numpy()).all()


@pytest.mark.parametrize("levels", [1, 2, 3, 10])
def test_ties_are_resolved_by_index(block_elements, levels):
    rng = np.random.default_rng(levels)
    matrix = rng.integers(0, levels, (90, 30)).astype(np.float32)
    image_of_query = rng.integers(0, 30, 90)
    ranks = general_ranks(MatrixScores(matrix), image_of_query)
    assert general_metrics(ranks) == pytest.approx(brute_force_general(matrix, image_of_query), abs=1e-6)
    by_query = np.argsort(-matrix, axis=1, kind="stable")
    assert (top_k(MatrixScores(matrix), 7) == by_query[:, :7]).all()
    assert (ranks.top == by_query[:, 0]).all()


def test_queries_that_share_a_row(block_elements):
    rng = np.random.default_rng(5)
    matrix = rng.integers(0, 6, (40, 25)).astype(np.float32)
    row_of_query = rng.integers(0, 40, 120)  # some rows are nobody's
    image_of_query = rng.integers(0, 25, 120)
    ranks = general_ranks(MatrixScores(matrix), image_of_query, row_of_query)
    expected = brute_force_general(matrix[row_of_query], image_of_query)
    assert general_metrics(ranks) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "passes", [{}, {"MOST_NEAR": -1}, {"TOLERANCE": -1.0}], ids=["one", "two: many ties", "two: far off"]
)
def test_images_are_ranked_in_one_pass_or_in_two(block_elements, monkeypatch, passes):
    """Whole numbers, so that sums are exact however they are made, and many similarities are equal."""
    for name, value in passes.items():
        monkeypatch.setattr(image_ranks, name, value)
    second = []
    monkeypatch.setattr(
        metrics, "_image_to_text", lambda *given, made=metrics._image_to_text: second.append(1) or made(*given)
    )
    rng = np.random.default_rng(3)
    texts, images = rng.integers(-2, 3, (50, 6)), rng.integers(-2, 3, (23, 6))
    row_of_query, image_of_query = rng.integers(0, 50, 120), rng.integers(0, 20, 120)
    ranks = general_ranks(CosineScores(texts, images), image_of_query, row_of_query)
    expected = brute_force_general((texts @ images.T)[row_of_query].astype(np.float32), image_of_query)
    assert general_metrics(ranks) == pytest.approx(expected, abs=1e-6)
    assert len(second) == bool(passes)


def test_groups_count_their_own_images():
    matrix = [[0.9, 0.5, 0.7, 0.8], [0.1, 0.3, 0.3, 0.3]]
    ranks = general_ranks(MatrixScores(matrix), np.array([1, 3]), groups=np.array([5, 5, 2, 2]))
    assert ranks.t2i.tolist() == [3, 2] and ranks.rivals.tolist() == [1, 1]


def test_general_table_made_by_hand():
    matrix = [[0.9, 0.1, 0.5], [0.2, 0.8, 0.8], [0.7, 0.6, 0.1]]  # query 1: image 2 ties with image 1
    ranks = general_ranks(MatrixScores(matrix), np.array([0, 2, 2]))
    assert ranks.t2i.tolist() == [0, 1, 2]
    assert ranks.i2t.tolist() == [0, -1, 0]
    assert general_metrics(ranks, ks=(1, 2)) == pytest.approx(
        {"t2i_R@1": 1 / 3, "t2i_R@2": 2 / 3, "t2i_sum": 1, "i2t_R@1": 1, "i2t_R@2": 1, "i2t_sum": 2, "sum": 3}
    )


def test_text_to_image_alone():
    ranks = general_ranks(MatrixScores(np.eye(3)), np.arange(3), i2t=False)
    assert ranks.i2t is None
    assert set(general_metrics(ranks)) == {"t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_R@50", "t2i_sum"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_entity_equals_the_definitions_written_out(block_elements, seed):
    rng = np.random.default_rng(seed)
    owners = np.concatenate([np.arange(20), rng.integers(0, 20, 100)])
    matrix = rng.integers(0, 40, (20, 120)).astype(np.float32) if seed else rng.random((20, 120), np.float32)
    matrix += 8 * (np.arange(20)[:, None] == owners)  # far from chance
    measured = entity_metrics(top_k(MatrixScores(matrix), 50), np.arange(20), owners)
    assert measured == pytest.approx(written_out_entity(matrix, list(range(20)), owners.tolist()), abs=1e-6)
    assert measured["mAP@10_standard"] > measured["mAP@10"]


def test_entity_table_made_by_hand():
    owners = [7, 8, 7, 7]
    top = np.array([[2, 1, 0, 3], [0, 1, 2, 3]])
    measured = entity_metrics(top, np.array([7, 8]), np.array(owners), ks=(1, 2))
    assert measured == pytest.approx(
        {
            "entity_R@1": (1 / 3 + 0) / 2,
            "entity_R@1_kmin": (1 + 0) / 2,
            "entity_R@2": (1 / 3 + 1) / 2,
            "entity_R@2_kmin": (1 / 2 + 1) / 2,
            "mAP@10": ((1 + 2 / 3 + 3 / 4) / 10 + (1 / 2) / 10) / 2,
            "mAP@10_standard": ((1 + 2 / 3 + 3 / 4) / 3 + 1 / 2) / 2,
        }
    )


def test_numpy_features_and_a_gallery_smaller_than_k():
    rng = np.random.default_rng(0)
    scores = CosineScores(rng.random((4, 3)), rng.random((2, 3)))  # float64 is cast
    assert top_k(scores, 50).shape == (4, 2)
    assert entity_metrics(top_k(scores, 50), [0, 1, 0, 1], [0, 1])["entity_R@50"] == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: CosineScores(np.ones((2, 3)), np.ones((2, 4))),
        lambda: CosineScores(np.full((2, 3), np.nan), np.ones((2, 3))),
        lambda: CosineScores(np.ones(3), np.ones((2, 3))),
        lambda: CosineScores(np.ones((0, 3)), np.ones((2, 3))),
        lambda: general_ranks(MatrixScores(np.eye(3)), np.array([0, 1, 3])),
        lambda: general_ranks(MatrixScores(np.eye(3)), np.array([0, 1]), np.array([0])),
        lambda: general_ranks(MatrixScores(np.eye(3)), np.array([0.0, 1.0])),
        lambda: entity_metrics(np.array([[0, 1]]), np.array([5]), np.array([0, 1])),
        lambda: entity_metrics(np.array([[0]]), np.array([0]), np.array([0, 1])),
    ],
)
def test_bad_input_is_an_error_of_this_project(call):
    with pytest.raises(IdClipError):
        call()


def test_random_ranking_has_the_expected_recall():
    rng = random.Random(0)
    matrix = np.array([[rng.random() for _ in range(100)] for _ in range(2000)])
    recalls = general_metrics(general_ranks(MatrixScores(matrix), np.arange(2000) % 100, i2t=False))
    assert recalls["t2i_R@10"] == pytest.approx(0.1, abs=0.03)
