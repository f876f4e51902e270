"""People in images: names in the text, all / any / none, fusion, thresholds, filters, pages, duplicates, reasons."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from face_index_fixtures import unit
from hybrid_fixtures import ADA, GRACE, ROWS, TEXT, World, ada_similarities, best_first
from retrieval_fixtures import FACE_DIM, draw_images, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.queries import fusion
from open_clip_idplugin.retrieval.face_index.reading import PersonMatches
from open_clip_idplugin.retrieval.ranking import ranking
from open_clip_idplugin.retrieval.search.command import print_hints
from open_clip_idplugin.retrieval.service.app import create_app


@pytest.fixture(scope="module")
def world(tiny_models, tmp_path_factory):  # noqa: F811
    return World(tmp_path_factory.mktemp("hybrid"), tiny_models)


def test_weighted_sum_is_the_evaluations(world):
    results = world.ask(text=TEXT, identities=["Ada Lovelace"], face_weight=0.7)
    face = ada_similarities(world)
    context = world.vectors @ world.query(TEXT, ADA)
    assert [result["id"] for result in results] == best_first(fusion.weighted_sum(context, face, 0.7))
    for result in results:
        assert result["score"] == pytest.approx(context[result["id"]] + 0.7 * face[result["id"]], abs=1e-5)
        assert result["similarity"] == pytest.approx(context[result["id"]], abs=1e-5)


def test_a_face_that_was_not_found_counts_as_it_is_told(world):
    unseen = np.flatnonzero(world.faces.match(ADA[None], np.arange(ROWS)).counts == 0).tolist()
    ask = {"text": TEXT, "identities": ["Ada Lovelace"], "face_weight": 50}  # the face alone decides
    assert 0 < len(unseen) < ROWS
    assert sorted(world.rows(**ask, unseen_face=1)[: len(unseen)]) == unseen
    assert sorted(world.rows(**ask, unseen_face=-1)[-len(unseen) :]) == unseen
    assert "unseen_face" in world.refused(**ask, unseen_face=2)


def test_reasons(world):
    for result in world.ask(text=TEXT, identities=["Ada Lovelace"]):
        row, (matched,) = result["id"], result["matched"]
        assert matched["name"] == "Ada Lovelace" and f"similarity {result['similarity']:.3f}" in result["why"]
        if row >= 25:
            assert "face_box" not in result and "no face was found" in result["why"]
        elif row < 10:
            assert result["face_box"] == [4.0, 5.0, 12.0, 15.0] and result["face_similarity"] > 0.9
            assert result["face_box_relative"] == [0.0833, 0.125, 0.25, 0.375]


def test_names_in_the_sentence(world):
    by_hand = world.ask(text="[TOK] and [TOK:2] on a hill", identities=["Ada Lovelace", "Grace Hopper"])
    assert world.ask(text="ada lovelace and Grace Hopper on a hill") == by_hand
    plain = world.ask(text="Ada Lovelace on a hill", find_names=False)
    assert "matched" not in plain[0]
    assert {result["id"] for result in by_hand[:5]} == set(range(5, 10))
    boxes = [[entry["face_box"][0] for entry in result["matched"]] for result in by_hand[:5]]
    assert boxes == [[4.0, 12.0]] * 5


def test_words_that_may_be_names_are_hinted_at_and_stay_words(world, capsys):
    body = {"text": "a horse that Ada rides beside ADA", "include_images": False}
    response = world.client.post("/knn-service", data=json.dumps(body))
    assert json.loads(response.headers["Idclip-Hints"]) == [
        {"written": "Ada", "people": ["Ada Lovelace"]},
        {"written": "ADA", "people": ["Ada Lovelace"]},
    ]
    assert response.get_json() == world.ask(text=body["text"], find_names=False)
    silent = ({"text": "Ada Lovelace's horse"}, {"text": "a horse"}, {"text": "Ada", "find_names": False})
    for quiet in silent:
        assert "Idclip-Hints" not in world.client.post("/knn-service", data=json.dumps(quiet)).headers
    print_hints(json.loads(response.headers["Idclip-Hints"]))
    assert "'Ada' was read as a word; for 'Ada Lovelace' write the whole name" in capsys.readouterr().out


def test_all_any_none_only(world):
    both = {"all": ["Ada Lovelace", "Grace Hopper"]}
    assert set(world.rows(people=both, fusion="filter")[:5]) == set(range(5, 10))
    assert set(world.rows(people=both, fusion="filter", min_face_fmr=1e-3)) == set(range(5, 10))
    either = {"people": {"any": ["Ada Lovelace", "Grace Hopper"]}, "text": "blocks", "fusion": "filter"}
    assert set(world.rows(**either)[:15]) == set(range(15))
    assert set(world.rows(**either, min_face_fmr=1e-3)) == set(range(15))
    without = {"all": ["Ada Lovelace"], "none": ["Grace Hopper"]}
    assert set(world.rows(people=without, min_face_similarity=0.5)) == set(range(5))
    assert set(world.rows(text="blocks", people={"none": ["Ada Lovelace"]})) == set(range(10, ROWS))
    assert world.rows(people={"all": ["Ada Lovelace"], "only": True}, min_face_fmr=1e-3) == []  # a stranger is in all
    trio = {"all": ["Ada Lovelace", "Grace Hopper", {"image_id": 6, "face": 2}], "only": True}
    assert world.rows(people=trio, fusion="filter")[0] == 6


def test_texts_of_people(world):
    clause = world.ask(text="coloured blocks", people={"all": ["Ada Lovelace"]}, fusion="none")
    expected = world.vectors @ world.query("An image with [TOK]. coloured blocks", ADA)
    assert [result["id"] for result in clause] == best_first(expected)
    either = world.ask(text=TEXT, people={"any": ["Ada Lovelace", "Grace Hopper"]}, fusion="none")
    scores = np.stack([world.vectors @ world.query(TEXT, face) for face in (ADA, GRACE)])
    assert [result["id"] for result in either] == best_first(scores.max(axis=0))
    assert either[0]["similarity"] == pytest.approx(scores.max(), abs=1e-5)


def test_negative_text(world):
    results = world.rows(text="blocks", negative_text="a dark night", negative_weight=0.8)
    expected = world.vectors @ (world.query("blocks") - 0.8 * world.query("a dark night"))
    assert results == best_first(expected)


def test_reciprocal_ranks(world):
    face = ada_similarities(world)
    expected = fusion.reciprocal_rank(world.vectors @ world.query(TEXT, ADA), face, 1.0)
    best = sorted(range(ROWS), key=lambda row: (-expected[row], row))
    assert world.rows(text=TEXT, identities=["Ada Lovelace"], fusion="reciprocal_rank") == best


def test_thresholds_show_nothing_rather_than_the_least_bad(world):
    assert world.rows(text="blocks", min_similarity=1.0) == []
    everything = world.ask(text="blocks")
    middle = everything[10]["similarity"] + 1e-7
    assert len(world.rows(text="blocks", min_similarity=middle)) == 10


def test_the_filter_ranks_other_people_last_as_in_the_evaluation(world):
    face = ada_similarities(world)
    seen = world.faces.match(ADA[None], np.arange(ROWS)).counts > 0
    context = world.vectors @ world.query(TEXT, ADA)
    scores = fusion.Fusion(fusion.FILTER, threshold=0.5).fuse(context, face, seen)
    ask = {"text": TEXT, "identities": ["Ada Lovelace"], "fusion": "filter"}
    assert world.rows(**ask, face_threshold=0.5) == best_first(scores)
    assert "'fmr' is a false match rate" in world.refused(**ask, fmr=1)


def test_nothing_found_is_an_answer(world):
    """Each result says how probable the person is in it; a least probability leaves out the others."""
    ask = {"text": TEXT, "identities": ["Ada Lovelace"]}
    results = {result["id"]: result["probability"] for result in world.ask(**ask)}
    assert min(results[row] for row in range(10)) > 0.9
    match = world.faces.match(ADA[None], np.arange(ROWS))
    prior = world.faces.calibration.prior(ROWS)
    assert prior == pytest.approx(0.01)
    for row in range(10, ROWS):
        assert results[row] < 0.5 if match.counts[row] else results[row] == pytest.approx(prior)
    assert set(world.rows(**ask, min_probability=0.5)) == set(range(10))
    nobody = {"embedding": unit(np.ones(FACE_DIM) * np.where(np.arange(FACE_DIM) % 2, 1, -1)).tolist()}
    assert world.rows(people={"all": [nobody]}, min_probability=0.5) == []
    both = {"all": ["Ada Lovelace", "Grace Hopper"]}
    assert set(world.rows(people=both, min_probability=0.5)) == set(range(5, 10))
    assert "'min_probability' must be a number from 0 to 1" in world.refused(**ask, min_probability=2)
    assert "holds none" in world.refused(**ask, min_probability=0.5, indice_name="bare")


def test_reciprocal_ranks_of_thousands_are_no_ties():
    """1 / (60 + rank) of places 1,365 and 1,366 are equal in six digits: the row decided who came first."""
    count = 3000
    places = np.random.default_rng(0).permutation(count)
    context = (-places / count).astype(np.float32)
    match = PersonMatches(context[None], np.zeros((1, count), np.int64), np.ones(count, np.int64))
    scores = ranking._fuse(context, match, fusion.Fusion(fusion.RECIPROCAL_RANK))
    assert np.argsort(-scores, kind="stable").tolist() == np.argsort(places).tolist()
    assert len(np.unique(scores)) == count


def test_pages_fit_together(world):
    whole = world.rows(text=TEXT, identities=["Ada Lovelace"], num_images=ROWS)
    pages = [
        world.rows(text=TEXT, identities=["Ada Lovelace"], num_images=7, offset=start) for start in range(0, 35, 7)
    ]
    assert [row for page in pages for row in page] == whole
    assert pages[-1] == whole[28:]


@pytest.mark.parametrize(
    ("filters", "keep"),
    [
        ({"attributes.stratum": "dark"}, lambda row: row % 2),
        ({"image_id": [3, 4, 99]}, lambda row: row in (3, 4)),
        ({"image_id": {"min": 5, "max": "8"}}, lambda row: 5 <= row <= 8),
        ({"identity_name": {"not": "Person 1"}, "synthetic": "true"}, lambda row: row % 5 != 1),
    ],
)
def test_filters(world, filters, keep):
    assert set(world.rows(text="blocks", filters=filters)) == {row for row in range(ROWS) if keep(row)}


def test_more_like_this_and_excluded_rows(world):
    rows = world.rows(image_id=4, exclude_ids=[7, 8])
    assert rows == [row for row in best_first(world.vectors @ world.vectors[4]) if row not in (4, 7, 8)]


def test_numbers_of_any_size(world):
    huge = 10**30
    assert world.rows(image_id=4, exclude_ids=[huge, -huge, 7, 8]) == world.rows(image_id=4, exclude_ids=[7, 8])
    assert world.rows(text="blocks", filters={"image_id": huge}) == []
    assert world.rows(text="blocks", filters={"image_id": {"in": [huge]}}) == []
    assert set(world.rows(text="blocks", filters={"image_id": {"max": huge}})) == set(range(ROWS))
    for body in ({"image_id": huge}, {"text": "x", "offset": huge}, {"text": "x", "num_images": huge}):
        assert str(huge) not in world.refused(**body)


def test_duplicates(world):
    assert len(world.rows(text="blocks", collapse="identity_name")) == 5
    # The vectors of these pictures are alike; who is in them tells them apart.
    near = world.rows(people={"all": ["Ada Lovelace"]}, collapse="near_duplicates")
    assert len(near) < ROWS and {"Ada Lovelace"} < {name for row in near for name in world.people[row]}
    bare = world.vectors[[row for row in near if row >= 25]]
    assert (bare @ bare.T - np.eye(len(bare))).max(initial=0) < 0.94
    assert "holds none" in world.refused(text="x", collapse="near_duplicates", indice_name="bare")


def test_many_images_take_candidates_from_both_indices(world, monkeypatch):
    exact = world.ask(text=TEXT, identities=["Ada Lovelace"], num_images=5, offset=0)
    filters = {"filters": {"image_id": {"max": 20}}}
    filtered = world.ask(text=TEXT, identities=["Ada Lovelace"], num_images=5, **filters)
    monkeypatch.setattr(ranking, "MOST_EXACT", 1)
    monkeypatch.setattr(ranking, "_candidate_count", lambda wanted: 12)
    assert world.ask(text=TEXT, identities=["Ada Lovelace"], num_images=5, offset=0) == exact
    assert world.ask(text=TEXT, identities=["Ada Lovelace"], num_images=5, **filters) == filtered


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"people": ["Ada"]}, "'people' must be an object"),
        ({"people": {"most": ["Ada"]}}, "'people' has no field 'most'"),
        ({"people": {"all": ["Nobody"]}}, "nobody named 'Nobody'"),
        ({"people": {"all": [{"name": "x"}]}}, "one of photo, embedding or image_id"),
        ({"people": {"all": [{"image_id": 29}]}}, "image 29 has 0 faces"),
        ({"people": {"none": ["Ada Lovelace"]}}, "asks for nothing"),
        ({"text": "x", "filters": {"colour": "red"}}, "no column 'colour'"),
        ({"text": "x", "filters": {"image_id": "red"}}, "holds numbers"),
        ({"text": "x", "filters": {"image_id": {"like": 3}}}, "no field 'like'"),
        ({"text": "x", "fusion": "magic"}, "'fusion' must be one of weighted"),
        ({"text": "x", "face_threshold": 7}, "'face_threshold' must be a number from -1 to 1"),
        ({"text": "x", "offset": -1}, "'offset'"),
        ({"text": "x", "collapse": "colour"}, "no column 'colour'"),
        ({"image_id": 30}, "'image_id' must lie between 0 and 29"),
        ({"text": TEXT, "identities": ["Ada Lovelace"], "fusion": "filter", "indice_name": "bare"}, "holds none"),
        ({"text": "x", "people": {"none": ["Ada Lovelace"]}, "indice_name": "bare"}, "holds none"),
    ],
)
def test_bad_requests_get_a_sentence(world, body, message):
    assert message in world.refused(**body)


def test_flags_of_the_verb(world):
    from open_clip_idplugin.retrieval.search.command import Query
    from open_clip_idplugin.retrieval.search.results_page import render_page
    from open_clip_idplugin.retrieval.search.search_options import request_fields

    where = ("image_id=2..8", "attributes.stratum=dark|bright")
    options = request_fields(
        {"all": ["Ada Lovelace"], "fusion": "filter", "only": False, "offset": 1, "fmr": None}, where
    )
    results = world.ask(**Query("blocks", options=options).to_json(include_images=True))
    assert {result["id"] for result in results} < {3, 5, 7} and len(results) == 2
    page = render_page("blocks", [], results)
    assert page.count('title="Ada Lovelace" style="left:8.33%;top:12.50%;width:16.67%;height:25.00%"') == 2
    assert Query("blocks").to_json(False).keys() == {"text", "faces", "identities", "num_images", "include_images"}
    with pytest.raises(ValueError, match="is no condition"):
        request_fields({}, ("dark",))


def test_removed_images_are_in_no_answer(world, tmp_path):
    from open_clip_idplugin.retrieval.index.remove import index_remove

    shutil.copytree(world.folder, tmp_path / "archive")
    index_remove(str(tmp_path / "archive"), ids="0,6")
    client = create_app({"archive": tmp_path / "archive"}, world.loaded, world.enrolled).test_client()
    ada = {"people": {"all": ["Ada Lovelace"]}, "fusion": "filter", "min_face_fmr": 1e-3}
    found = client.post("/knn-service", json={**ada, "include_images": False}).get_json()
    assert {result["id"] for result in found} == set(range(10)) - {0, 6}
    answer = client.post("/knn-service", json={"people": {"all": [{"image_id": 6}]}})
    assert answer.status_code == 400 and "was removed" in answer.get_json()["message"]
