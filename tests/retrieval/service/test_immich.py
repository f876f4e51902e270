"""Immich's machine-learning protocol, in the forms that its server sends and reads, with a fake upstream on a port."""

import contextlib
import io
import json
import socket
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

import flask
from retrieval_fixtures import FACE_DIM, draw_images, tiny_models  # noqa: F401
from werkzeug.serving import make_server

from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval import serve
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.service import upstream as upstream_module
from open_clip_idplugin.retrieval.service.access import Access
from open_clip_idplugin.retrieval.service.app import create_app
from open_clip_idplugin.retrieval.service.immich import Immich, open_immich, people_in_texts
from open_clip_idplugin.retrieval.service.upstream import Upstream

MODEL = "ViT-B-32__openai"
FACE_MODEL = "test faces"
# Recorded forms of Immich's server (machine-learning.repository.ts), without what differs from one picture to the next.
TEXTUAL = {"clip": {"textual": {"modelName": MODEL, "options": {"language": "en"}}}}
VISUAL = {"clip": {"visual": {"modelName": MODEL}}}
FACES = {
    "facial-recognition": {
        "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
        "recognition": {"modelName": "buffalo_l"},
    }
}
FOUND = {
    "facial-recognition": [
        {"boundingBox": {"x1": 3, "y1": 4, "x2": 30, "y2": 41}, "embedding": "[0.25,-0.5]", "score": 0.91}
    ],
    "imageHeight": 40,
    "imageWidth": 48,
}


@dataclass
class FakeUpstream:
    """Immich's machine-learning service: keeps what it was asked, and answers what it is told to."""

    address: str = ""
    asked: list[tuple[dict, dict]] = field(default_factory=list)  # fields, files
    answer: object = None  # JSON, or a Flask response

    def last(self) -> tuple[dict, dict]:
        return self.asked[-1]


@pytest.fixture
def behind():
    app, fake = flask.Flask(__name__), FakeUpstream(answer={"clip": "[0.5,0.5]"})

    @app.post("/ml/predict")
    def predict():
        files = {name: file.read() for name, file in flask.request.files.items()}
        fake.asked.append((dict(flask.request.form.items()), files))
        return fake.answer() if callable(fake.answer) else fake.answer

    @app.route("/elsewhere", methods=["GET", "POST"])
    def elsewhere():
        raise AssertionError("a redirect was followed")

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}/ml"
    yield fake
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def loaded(tiny_models):  # noqa: F811
    return tiny_models.load()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    gallery = Gallery(tmp_path_factory.mktemp("immich") / "gallery.sqlite")
    gallery.enroll("Ada Lovelace", draw_face(0), FACE_MODEL)
    gallery.edit("Ada Lovelace", word="woman")
    return gallery


@pytest.fixture
def client(loaded, gallery, behind):
    return make_client(loaded, gallery, behind)


def draw_face(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(FACE_DIM).astype(np.float32)


def make_client(loaded, gallery, behind, why_not_ours=None, **options):
    immich = Immich(Upstream(behind.address), MODEL, why_not_ours)
    return create_app({}, loaded, People(gallery), immich=immich, **options).test_client()


def ask(client, entries, image=None, **fields):
    form = {"entries": entries if isinstance(entries, str) else json.dumps(entries), **fields}
    if image is not None:
        form["image"] = (io.BytesIO(image), "blob", "application/octet-stream")
    return client.post("/predict", data=form, content_type="multipart/form-data")


def vector_of(response) -> np.ndarray:
    """What Immich puts into its database: the text itself, which is a vector in pgvector's writing."""
    assert response.status_code == 200, response.text
    assert isinstance(response.get_json()["clip"], str)
    return np.array(json.loads(response.get_json()["clip"]), np.float32)


def test_an_enrolled_name_is_an_identity_token(client, loaded, gallery, behind):
    vector = vector_of(ask(client, TEXTUAL, text="Ada Lovelace feeding a horse"))
    token = QueryEncoder(loaded).encode(["[TOK] feeding a horse"], faces=[gallery.embedding("Ada Lovelace")])[0]
    words = QueryEncoder(loaded).encode(["a woman feeding a horse"])[0]
    np.testing.assert_allclose(vector, token, atol=1e-6)
    assert abs(float(words @ token)) < 0.999 and not behind.asked
    assert ask(client, TEXTUAL, text="x").get_json().keys() == {"clip"}


def test_texts_without_names_are_plain_clip(client, tiny_models):  # noqa: F811
    vector = vector_of(ask(client, TEXTUAL, text="a red bicycle"))
    np.testing.assert_allclose(vector, QueryEncoder(tiny_models.load_plain()).encode(["a red bicycle"])[0], atol=1e-6)


def test_words_where_no_adaptor_takes_the_faces(tiny_models, gallery, behind):  # noqa: F811
    plain = tiny_models.load_plain()
    vector = vector_of(ask(make_client(plain, gallery, behind), TEXTUAL, text="Ada Lovelace feeding a horse"))
    np.testing.assert_allclose(vector, QueryEncoder(plain).encode(["a woman feeding a horse"])[0], atol=1e-6)


def test_words_by_upstream_where_the_vectors_are_of_another_model(client, loaded, gallery, behind):
    other = {"clip": {"textual": {"modelName": "ViT-L-14__openai"}}}
    assert ask(client, other, text="Ada Lovelace feeding a horse").get_json() == {"clip": "[0.5,0.5]"}
    assert behind.last() == ({"entries": json.dumps(other), "text": "a woman feeding a horse"}, {})
    unlike = make_client(loaded, gallery, behind, why_not_ours="it is another tower")
    assert ask(unlike, TEXTUAL, text="a horse and Ada Lovelace").get_json() == {"clip": "[0.5,0.5]"}
    assert behind.last()[0]["text"] == "a horse and a woman"


@pytest.mark.parametrize("name", ["ViT-B-32::openai", "immich-app/ViT-B-32__openai", MODEL])
def test_spellings_of_a_model(client, behind, name):
    assert len(vector_of(ask(client, {"clip": {"textual": {"modelName": name}}}, text="blocks"))) == 24
    assert not behind.asked


@pytest.mark.parametrize(
    "entries, answer", [(VISUAL, {"clip": "[1.0]", "imageHeight": 40, "imageWidth": 48}), (FACES, FOUND)]
)
def test_pictures_go_upstream_as_they_are(client, behind, entries, answer):
    behind.answer = answer
    noise = np.random.default_rng(0).bytes(2 << 20)  # beyond what a form keeps in memory, with every byte in it
    picture = draw_images(1)[0].jpeg + b"\r\n--" + bytes(1 << 20) + noise
    assert ask(client, entries, image=picture).get_json() == answer
    assert behind.last() == ({"entries": json.dumps(entries)}, {"image": picture})


def test_what_newer_versions_send_goes_upstream_too(client, behind):
    behind.answer = {"depth": "far"}
    assert ask(client, {"depth": {"any": {"modelName": "new", "more": 1}}}, assetId="7").get_json() == {"depth": "far"}
    assert behind.last() == ({"entries": '{"depth": {"any": {"modelName": "new", "more": 1}}}', "assetId": "7"}, {})


def test_several_entries_are_answered_together(client, behind):
    behind.answer = {"ocr": {"text": []}}
    tags = {"ocr": {"detection": {"modelName": "PP-OCRv5_mobile", "options": {"maxResolution": 736}}}}
    response = ask(client, {**TEXTUAL, **tags}, text="blocks")
    assert response.get_json()["ocr"] == {"text": []} and len(vector_of(response)) == 24
    assert json.loads(behind.last()[0]["entries"]) == tags and behind.last()[0]["text"] == "blocks"


def test_ping(client):
    response = client.get("/ping")
    assert (response.status_code, response.text) == (200, "pong")


@pytest.mark.parametrize(
    "entries, fields, status, sentence",
    [
        ("", {"text": "x"}, 422, "multipart form"),
        ("{", {"text": "x"}, 422, "multipart form"),
        ("[" * 5000, {"text": "x"}, 422, "multipart form"),
        ([1], {"text": "x"}, 422, "multipart form"),
        ({}, {"text": "x"}, 422, "multipart form"),
        ({"clip": {"textual": {"model": "x"}}}, {"text": "x"}, 422, "multipart form"),
        ({"clip": {"textual": {"modelName": 3}}}, {"text": "x"}, 422, "multipart form"),
        (TEXTUAL, {}, 400, "takes a 'text'"),
        (TEXTUAL, {"text": ""}, 400, "takes a 'text'"),
        (TEXTUAL, {"image": b"x"}, 400, "takes a 'text'"),
        ({"clip": {**TEXTUAL["clip"], **VISUAL["clip"]}}, {"text": "x"}, 400, "a request of its own"),
        (TEXTUAL, {"text": "[TOK] on a beach"}, 400, "holds [TOK]"),
        (TEXTUAL, {"text": "x" * 10_001}, 400, "characters"),
        (VISUAL, {"text": "x", "a b": "y"}, 400, "must have names"),
        ({"clip": {"visual": {"modelName": "x" * 70_000}}}, {"text": "x"}, 422, "multipart form"),
        (VISUAL, {str(number): "x" for number in range(20)}, 413, "too large"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_sentence(client, behind, entries, fields, status, sentence):
    response = ask(client, entries, **fields)
    assert response.status_code == status and sentence in response.get_json()["message"]
    assert not behind.asked


def test_no_form(client):
    assert client.post("/predict", json=TEXTUAL).status_code == 422
    assert client.post("/predict", data={"entries": json.dumps(TEXTUAL), "text": "blocks"}).status_code == 422
    assert client.get("/predict").status_code == 405


@pytest.mark.parametrize(
    "answer, status, sentence",
    [
        (lambda: ({"detail": "Invalid request format."}, 422), 422, "refused this with status 422"),
        (lambda: ("down", 500), 500, "refused this with status 500"),
        (lambda: flask.redirect("/elsewhere", 307), 502, "gave no JSON object"),
        (lambda: "pong", 502, "gave no JSON object"),
        (lambda: [1], 502, "gave no JSON object"),
        (lambda: {"clip": "1" * 3000}, 502, "gave no JSON object"),
        (lambda: flask.Response(_drip(), content_type="application/json"), 504, "took too long"),
    ],
)
def test_upstream_that_fails(client, behind, monkeypatch, answer, status, sentence):
    monkeypatch.setattr(upstream_module, "_MOST_ANSWER", 2000)
    monkeypatch.setattr(upstream_module, "_SECONDS", 1.0)
    behind.answer = answer
    response = ask(client, VISUAL, image=b"picture")
    assert response.status_code == status and sentence in response.get_json()["message"]


def _drip():
    for _ in range(100):
        yield " "
        threading.Event().wait(0.05)


def test_upstream_that_is_not_there(loaded, gallery):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    client = make_client(loaded, gallery, FakeUpstream(f"http://127.0.0.1:{port}"))
    response = ask(client, VISUAL, image=b"picture")
    assert response.status_code == 502 and "cannot be reached" in response.get_json()["message"]
    assert vector_of(ask(client, TEXTUAL, text="blocks")).shape == (24,)


def test_lapsed_consent_ends_in_a_sentence(loaded, behind, tmp_path):
    gallery = Gallery(tmp_path / "gallery.sqlite")
    gallery.enroll("Grace Hopper", draw_face(1), FACE_MODEL)
    gallery.edit("Grace Hopper", consent="given", consent_until="2020-01-01")
    response = ask(make_client(loaded, gallery, behind), TEXTUAL, text="Grace Hopper on a ship")
    assert response.status_code == 400 and "2020-01-01" in response.get_json()["message"]
    assert str(tmp_path) not in response.text


def test_rules_of_access_hold(loaded, gallery, behind):
    locked = make_client(loaded, gallery, behind, access=Access("a-token-of-some-length"))
    assert ask(locked, TEXTUAL, text="blocks").status_code == 401 and locked.get("/ping").status_code == 401
    headers = {"Authorization": "Bearer a-token-of-some-length"}
    form = {"entries": json.dumps(TEXTUAL), "text": "blocks"}
    sent = {"data": form, "content_type": "multipart/form-data"}
    assert locked.post("/predict", **sent, headers=headers).status_code == 200
    assert locked.post("/predict", **sent, headers={**headers, "Host": "elsewhere"}).status_code == 403


def test_without_an_index_nothing_else_is_served(client):
    assert client.post("/knn-service", json={"text": "x"}).status_code == 404
    assert client.get("/healthz").status_code == 200


def test_image_towers_are_compared(loaded, tmp_path):
    miniature, name = load_model("IdCLIP-ViT-miniature", "miniature"), "IdCLIP-ViT-miniature__miniature"
    same = open_immich("http://127.0.0.1:3003", name, miniature)
    assert same.why_not_ours is None and same.model == name
    nobody = People(Gallery(tmp_path / "gallery.sqlite"))
    assert "become words, because the adaptor" in people_in_texts(same, miniature, nobody)
    other = open_immich("http://127.0.0.1:3003", name, loaded)
    assert "is not that of Immich's" in other.why_not_ours
    assert "upstream encodes them" in people_in_texts(other, loaded, nobody)
    assert people_in_texts(Immich(same.upstream, name), loaded, nobody) == "enrolled names become identity tokens"


@pytest.mark.parametrize(
    "address, model, sentence",
    [
        (None, MODEL, "--upstream must be the address"),
        ("ftp://127.0.0.1", MODEL, "--upstream must be the address"),
        ("http://user:word@127.0.0.1", MODEL, "--upstream must be the address"),
        ("http://127.0.0.1:x", MODEL, "--upstream must be the address"),
        ("http://127.0.0.1:3003", "XLM-Roberta-Large-Vit-L-14", "--immich_model: open_clip has no"),
        ("http://127.0.0.1:3003", "ViT-B-32__openai", "could not be downloaded"),
    ],
)
def test_flags_are_checked_at_the_start(loaded, address, model, sentence):
    with pytest.raises(IdClipError, match=sentence):
        open_immich(address, model, loaded)


def test_served_without_an_index(behind, gallery, capsys):
    class Setup:
        def load(self):
            return load_model("IdCLIP-ViT-miniature", "miniature"), People(gallery)

    app = serve.open_app({}, Setup(), immich=(behind.address, "IdCLIP-ViT-miniature__miniature"))
    assert "Immich's texts for IdCLIP-ViT-miniature__miniature: enrolled names become words" in capsys.readouterr().out
    entries = {"clip": {"textual": {"modelName": "IdCLIP-ViT-miniature__miniature"}}}
    assert ask(app.test_client(), entries, text="Ada Lovelace").status_code == 200
