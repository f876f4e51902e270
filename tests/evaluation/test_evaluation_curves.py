"""Curves, strata and failures of evaluation: closed formulas against galleries that are really made smaller."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, MatrixScores, small_set

from open_clip_idplugin.evaluation import curves, strata
from open_clip_idplugin.evaluation.metrics import general_ranks
from open_clip_idplugin.evaluation.protocols import Settings, run
from open_clip_idplugin.evaluation.results import worst_queries
from webdataset_tools import evaluation_data


@pytest.fixture
def ranked():
    """12 images, 3 of each of 4 scenes, and 60 queries with many ties."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (60, 12)).astype(np.float32)
    own, scenes = rng.integers(0, 12, 60), np.arange(12) % 4
    scores[np.arange(60), own] += 6
    return scores, own, scenes, general_ranks(MatrixScores(scores), own, groups=scenes)


def first_among(scores, own, allowed):
    """Whether each query finds its image first when only `allowed[q]` are searched; ties by index."""
    hits = []
    for row, right, images in zip(scores, own, allowed, strict=True):
        hits.append(min(images, key=lambda image: (-row[image], image)) == right)
    return np.mean(hits)


def test_people_per_scene_is_the_mean_over_all_choices_of_people(ranked):
    scores, own, scenes, ranks = ranked
    points = curves.people_per_scene(ranks.t2i, ranks.rivals, np.full(60, 2))
    for people, share in points:
        expected = []
        for chosen in range(3):  # the same place among the possible choices for every query
            allowed = []
            for right in own:
                mates = [image for image in range(12) if scenes[image] == scenes[right] and image != right]
                choices = list(combinations(mates, int(people) - 1))
                others = [image for image in range(12) if scenes[image] != scenes[right]]
                allowed.append([right, *others, *choices[chosen % len(choices)]])
            expected.append(first_among(scores, own, allowed))
        counted = expected[:2] if people == 2 else expected[:1]
        assert share == pytest.approx(np.mean(counted))
    assert [people for people, _ in points] == [1, 2, 3]
    assert points[-1][1] == pytest.approx((ranks.t2i == 0).mean())


def test_gallery_size_is_the_mean_over_all_parts_of_the_gallery(ranked):
    scores, own, _, ranks = ranked
    points = curves.gallery_size(ranks.t2i, 12, sizes=(1, 3, 50))
    assert [size for size, _ in points] == [1, 3, 12]
    expected = [
        np.mean([first_among(scores[[q]], own[[q]], [[own[q], *pair]]) for pair in combinations(set(range(12)) - {own[q]}, 2)])
        for q in range(60)
    ]  # fmt: skip
    assert [share for _, share in points] == pytest.approx([1, np.mean(expected), (ranks.t2i == 0).mean()])


def test_bins_of_face_heights_hold_enough_images(monkeypatch):
    monkeypatch.setattr(curves, "FEWEST_IMAGES", 2)
    heights = np.array([13, 14, 17, 25, 26, 45, np.nan, 700], np.float32)
    ranks, images = np.array([0, 1, 0, 0, 1, 0, 0, 5]), np.arange(8)
    points = curves.face_pixels(ranks, heights, images)
    # 12-16 has two; 17, 25 and 26 join; 45 and 700 have no other image beside them and end the curve together
    assert [share for _, share in points] == [0.5, pytest.approx(2 / 3), 0.5]
    assert [round(x, 1) for x, _ in points] == [13.5, 22.7, 372.5]
    assert curves.face_pixels(ranks, np.full(8, np.nan, np.float32), images) == []


def test_labels():
    assert strata.pixel_labels(np.array([12.0, 20, 59.9, 60, np.nan])) == ("<20", "20-39", "40-59", ">=60", "")
    assert strata.facing_labels([0.0, -50, 65, float("nan")]) == ("camera", "sideways", "away", "")
    found = strata.recalls_by_stratum(
        np.array([0, 3, 0]), np.arange(3), {"face_pixels": (">=60", "<20", "20-39"), "who": ("b", "a", "")}, (1, 5)
    )
    assert list(found) == ["face_pixels=<20", "face_pixels=20-39", "face_pixels=>=60", "who=a", "who=b"]
    assert found["face_pixels=<20"] == {"images": 1, "queries": 1, "t2i_R@1": 0, "t2i_R@5": 1}


def test_the_worst_queries_come_first_and_one_an_image():
    ranks, images = np.array([4, 9, 0, 9, 2, 1]), np.array([0, 0, 1, 2, 3, 4])
    assert worst_queries(ranks, images).tolist() == [1, 3, 4, 5]
    assert worst_queries(ranks, images, most=2).tolist() == [1, 3]
    assert worst_queries(np.zeros(3, int), np.arange(3)).tolist() == []


def test_a_run_tells_its_curves_and_failures():
    evaluation_set, images = small_set(noise=1.5)
    evaluation_set = replace(evaluation_set, face_heights=np.arange(9, dtype=np.float32))
    results = run(evaluation_set, images, BagOfWords(), Settings(("captions", "conf1"), templates=0))
    whole = results.metrics["conf1"]["t2i_R@1"]
    assert results.curves["gallery_size"]["conf1"][-1] == [9.0, pytest.approx(whole)]
    assert results.curves["people_per_scene"]["conf1"][-1] == [3.0, pytest.approx(whole)]
    worst = results.failures["conf1"][0]
    assert worst["query"].startswith("An image with [TOK].") and worst["rank"] > 1 and len(worst["retrieved"]) == 5
    place = evaluation_set.keys.index(worst["key"])
    assert worst["identity"] == evaluation_set.identity_ids[place] and worst["key"] != worst["retrieved"][0]
    ranks = [failure["rank"] for failure in results.failures["conf1"]]
    assert ranks == sorted(ranks, reverse=True)


def test_turns_that_a_swap_kept_as_words_of_a_table_count_too():
    rows = [{"yaw": "70.5"}, {"yaw": -50}, {"yaw": ""}, {"yaw": True}]
    assert evaluation_data._groups(rows, np.full(4, np.nan, np.float32))["facing"] == ("away", "sideways", "", "")
