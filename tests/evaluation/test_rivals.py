"""Rankings by faces: fused scores against the formulas written out, and what they must and must not be able to do."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, small_set, unit

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import metrics
from open_clip_idplugin.evaluation.face_scores import DetectedFaces, FaceScores
from open_clip_idplugin.evaluation.protocols import Settings, ask, run
from open_clip_idplugin.evaluation.rivals import (
    CAPTION_AND_FACE,
    FILTER_FACES,
    HYBRID,
    MEAN_OF_BOTH,
    PHOTO_SEARCH,
    FacedQueries,
    photo_results,
    rules_of,
    split_by_faces,
)
from open_clip_idplugin.faces.calibration import assumed_calibration
from open_clip_idplugin.queries import fusion
from open_clip_idplugin.queries.fusion import Fusion

ONE_TEMPLATE = Settings(templates=0)


def detected(evaluation_set, missed=()):
    faces = [[] if image in missed else [face] for image, face in enumerate(evaluation_set.faces)]
    heights = [[10.0 * (image + 1)] * len(found) for image, found in enumerate(faces)]
    return DetectedFaces.from_lists(faces, evaluation_set.faces.shape[1], heights)


def faced(configuration="captions", missed=(), noise=0.0):
    evaluation_set, images = small_set(noise)
    asked = ask(evaluation_set, configuration, BagOfWords(), ONE_TEMPLATE)
    return FacedQueries.of(evaluation_set, asked, images, detected(evaluation_set, missed), ONE_TEMPLATE)


@pytest.mark.parametrize("block_elements", [1, 1_000_000])
def test_the_best_face_of_an_image_counts(monkeypatch, block_elements):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block_elements)
    rng = np.random.default_rng(0)
    queries = unit(rng.standard_normal((4, 8)))
    faces = [list(unit(rng.standard_normal((count, 8)))) for count in (1, 0, 3, 2, 0, 1)]
    found = DetectedFaces.from_lists(faces, 8)
    scores = FaceScores(queries, found, unseen=0.2)
    expected = [[max((float(query @ face) for face in of), default=0.2) for of in faces] for query in queries]
    assert scores.block(0, 4).numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert scores.block(1, 3).numpy() == pytest.approx(np.array(expected)[1:3], abs=1e-6)
    assert found.detected.tolist() == [True, False, True, True, False, True]
    few = FaceScores(queries, found.take([3, 1, 2]), unseen=0.2)
    assert few.block(0, 4).numpy() == pytest.approx(np.array(expected)[:, [3, 1, 2]], abs=1e-6)


RULES = {
    "weighted": Fusion(fusion.WEIGHTED, weight=0.3, unseen=0.25),
    "filter": Fusion(fusion.FILTER, threshold=0.4),
    "reciprocal_rank": Fusion(fusion.RECIPROCAL_RANK, weight=2.0, unseen=0.1),
    "none": Fusion(fusion.NONE),
}


@pytest.mark.parametrize("name", RULES)
def test_fused_scores_are_the_formula(name):
    queries = faced(missed=(4,), noise=1.0)
    evaluation_set, rule = queries.evaluation_set, RULES[name]
    captions = [caption for captions in evaluation_set.captions for caption in captions]
    owner = [image for image, captions in enumerate(evaluation_set.captions) for _ in captions]
    face = evaluation_set.faces[owner] @ evaluation_set.faces.T
    face[:, 4] = rule.unseen
    context = BagOfWords().encode(captions) @ queries.image_features.T
    expected = {
        "weighted": context + 0.3 * face,
        "filter": np.where((face >= 0.4) & (np.arange(9) != 4), context, context - 4),
        "reciprocal_rank": fusion.reciprocal_rank(context, face, 2.0),
        "none": context,
    }[name]
    scores = queries.scores(rule)
    assert scores.block(0, scores.n_rows).numpy() == pytest.approx(expected, abs=2e-6)


def test_weight_zero_is_the_caption_baseline_and_the_face_tells_the_person():
    queries = faced()
    captions = run(queries.evaluation_set, queries.image_features, BagOfWords(), Settings(("captions",), ("general",)))
    plain = queries.results(CAPTION_AND_FACE, Fusion(weight=0.0)).metrics[CAPTION_AND_FACE]
    expected = {name: value for name, value in captions.metrics["captions"].items() if name.startswith("t2i")}
    assert {name: plain[name] for name in expected} == pytest.approx(expected)
    fused = queries.results(CAPTION_AND_FACE, Fusion(weight=0.5))
    values = fused.metrics[CAPTION_AND_FACE]
    assert values["t2i_R@1"] > plain["t2i_R@1"]
    assert values["right_person"] == 1 and values["mAP@10_standard"] == 1
    assert values["face_weight"] == 0.5 and fused.tuned[CAPTION_AND_FACE]["rule"] == "weighted"
    assert fused.strata[CAPTION_AND_FACE]["stratum=near"]["t2i_R@1"] == 1


def test_where_the_detector_misses_only_the_token_can_help():
    """Every face is missed: captions find one of three people, the hybrid what the token finds."""
    rule = Fusion(weight=2.0, unseen=0.3)
    nobody = range(9)
    assert faced(missed=nobody).results(CAPTION_AND_FACE, rule).metrics[CAPTION_AND_FACE]["right_person"] == pytest.approx(
        1 / 3
    )  # fmt: skip
    hybrid = faced("conf1", missed=nobody).results(HYBRID, rule).metrics[HYBRID]
    token = run(faced().evaluation_set, faced().image_features, BagOfWords(), Settings(("conf1",), templates=0))
    assert {name: hybrid[name] for name in token.metrics["conf1"]} == pytest.approx(token.metrics["conf1"])


def test_an_image_without_a_face_is_not_counted_as_somebody_else():
    """A missed face competes with other people's faces: its own cosine decides, and a low one loses the image."""
    kept, lost = (
        faced("conf1", missed=(0, 1, 2)).first_share(Fusion(weight=0.5, unseen=unseen)) for unseen in (0.6, -1.0)
    )
    assert kept > lost


def test_the_tuned_rule_is_the_best_and_the_first_of_several():
    queries = faced("conf1", missed=(4,), noise=1.0)
    rules = (*RULES.values(), *rules_of(assumed_calibration(""))[HYBRID])
    shares = [queries.results(HYBRID, rule).metrics[HYBRID]["t2i_R@1"] for rule in rules]
    assert [queries.first_share(rule) for rule in rules] == pytest.approx(shares)
    assert queries.tune(rules) == rules[int(np.argmax(shares))]


def test_strata_of_detection_and_size():
    evaluation_set, _ = small_set()
    split = split_by_faces(evaluation_set, detected(evaluation_set, missed=(0,)))
    assert split.groups["face"] == ("missed", *["detected"] * 8)
    assert split.groups["face_pixels"] == ("", *["20-39"] * 2, *["40-59"] * 2, *[">=60"] * 4)
    known = replace(evaluation_set, face_heights=np.array([15.0] + [np.nan] * 8, np.float32))
    again = split_by_faces(known, detected(evaluation_set, missed=(0,)))
    assert again.groups["face_pixels"][:2] == ("<20", "20-39") and again.face_heights[0] == 15


def test_searching_with_a_photo():
    """A photo whose feature holds the person alone finds the person; with the caption it finds the image."""
    queries = faced()
    photos = queries.evaluation_set.faces
    results = photo_results(queries.evaluation_set, queries.asked, queries.image_features, photos, ONE_TEMPLATE)
    alone, both = results.metrics[PHOTO_SEARCH], results.metrics[MEAN_OF_BOTH]
    assert alone["right_scene"] < 0.5 and alone["mAP@10_standard"] > 0.9
    assert both["t2i_R@1"] > alone["t2i_R@1"] and "mAP@10" not in both
    rows = queries.asked.queries.text_of_query
    owner = queries.asked.queries.image_of_query
    means = unit(queries.asked.features[rows] + photos[owner])
    assert both["t2i_R@1"] == pytest.approx(np.mean((means @ queries.image_features.T).argmax(1) == owner))


def test_filtering_ranks_the_others_behind():
    results = faced(missed=(0, 1, 2)).results(FILTER_FACES, Fusion(fusion.FILTER, threshold=0.9))
    assert results.metrics[FILTER_FACES]["face_threshold"] == 0.9
    assert results.strata[FILTER_FACES]["stratum=far"]["t2i_R@1"] > 0.8
    assert results.strata[FILTER_FACES]["stratum=near"]["t2i_R@1"] == 0


def test_bad_input_is_an_error_of_this_project():
    with pytest.raises(IdClipError, match="same face model"):
        FaceScores(np.ones((2, 8)), DetectedFaces.from_lists([[np.ones(4)]], 4), unseen=0.2)
    queries = faced()
    few = DetectedFaces.from_lists([[face] for face in queries.evaluation_set.faces[:3]], 16)
    with pytest.raises(IdClipError, match="same images"):
        replace(queries, faces=few).scores(Fusion())
