"""The rival: fused scores against the formula written out, and what it must and must not be able to do."""

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, small_set, unit

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import metrics
from open_clip_idplugin.evaluation.protocols import Settings, run
from open_clip_idplugin.evaluation.rivals import CAPTION_AND_FACE, CaptionAndFace, DetectedFaces, FaceScores


def detected(evaluation_set, missed=()):
    faces = [[] if image in missed else [face] for image, face in enumerate(evaluation_set.faces)]
    return DetectedFaces.from_lists(faces, evaluation_set.faces.shape[1])


@pytest.mark.parametrize("block_elements", [1, 1_000_000])
def test_the_best_face_of_an_image_counts(monkeypatch, block_elements):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block_elements)
    rng = np.random.default_rng(0)
    queries = unit(rng.standard_normal((4, 8)))
    faces = [list(unit(rng.standard_normal((count, 8)))) for count in (1, 0, 3, 2, 0, 1)]
    scores = FaceScores(queries, DetectedFaces.from_lists(faces, 8))
    expected = [[max((float(query @ face) for face in found), default=0.0) for found in faces] for query in queries]
    assert scores.block(0, 4).numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert scores.block(1, 3).numpy() == pytest.approx(np.array(expected)[1:3], abs=1e-6)
    assert DetectedFaces.from_lists(faces, 8).detected.tolist() == [True, False, True, True, False, True]


def test_fused_scores_are_the_formula():
    evaluation_set, images = small_set(noise=1.0)
    rival = CaptionAndFace.prepare(evaluation_set, images, BagOfWords(), detected(evaluation_set, missed=(4,)))
    scores = rival.scores(0.3)
    captions = [caption for captions in evaluation_set.captions for caption in captions]
    owner = [image for image, captions in enumerate(evaluation_set.captions) for _ in captions]
    faces = evaluation_set.faces[owner] @ evaluation_set.faces.T
    faces[:, 4] = 0
    expected = BagOfWords().encode(captions) @ images.T + 0.3 * faces
    assert scores.block(0, scores.n_rows).numpy() == pytest.approx(expected, abs=1e-6)


def test_weight_zero_is_the_caption_baseline_and_the_face_tells_the_person():
    evaluation_set, images = small_set()
    rival = CaptionAndFace.prepare(evaluation_set, images, BagOfWords(), detected(evaluation_set))
    captions = run(evaluation_set, images, BagOfWords(), Settings(("captions",), ("general",))).metrics["captions"]
    plain = rival.results(0.0).metrics[CAPTION_AND_FACE]
    assert {name: plain[name] for name in captions if name.startswith("t2i")} == pytest.approx(
        {name: value for name, value in captions.items() if name.startswith("t2i")}
    )
    fused = rival.results(0.5).metrics[CAPTION_AND_FACE]
    assert fused["t2i_R@1"] > plain["t2i_R@1"]
    assert fused["right_person"] == 1
    assert fused["mAP@10_standard"] == 1
    assert fused["face_weight"] == 0.5


def test_where_the_detector_misses_the_face_does_not_help():
    evaluation_set, images = small_set()
    rival = CaptionAndFace.prepare(evaluation_set, images, BagOfWords(), detected(evaluation_set, missed=range(9)))
    assert rival.results(2.0).metrics[CAPTION_AND_FACE]["right_person"] == pytest.approx(1 / 3)
    partly = CaptionAndFace.prepare(evaluation_set, images, BagOfWords(), detected(evaluation_set, missed=(0, 1, 2)))
    strata = partly.results(0.5).strata[CAPTION_AND_FACE]
    assert strata["stratum=near"]["t2i_R@1"] < strata["stratum=far"]["t2i_R@1"]


def test_the_tuned_weight_is_the_best_and_the_smallest_of_several():
    evaluation_set, images = small_set()
    rival = CaptionAndFace.prepare(evaluation_set, images, BagOfWords(), detected(evaluation_set))
    weights = (0.0, 0.01, 0.5, 0.6)
    best = rival.tune(weights)
    recalls = {weight: rival.results(weight).metrics[CAPTION_AND_FACE]["t2i_R@1"] for weight in weights}
    assert recalls[best] == max(recalls.values())
    assert best == min(weight for weight in weights if recalls[weight] == recalls[best])


def test_bad_input_is_an_error_of_this_project():
    evaluation_set, images = small_set()
    with pytest.raises(IdClipError, match="same face model"):
        FaceScores(np.ones((2, 8)), DetectedFaces.from_lists([[np.ones(4)]], 4))
    with pytest.raises(IdClipError, match="same images"):
        few = DetectedFaces.from_lists([[face] for face in evaluation_set.faces[:3]], 16)
        CaptionAndFace.prepare(evaluation_set, images, BagOfWords(), few).scores(0.5)
