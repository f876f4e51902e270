"""Who asks what: the protocols against their definitions written out, on images whose right answers are known."""

import random

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, small_set, unit

from open_clip_idplugin import prompts
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.evaluation_set import people_of
from open_clip_idplugin.evaluation.metrics import KS
from open_clip_idplugin.evaluation.protocols import EvaluationSet, Settings, general_queries, run


def test_every_text_is_a_query_and_is_encoded_once():
    evaluation_set, images = small_set()
    for configuration, queries, distinct in (("captions", 15, 5), ("names", 165, None), ("conf1", 165, None)):
        encoder = BagOfWords()
        made = general_queries(evaluation_set, configuration, Settings())
        assert len(made.row_of_query) == len(made.image_of_query) == queries
        run(evaluation_set, images, encoder, Settings((configuration,), ("general",)))
        assert len(encoder.asked) == len(set(encoder.asked)) == len(made.texts) == (distinct or len(made.texts))
    # the same text with three faces is three texts; with a name it differs by itself
    assert len(general_queries(evaluation_set, "conf1", Settings(templates=0)).texts) == 15


def test_configurations_write_the_same_draw():
    evaluation_set, _ = small_set()
    conf1 = general_queries(evaluation_set, "conf1", Settings())
    names = general_queries(evaluation_set, "names", Settings())
    for query, image in enumerate(conf1.image_of_query):
        name = prompts.display_name(evaluation_set.names[image])
        text = conf1.texts[conf1.row_of_query[query]]
        assert names.texts[names.row_of_query[query]] == text.replace("[TOK]", name)
        assert conf1.face_of_text[conf1.row_of_query[query]] == image
    assert (names.face_of_text == -1).all()


def test_fixed_templates():
    evaluation_set, _ = small_set()
    assert general_queries(evaluation_set, "conf1", Settings(templates="0,6")).texts[:4] == (
        "An image with [TOK]. A man runs on the beach",
        "[TOK] runs on the beach",
        "An image with [TOK]. someone running",
    ) + ("An image with [TOK]. A man runs on the beach",)  # no keyword: template 0 again, encoded once


def written_out(evaluation_set, images, configuration, encoder, seed):
    """Both protocols, loop by loop, from the full matrix."""
    texts, faces, owner = [], [], []
    for image, captions in enumerate(evaluation_set.captions):
        for number, caption in enumerate(captions[:5]):
            drawn = prompts.general_texts(caption, random.Random(f"{seed}/{evaluation_set.keys[image]}/{number}"))
            for text in [caption] if configuration == "captions" else drawn:
                if configuration != "captions":
                    text = prompts.expand(text, configuration, evaluation_set.names[image])
                texts.append(text)
                faces.append(evaluation_set.faces[image])
                owner.append(image)
    with_face = prompts.needs_face(configuration)
    encoded = encoder.encode(texts, faces=np.stack(faces) if with_face else None)
    # Equal texts tie: multiplied once each, for a matrix product may round equal rows in two ways on some processors.
    distinct, row_of_text = np.unique(encoded, axis=0, return_inverse=True)
    similarities = (distinct @ images.T)[row_of_text.reshape(-1)]
    by_text = np.argsort(-similarities, axis=1, kind="stable")
    by_image = np.argsort(-similarities.T, axis=1, kind="stable")
    owner = np.array(owner)
    result = {f"t2i_R@{k}": np.mean([owner[q] in by_text[q, :k] for q in range(len(texts))]) for k in KS}
    result |= {f"i2t_R@{k}": np.mean([n in owner[by_image[n, :k]] for n in range(len(images))]) for k in KS}
    if configuration == "captions":
        return result
    identities = sorted(set(evaluation_set.identity_ids))
    recalls = {k: [] for k in KS}
    for identity in identities:
        own = [n for n, other in enumerate(evaluation_set.identity_ids) if other == identity]
        face = evaluation_set.faces[own].mean(axis=0)
        face /= np.linalg.norm(face)
        group = [prompts.expand(text, configuration, evaluation_set.names[own[0]]) for text in prompts.entity_texts()]
        query = encoder.encode_ensemble([group], faces=face[None] if with_face else None)[0]
        ranking = np.argsort(-(images @ query), kind="stable")
        for k in KS:
            recalls[k].append(np.isin(ranking[:k], own).sum() / len(own))
    return result | {f"entity_R@{k}": np.mean(values) for k, values in recalls.items()}


@pytest.mark.parametrize("configuration", prompts.CONFIGURATIONS)
def test_both_protocols_equal_their_definitions(configuration):
    evaluation_set, images = small_set(noise=2.0, seed=3)
    measured = run(evaluation_set, images, BagOfWords(), Settings((configuration,), seed=4)).metrics[configuration]
    expected = written_out(evaluation_set, images, configuration, BagOfWords(), seed=4)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert ("mAP@10" in measured) == (configuration != "captions")


def test_known_answers():
    evaluation_set, images = small_set()
    results = run(evaluation_set, images, BagOfWords(), Settings(("captions", "conf1"), templates=0))
    captions, conf1 = results.metrics["captions"], results.metrics["conf1"]
    # Only the first captions describe the images; the caption alone finds the scene and one of its three people.
    assert captions["right_person"] == pytest.approx(1 / 3)
    assert conf1["right_person"] == 1
    assert conf1["t2i_R@1"] == conf1["right_scene"] > captions["t2i_R@1"]
    assert conf1["entity_R@5"] == 1
    assert conf1["mAP@10"] == pytest.approx(conf1["mAP@10_standard"] * 3 / 10)


def test_strata_partition_the_queries():
    evaluation_set, images = small_set(noise=1.0)
    results = run(evaluation_set, images, BagOfWords(), Settings(("conf1",), ("general",), templates=0))
    strata = results.strata["conf1"]
    assert set(strata) == {"stratum=near", "stratum=far"}
    assert strata["stratum=near"]["queries"] == strata["stratum=far"]["queries"] == 6
    assert strata["stratum=near"]["images"] == 3
    whole = run(evaluation_set.take([0, 1, 2]), images[:3], BagOfWords(), Settings(("conf1",), templates=0))
    assert whole.strata["conf1"].keys() == {"stratum=near"}
    assert whole.strata["conf1"]["stratum=near"]["t2i_R@1"] == whole.metrics["conf1"]["t2i_R@1"]


def test_faces_are_unit_and_people_are_means():
    evaluation_set, _ = small_set()
    assert np.linalg.norm(evaluation_set.faces, axis=1) == pytest.approx(np.ones(9))
    mixed = EvaluationSet(("a", "b"), (1, 2), ("n1", "n1"), ("x", "x"), (("a",), ("b",)), np.array([[3, 0], [0, 9.0]]))
    identities, first, faces = people_of(mixed)
    assert (identities, first) == (["n1"], [0])
    assert faces == pytest.approx(unit(np.array([[1, 1]])))


def test_text_to_image_alone():
    evaluation_set, images = small_set()
    settings = Settings(("names",), ("general",), image_to_text=False)
    assert "i2t_R@1" not in run(evaluation_set, images, BagOfWords(), settings).metrics["names"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Settings(("conf9",)),
        lambda: Settings(()),
        lambda: Settings(protocols=("person",)),
        lambda: Settings(templates="best"),
        lambda: Settings(templates=11),
        lambda: run(small_set()[0], np.ones((3, 16)), BagOfWords()),
        lambda: EvaluationSet((), (), (), (), (), np.zeros((0, 4))),
        lambda: EvaluationSet(("a",), (1,), ("n",), ("x",), (("c",),), np.zeros((1, 4))),
        lambda: EvaluationSet(("a",), (1, 2), ("n",), ("x",), (("c",),), np.ones((1, 4))),
        lambda: run(
            EvaluationSet(("a",), (1,), ("n",), ("x",), ((),), np.ones((1, 4))), np.ones((1, 16)), BagOfWords()
        ),
    ],
)
def test_bad_input_is_an_error_of_this_project(call):
    with pytest.raises(IdClipError):
        call()
