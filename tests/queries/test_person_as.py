"""People as tokens, as words, or both: with a plain CLIP, an untrained adaptor, and the faces of another model."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from face_index_fixtures import unit
from hybrid_fixtures import ADA, GRACE, MODEL, TEXT, World, ada_similarities, best_first
from retrieval_fixtures import FACE_DIM, IDENTITY, tiny_models  # noqa: F401

from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.queries.person_as import choose, why_no_token
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.search.command import Query, encode_query, search
from open_clip_idplugin.retrieval.service.app import create_app

WORDS = "a person beside coloured blocks"


@pytest.fixture(scope="module")
def world(tiny_models, tmp_path_factory):  # noqa: F811
    return World(tmp_path_factory.mktemp("hybrid"), tiny_models)


@pytest.fixture(scope="module")
def models(tiny_models, world):  # noqa: F811
    """The same towers: plain, with an adaptor of random numbers, and with one that was trained for other faces."""
    return {
        "plain": tiny_models.load_plain(),
        "untrained": load_model(IDENTITY, str(tiny_models.plain)),
        "other faces": replace(world.loaded, face_model="other faces"),
        "trained": replace(world.loaded, face_model=MODEL),
    }


class Asked:
    """The world served with another model."""

    def __init__(self, world, loaded):
        indices = {"archive": world.folder, "bare": world.folder.parent / "bare"}
        self.client = create_app(indices, loaded, world.enrolled).test_client()

    def ask(self, **body):
        response = self.client.post("/knn-service", json={"include_images": False, **body})
        assert response.status_code == 200, response.get_json()
        return response.get_json()

    def refused(self, **body):
        response = self.client.post("/knn-service", json=body)
        assert response.status_code == 400, response.get_json()
        return response.get_json()["message"]

    def info(self):
        return {index["name"]: index["person_as"] for index in self.client.get("/service-info").get_json()["indices"]}


@pytest.fixture(scope="module", params=["plain", "untrained", "other faces"])
def tokenless(request, world, models):
    return Asked(world, models[request.param])


@pytest.fixture(scope="module")
def plain(world, models):
    return Asked(world, models["plain"])


@pytest.fixture(scope="module")
def trained(world, models):
    return Asked(world, models["trained"])


def words_vector(world, text):
    return QueryEncoder(world.loaded).encode([text])[0]


def late_fusion(world, vector, weight=0.5):
    return best_first(world.vectors @ vector + weight * ada_similarities(world))


def test_words_and_faces_rank_where_no_token_can_be_made(world, tokenless):
    expected = late_fusion(world, words_vector(world, WORDS))
    for body in (
        {"text": TEXT, "identities": ["Ada Lovelace"]},
        {"text": "Ada Lovelace beside coloured blocks"},
        {"text": "beside coloured blocks", "people": {"all": ["Ada Lovelace"]}},
        {"text": WORDS, "people": {"all": ["Ada Lovelace"]}},
        {"text": TEXT, "faces": [ADA.tolist()]},
    ):
        results = tokenless.ask(**body)
        assert [result["id"] for result in results] == expected
        assert {result["person_as"] for result in results} == {"words"}
        assert f"'{WORDS}'" in results[0]["why"]


def test_a_trained_adaptor_of_these_faces_makes_the_token(world, trained):
    results = trained.ask(text=TEXT, identities=["Ada Lovelace"])
    assert [result["id"] for result in results] == late_fusion(world, world.query(TEXT, ADA))
    assert {result["person_as"] for result in results} == {"token"}
    assert trained.ask(text=TEXT, identities=["Ada Lovelace"], indice_name="bare")[0]["person_as"] == "token"
    assert "person_as" not in trained.ask(text="blocks", negative_text="red")[0]


def test_words_and_both_can_be_asked_for(world, trained):
    word, token = words_vector(world, WORDS), world.query(TEXT, ADA)
    for person_as, vector in (("words", word), ("token", token), ("both", unit(word + token))):
        results = trained.ask(text=TEXT, identities=["Ada Lovelace"], person_as=person_as, face_weight=0.1)
        assert [result["id"] for result in results] == late_fusion(world, vector, 0.1)
        assert results[0]["similarity"] == pytest.approx(world.vectors[results[0]["id"]] @ vector, abs=1e-5)
        assert results[0]["person_as"] == person_as
    both = trained.ask(text=TEXT, identities=["Ada Lovelace"], person_as="both", indice_name="bare")
    expected = best_first(world.vectors @ unit(word + token))
    assert [result["id"] for result in both] == expected and both[0]["person_as"] == "both"


def test_several_people_any_and_none(world, plain):
    results = plain.ask(text="[TOK] beside [TOK:2]", identities=["Ada Lovelace", "Grace Hopper"])
    assert {result["id"] for result in results[:5]} == set(range(5, 10))
    assert "'a person beside another person'" in results[0]["why"]
    results = plain.ask(text="beside blocks", people={"any": ["Ada Lovelace", "Grace Hopper"], "none": []})
    assert {result["id"] for result in results[:15]} == set(range(15))
    results = plain.ask(text="blocks", people={"none": ["Ada Lovelace"]})
    assert [result["id"] for result in results] == [
        row for row in best_first(world.vectors @ words_vector(world, "blocks")) if row >= 10
    ]
    alone = plain.ask(people={"all": ["Ada Lovelace"]})
    prompts = ["An image with a person.", "An image with a person.", "A person.", "A picture of a person."]
    prompts += ["A person in the image.", "There is a person in the picture."]
    vector = QueryEncoder(world.loaded).encode_ensemble([prompts])[0]
    assert [result["id"] for result in alone] == late_fusion(world, vector)


def test_enrolled_people_have_words_of_their_own(world, models):
    gallery = Gallery(world.folder.parent / "words.sqlite")
    gallery.enroll("Ada Lovelace", ADA, MODEL, details={"word": "woman"})
    gallery.enroll("Grace Hopper", GRACE, MODEL, details={"word": "an old woman"})
    client = create_app({"archive": world.folder}, models["plain"], People(gallery)).test_client()

    def ask(**body):
        return client.post("/knn-service", json={"include_images": False, **body}).get_json()

    results = ask(text="Grace Hopper hugs ADA  lovelace")
    assert "'an old woman hugs a woman'" in results[0]["why"] and results[0]["id"] in range(5, 10)
    vector = words_vector(world, "a woman beside coloured blocks")
    assert [result["id"] for result in ask(text="Ada Lovelace beside coloured blocks")] == late_fusion(world, vector)
    one_of = ask(text="beside blocks", people={"any": ["Ada Lovelace", "Grace Hopper"]})
    written = {
        name: {row["why"].split("'")[1] for row in one_of if row["matched"][0]["name"] == name}
        for name in gallery.names()
    }
    assert written == {"Ada Lovelace": {"a woman beside blocks"}, "Grace Hopper": {"an old woman beside blocks"}}
    gallery.edit("Ada Lovelace", word="")
    assert "'a person hugs an old woman'" in ask(text="Ada Lovelace hugs Grace Hopper")[0]["why"]


def test_a_person_is_never_ignored(plain, trained):
    named, in_text = {"identities": ["Ada Lovelace"], "text": TEXT}, {"text": "Ada Lovelace, blocks"}
    for ask in (named, in_text, {"people": {"all": ["Ada Lovelace"]}}):
        assert "plain CLIP" in plain.refused(**ask, indice_name="bare")
        assert "idclip index_faces" in plain.refused(**ask, indice_name="bare")
        assert "'fusion'" in plain.refused(**ask, fusion="none")
    like = {"image_id": 3, "people": {"all": ["Ada Lovelace"]}}
    assert "says nothing of the people" in trained.refused(**like, indice_name="bare")
    assert trained.ask(**like)
    assert plain.ask(text="Ada Lovelace, blocks", find_names=False, indice_name="bare")


def test_a_token_that_cannot_be_made_is_refused(world, models):
    reasons = {"plain": "is a plain CLIP", "untrained": "was not trained", "other faces": "for faces of 'other faces'"}
    for name, reason in reasons.items():
        for person_as in ("token", "both"):
            message = Asked(world, models[name]).refused(text=TEXT, identities=["Ada Lovelace"], person_as=person_as)
            assert reason in message and "ask with 'words' or 'auto'" in message
    assert "'person_as' must be one of" in Asked(world, models["plain"]).refused(text="x", person_as="name")


def test_placeholders_and_people_must_fit(plain, trained):
    for served in (plain, trained):
        assert "[TOK]" in served.refused(text=TEXT)
        assert "[TOK]" in served.refused(text="blocks", negative_text=TEXT)
        assert "[TOK:2]" in served.refused(text="[TOK] and [TOK:2]", identities=["Ada Lovelace"])
        assert "no [TOK]" in served.refused(text="nobody", identities=["Ada Lovelace"])
        assert "[TOK]" in served.refused(text=TEXT, indice_name="bare")


def test_service_info_says_what_is_used(trained, tokenless):
    assert trained.info()["archive"] == {"auto": "token", "finds_people": True, "note": None}
    info = tokenless.info()
    assert info["archive"]["auto"] == "words" and info["archive"]["finds_people"]
    assert info["archive"]["note"].startswith("People are words in the text, because ")
    assert not info["bare"]["finds_people"] and "index_faces" in info["bare"]["note"]


def test_people_of_another_face_model_than_the_index_are_announced(world, models, tmp_path):
    gallery = Gallery(tmp_path / "people.sqlite")
    gallery.enroll("Ada Lovelace", ADA, "elsewhere")
    client = create_app({"archive": world.folder}, models["trained"], People(gallery)).test_client()
    told = client.get("/service-info").get_json()["indices"][0]["person_as"]
    assert not told["finds_people"] and f"'{MODEL}'" in told["note"] and "'elsewhere'" in told["note"]
    answer = client.post("/knn-service", json={"text": TEXT, "identities": ["Ada Lovelace"]})
    assert answer.status_code == 400 and "cannot be compared" in answer.get_json()["message"]


def test_faces_of_any_size_are_compared(world, models, tmp_path):
    """An adaptor of 16 numbers beside faces of 5: only a token would need them to be equal."""
    import shutil

    from face_index_fixtures import write_face_table

    from open_clip_idplugin.retrieval.face_index.build import add_faces

    shutil.copytree(world.folder.parent / "bare", tmp_path / "small")
    faces = {key: [unit(np.eye(5)[row % 5])] for row, key in enumerate(world.keys)}
    add_faces(tmp_path / "small", write_face_table(tmp_path / "table", faces, "small faces", 5))
    gallery = Gallery(tmp_path / "people.sqlite")
    gallery.enroll("Ada", np.eye(5)[2], "small faces")
    for name in ("plain", "trained"):
        client = create_app({"small": tmp_path / "small"}, models[name], People(gallery)).test_client()
        asked = {"text": TEXT, "identities": ["Ada"], "include_images": False}
        answer = client.post("/knn-service", json=asked).get_json()
        assert {result["id"] % 5 for result in answer[:6]} == {2} and answer[0]["person_as"] == "words"
        refused = client.post("/knn-service", json={"text": TEXT, "faces": [[1.0] * FACE_DIM]}).get_json()
        assert "has 16 numbers" in refused["message"]
    untold = replace(models["trained"], face_model=None)
    assert "takes 16 numbers a face, and these have 5" in why_no_token(untold, "small faces", 5)


def test_the_reason_is_one_clause(models):
    assert why_no_token(models["trained"], MODEL, FACE_DIM) is None and why_no_token(models["trained"]) is None
    assert choose("auto", None) == "token" and choose("auto", "no adaptor") == "words" == choose("words", "no adaptor")
    with pytest.raises(IdClipError, match="but no adaptor"):
        choose("both", "no adaptor")


def test_search_takes_a_plain_model(world, tiny_models, capsys):  # noqa: F811
    gallery = str(world.enrolled.gallery.path)
    setup = LocalModel(models_name := "ViT-retrieval-tiny", str(tiny_models.plain), gallery)
    search(TEXT, str(world.folder), model=models_name, checkpoint=str(tiny_models.plain), gallery=gallery,
           identities="Ada Lovelace", num_images=3, person_as="words")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    first = world.keys[late_fusion(world, words_vector(world, WORDS))[0]]
    assert first in lines[0] and WORDS in lines[1]
    np.testing.assert_allclose(encode_query(Query("blocks"), setup), words_vector(world, "blocks"), atol=1e-6)
    with pytest.raises(IdClipError, match=r"only an identity token can stand for a person, but .* plain CLIP"):
        encode_query(Query(TEXT, identities=("Ada Lovelace",)), setup)
    with pytest.raises(IdClipError, match="TOK"):
        encode_query(Query(TEXT), setup)
