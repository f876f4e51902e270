"""The addresses below /people/: who is enrolled and who is in a picture, enrolling, renaming, forgetting, and who may."""

import base64
import gc
import io
import json
import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("clip_retrieval")

from page_fixtures import ADA, GRACE, MODEL, STRANGER, embedding_of, page_world, photo_of  # noqa: F401
from retrieval_fixtures import tiny_models  # noqa: F401

from open_clip_idplugin.gallery import Gallery, store
from open_clip_idplugin.retrieval.ranking.query_parts import Persons
from open_clip_idplugin.retrieval.ranking.query_people import AskedPeople, EnrolledPerson
from open_clip_idplugin.retrieval.service.access import Access
from open_clip_idplugin.retrieval.service.limits import Limits

TOKEN = "a-token-of-some-length"


class Asking:
    """A client of one app, which looks through every answer for embeddings."""

    def __init__(self, app, gallery):
        self.client, self.gallery = app.test_client(), gallery

    def ask(self, address, status=200, **body):
        response = self.client.post(f"/people/{address}", json=body)
        assert response.status_code == status, response.get_json()
        assert not long_lists(response.get_json())
        return response.get_json()

    def refused(self, address, **body):
        message = self.ask(address, 400, **body)["message"]
        assert str(self.gallery.path.parent) not in message and "\n" not in message
        return message

    def search(self, status=200, **body):
        response = self.client.post("/knn-service", json={"include_images": False, "num_images": 5, **body})
        assert response.status_code == status, response.get_json()
        return response.get_json()


def long_lists(value) -> bool:
    """Whether an answer holds more numbers in a row than a box has."""
    if isinstance(value, dict):
        return any(map(long_lists, value.values()))
    if isinstance(value, list):
        numbers = sum(isinstance(entry, float) for entry in value)
        return numbers > 4 or any(map(long_lists, value))
    return False


def photo(*hues) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(photo_of(*hues)).decode()


@pytest.fixture
def service(page_world, request):  # noqa: F811
    gallery = page_world.gallery(request.node.name.replace("/", "_"), Ada_Lovelace=ADA, Grace_Hopper=GRACE)
    return Asking(page_world.app(gallery), gallery)


def test_list(service):
    service.gallery.add_alias("Grace Hopper", "Amazing Grace")
    service.gallery.edit("Ada Lovelace", consent="form 7", consent_until="2001-01-01")
    answer = service.ask("list")
    assert [person["name"] for person in answer["people"]] == ["Ada Lovelace", "Grace Hopper"]
    ada = answer["people"][0]
    assert (ada["photos"], ada["consent"], ada["expired"]) == (1, "form 7", True)
    assert base64.b64decode(ada["image"]) == service.gallery.cover("Ada Lovelace")
    (found,) = service.ask("list", find="AMAZING", include_images=False)["people"]
    assert found["name"] == "Grace Hopper" and "image" not in found
    second = service.ask("list", offset=1, count=1)
    assert [person["name"] for person in second["people"]] == ["Grace Hopper"] and second["total"] == 2
    assert service.ask("list", find="nobody")["total"] == 0


def test_faces_of_an_image(service):
    both = service.ask("in-image", image_id=7)["faces"]
    assert [face["name"] for face in both] == ["Ada Lovelace", "Grace Hopper"]
    assert all(face["similarity"] > 0.99 and len(face["box_relative"]) == 4 for face in both)
    (stranger,) = service.ask("in-image", image_id=20)["faces"]
    assert "name" not in stranger
    assert service.ask("in-image", image_id=27)["faces"] == []
    bare = service.ask("in-image", image_id=7, indice_name="bare")
    assert bare == {"id": 7, "index_has_faces": False, "faces": []}


def test_one_person_is_one_face_of_a_picture(service):
    twins = service.ask("in-photo", photo=photo(ADA, ADA + 0.01))["faces"]
    assert [face.get("name") for face in twins] == ["Ada Lovelace", None]
    low = service.ask("in-photo", photo=photo(ADA, STRANGER), same_face=-1)["faces"]
    assert {face["name"] for face in low} == {"Ada Lovelace", "Grace Hopper"}


def test_faces_of_a_photo(service):
    answer = service.ask("in-photo", photo=photo(GRACE, STRANGER))
    assert (answer["width"], answer["height"]) == (128, 128)
    assert [face.get("name") for face in answer["faces"]] == ["Grace Hopper", None]
    assert answer["faces"][0]["box_relative"] == [0.25, 0.25, 0.5, 0.5]
    assert service.ask("in-photo", photo=photo())["faces"] == []
    assert "not a picture" in service.refused("in-photo", photo="aGVsbG8=")


def test_naming_a_face_of_the_index(service):
    answer = service.ask(
        "enroll", name="The Stranger", image_id=20, face=0, consent="by word", consent_date="2026-01-02", word="man"
    )
    assert answer["alike"] == [] and (answer["person"]["consent"], answer["person"]["word"]) == ("by word", "man")
    assert Image.open(io.BytesIO(base64.b64decode(answer["person"]["image"]))).size == (112, 112)
    np.testing.assert_allclose(service.gallery.embedding("The Stranger"), embedding_of(STRANGER), atol=1e-6)
    assert service.ask("in-image", image_id=16)["faces"][0]["name"] == "The Stranger"
    found = service.search(people={"all": ["the stranger"]}, offset=0)
    assert {result["id"] for result in found} <= set(range(15, 25))
    again = service.ask("enroll", name="the STRANGER", image_id=21, face=0)
    assert again["person"]["name"] == "The Stranger" and again["person"]["photos"] == 1  # the same embedding


def test_enrolling_from_a_photo(service):
    assert "shows 2 faces" in service.refused("enroll", name="X", photo=photo(ADA, STRANGER))
    answer = service.ask("enroll", name="X", photo=photo(ADA, STRANGER), face=1, label="x.jpg")
    assert answer["alike"] == [] and service.gallery.photos("X")[0].label == "x.jpg"
    alike = service.ask("enroll", name="Ada's Double", photo=photo(ADA))["alike"]
    assert [other["name"] for other in alike] == ["Ada Lovelace"]


def test_forgetting(service):
    needle = service.gallery.embedding("Ada Lovelace").astype("<f4").tobytes()[:32]
    assert needle in service.gallery.path.read_bytes()
    assert service.search(text="ada lovelace on a hill", offset=0)[0]["matched"]
    gone = service.ask("forget", name="ada lovelace")
    assert gone == {"name": "Ada Lovelace", "photos": 1, "crops": 1, "aliases": 0, "clean": True}
    assert needle not in service.gallery.path.read_bytes()
    assert "nobody named" in service.search(400, text="[TOK]", identities=["Ada Lovelace"])["message"]
    assert "matched" not in service.search(text="ada lovelace on a hill", offset=0)[0]
    assert "name" not in service.ask("in-image", image_id=0)["faces"][0]
    assert "nobody named" in service.refused("forget", name="Ada Lovelace")


def test_renaming(service):
    assert service.ask("rename", name="Ada Lovelace", new_name="Ada King")["person"]["name"] == "Ada King"
    assert service.search(people={"all": ["Ada King"]})
    assert "already enrolled" in service.refused("rename", name="Ada King", new_name="grace hopper")


def test_a_person_of_the_text_who_is_chosen_too_is_one_person(service):
    text = "Ada Lovelace on a hill"
    assert service.search(text=text, people={"all": ["ada lovelace"]}) == service.search(text=text)
    both = service.search(text=text, people={"all": ["Ada Lovelace", "Grace Hopper"]})
    assert [entry["name"] for entry in both[0]["matched"]] == ["Ada Lovelace", "Grace Hopper"]


@pytest.mark.parametrize(
    ("address", "body", "message"),
    [
        ("list", {"count": 501}, "at most 500"),
        ("list", {"everything": True}, "no field 'everything'"),
        ("in-image", {}, "'image_id'"),
        ("in-image", {"image_id": 30}, "between 0 and 29"),
        ("in-image", {"image_id": 1, "indice_name": "other"}, "'indice_name'"),
        ("in-image", {"image_id": 1, "same_face": 2}, "'same_face'"),
        ("in-photo", {}, "'photo'"),
        ("enroll", {"name": "X"}, "one of 'photo' and 'image_id'"),
        ("enroll", {"name": "X", "image_id": 1, "photo": "x"}, "one of 'photo' and 'image_id'"),
        ("enroll", {"image_id": 1}, "'name'"),
        ("enroll", {"name": "\u0007", "image_id": 1}, "cannot be a person's name"),
        ("enroll", {"name": "x" * 201, "image_id": 1}, "201 characters"),
        ("enroll", {"name": "X", "image_id": 0, "face": 5}, "1 faces in this index"),
        ("enroll", {"name": "X", "image_id": 0, "indice_name": "bare"}, "holds no faces"),
        ("enroll", {"name": "X", "image_id": 0, "consent_until": "soon"}, "is no date"),
        ("enroll", {"name": "X", "image_id": 0, "embedding": [1]}, "no field 'embedding'"),
        ("enroll", {"name": "X", "photo": photo(ADA), "face": 3}, "1 faces were found"),
        ("enroll", {"name": "X", "photo": photo()}, "no face was found"),
        ("rename", {"name": "Ada Lovelace"}, "'new_name'"),
        ("forget", {"name": "Nobody"}, "nobody named"),
        ("forget", {}, "'name'"),
    ],
)
def test_bad_requests_get_a_sentence(page_world, address, body, message):  # noqa: F811
    gallery = page_world.gallery("bad", Ada_Lovelace=ADA)
    service = Asking(page_world.app(gallery), gallery)
    assert message in service.refused(address, **body)
    assert gallery.names() == ["Ada Lovelace"]


def test_services_without_gallery_or_face_model(page_world):  # noqa: F811
    empty = Gallery(page_world.folder / "none" / "gallery.sqlite")
    service = Asking(page_world.app(empty, engine=False), empty)
    assert service.ask("list") == {"total": 0, "people": []}
    assert "nobody is enrolled yet" in service.refused("forget", name="X")
    assert "without a face model" in service.refused("in-photo", photo=photo(ADA))
    assert service.ask("enroll", name="First", image_id=0)["person"]["photos"] == 1
    assert empty.path.stat().st_mode & 0o777 == 0o600
    info = page_world.app(None).test_client().get("/service-info").get_json()
    assert not info["people"]["may_edit"] and not info["people"]["has_gallery"]
    other = page_world.gallery("other model")
    other.enroll("Somebody", np.ones(16), "another model")
    assert "cannot be compared" in Asking(page_world.app(other, engine=False), other).refused(
        "enroll", name="X", image_id=0
    )


class TestWhoMay:
    @pytest.mark.parametrize(
        ("access", "allowed"),
        [
            (Access(), True),
            (Access(read_only_people=True), False),
            (Access(host_names=frozenset({"localhost", "archive.example"})), False),
            (Access(TOKEN, frozenset({"archive.example"})), True),
            (Access(TOKEN, None), True),
            (Access(TOKEN, read_only_people=True), False),
        ],
    )
    def test_edit(self, page_world, access, allowed):  # noqa: F811
        gallery = page_world.gallery("who may")
        client = page_world.app(gallery, access=access).test_client()
        host = "archive.example" if access.host_names and "archive.example" in access.host_names else "localhost"
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": host}
        assert client.get("/service-info", headers=headers).get_json()["people"]["may_edit"] == allowed
        response = client.post("/people/enroll", json={"name": "X", "image_id": 0}, headers=headers)
        assert response.status_code == (200 if allowed else 403)
        assert client.post("/people/list", json={}, headers=headers).status_code == 200
        if access.token:
            for name in ("list", "in-image", "in-photo", "enroll", "rename", "forget"):
                assert client.post(f"/people/{name}", json={}, headers={"Host": host}).status_code == 401

    def test_only_own_pages(self, page_world):  # noqa: F811
        gallery = page_world.gallery("own pages", Ada_Lovelace=ADA)
        client = page_world.app(gallery, access=Access(allow_cors=True)).test_client()
        foreign = {"Origin": "http://evil.example"}
        for name in ("list", "forget"):
            response = client.post(f"/people/{name}", json={"name": "Ada Lovelace"}, headers=foreign)
            assert response.status_code == 403 and "Access-Control-Allow-Origin" not in response.headers
        response = client.options("/people/forget", headers={**foreign, "Access-Control-Request-Method": "POST"})
        assert "Access-Control-Allow-Origin" not in response.headers
        assert client.post("/knn-service", json={"text": "x"}, headers=foreign).status_code == 200
        body = json.dumps({"name": "Ada Lovelace"})
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            assert client.post("/people/forget", data=body, content_type=kind).status_code == 415
        assert client.get("/people/forget").status_code == 405
        assert gallery.names() == ["Ada Lovelace"]

    def test_size(self, page_world):  # noqa: F811
        gallery = page_world.gallery("size")
        service = Asking(page_world.app(gallery, limits=Limits(request_bytes=9000, picture_pixels=9000)), gallery)
        for name in ("in-photo", "enroll"):
            assert "more than 0.009 million pixels" in service.refused(
                name, photo=photo(ADA), **({"name": "X"} if name == "enroll" else {})
            )
            assert service.client.post(f"/people/{name}", json={"photo": "x" * 10_000}).status_code == 413


def test_nothing_of_people_is_logged(service, caplog):
    with caplog.at_level(logging.DEBUG):
        service.ask("enroll", name="Secret Person", photo=photo(STRANGER))
        service.ask("in-image", image_id=16)
        service.ask("forget", name="Secret Person")
    assert "Secret Person" not in caplog.text


def test_metrics(service):
    service.ask("list")
    text = service.client.get("/metrics").get_data(as_text=True)
    assert 'idclip_answers_total{endpoint="people-list",status="200"}' in text


def test_people_who_come_and_go_while_others_ask(page_world):  # noqa: F811
    """Every answer is about the person who was asked for, or a sentence that nobody is called so."""
    gallery = page_world.gallery("come_and_go", Grace_Hopper=GRACE)
    app = page_world.app(gallery)
    rows = {"Ada Lovelace": range(10), "Mary Stranger": range(15, 25), "Grace Hopper": range(5, 15)}
    where = {"Ada Lovelace": 0, "Mary Stranger": 20}  # an image of each alone
    seen, end = Counter(), time.monotonic() + 3

    def ask(address, **body):
        response = app.test_client().post(address, json=body)
        return response.status_code, response.get_json()

    def come_and_go():
        """The two are never there together: each could take the other's place."""
        while time.monotonic() < end:
            for name, image in where.items():
                assert ask("/people/enroll", name=name, image_id=image, face=0)[0] == 200
                time.sleep(0.02)
                status, answer = ask("/people/rename", name=name, new_name=f"{name} II")
                assert (status, answer["person"]["name"]) == (200, f"{name} II")
                assert ask("/people/forget", name=f"{name} II")[1]["clean"]
            seen["came and went"] += 1

    def search(name, body):
        while time.monotonic() < end:
            body = {**body, "num_images": 3, "include_images": False, "fusion": "filter"}
            status, answer = ask("/knn-service", **body)
            if status == 200:
                assert all(result["id"] in rows[name] for result in answer), (name, answer)
                assert all(result["matched"][0]["face_similarity"] > 0.99 for result in answer)
                seen[name] += 1
            else:
                assert (status, f"nobody named '{name}'" in answer["message"]) == (400, True), answer
                seen["nobody"] += 1

    def look():
        while time.monotonic() < end:
            status, answer = ask("/people/list")
            assert status == 200 and all(person["photos"] == 1 for person in answer["people"])
            status, answer = ask("/people/in-image", image_id=20)
            assert status == 200 and answer["faces"][0].get("name", "Mary Stranger").startswith("Mary Stranger")
            seen["looked"] += 1

    with ThreadPoolExecutor(5) as threads:
        work = [threads.submit(come_and_go), threads.submit(look)]
        work += [threads.submit(search, name, {"people": {"all": [name]}}) for name in where]
        work.append(threads.submit(search, "Grace Hopper", {"text": "Grace Hopper beside a horse"}))
        for done in work:
            done.result()
    expected = {*rows, "came and went", "nobody", "looked"}
    assert all(seen[what] for what in expected), seen


@pytest.mark.parametrize("step", [(Gallery, "names_and_aliases"), (store, "find_person")], ids=lambda step: step[1])
def test_who_is_erased_during_a_request_is_still_who_was_asked_for(service, monkeypatch, step):
    read, replacing = getattr(*step), []

    def replace_ada():
        service.gallery.forget("Ada Lovelace")
        service.gallery.enroll("Mary Stranger", embedding_of(STRANGER), MODEL)

    def read_and_wait(*asked):
        found = read(*asked)
        if not replacing:
            replacing.append(threading.Thread(target=replace_ada))
            replacing[0].start()
            replacing[0].join(0.3)
        return found

    asked = {"text": "Ada Lovelace with Grace Hopper", "fusion": "filter"}
    monkeypatch.setattr(*step, read_and_wait)
    found = service.search(**asked)
    replacing[0].join()
    assert {result["id"] for result in found} == set(range(5, 10)), found  # who shows the two
    assert [match["name"] for match in found[0]["matched"]] == ["Ada Lovelace", "Grace Hopper"]
    (mary,) = service.search(people={"all": ["Mary Stranger"]}, num_images=1)
    assert mary["id"] in range(15, 25)
    assert "nobody named 'Ada Lovelace'" in service.search(400, people={"all": ["Ada Lovelace"]})["message"]


def test_nobody_is_kept_between_requests(service):
    service.search(text="Ada Lovelace with Grace Hopper", fusion="filter")
    service.search(text="[TOK] on a horse", identities=["Ada Lovelace"])
    service.ask("in-image", image_id=7)
    service.ask("forget", name="Ada Lovelace")
    gc.collect()
    kept = [value for value in gc.get_objects() if type(value) in (EnrolledPerson, AskedPeople, Persons)]
    assert not [value for value in kept if not isinstance(value, Persons) or len(value)]
