"""A closed service: tokens, names, origins, limits, addresses in requests, errors without a word too many, and its port."""

import base64
import contextlib
import http.server
import io
import json
import logging
import shutil
import socket
import sqlite3
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("clip_retrieval")

import flask
from retrieval_fixtures import FACE_DIM, draw_images, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.pictures import bounded_decoding
from open_clip_idplugin.pictures.bounded_decoding import Decoders
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.embed import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.service import access, answers, login, picture_urls
from open_clip_idplugin.retrieval.service.access import Access
from open_clip_idplugin.retrieval.service.app import create_app
from open_clip_idplugin.retrieval.service.knn_service import IdentityKnnService
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.web_server import ReadinessGate, WebServer

TOKEN = "a-token-of-some-length"
QUERY = json.dumps({"text": "blocks", "num_images": 2})


@pytest.fixture(scope="module")
def make_client(tiny_models, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("access")
    (folder / "shards").mkdir()
    write_shard(folder / "shards" / "0.tar", draw_images(12))
    index.build_index(
        find_images(str(folder / "shards")), tiny_models.load_plain(), folder / "archive", EmbedOptions(8, 0)
    )
    loaded = tiny_models.load()

    def make(**options):
        app = create_app({"archive": folder / "archive"}, loaded, People(), **options)
        app.config["FOLDER"] = folder / "archive"
        return app.test_client()

    return make


@pytest.fixture(scope="module")
def locked(make_client):
    return make_client(access=Access(TOKEN))


@pytest.fixture
def open_client(make_client):
    return make_client()


def wait_for(found, seconds=30):
    """What `found` returns as soon as it is not empty."""
    for _ in range(seconds * 100):
        if result := found():
            return result
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


class TestToken:
    def test_nothing_without_it(self, locked):
        for method, address in [("POST", "/knn-service"), ("POST", "/metadata"), ("GET", "/metrics")]:
            response = locked.open(address, method=method, data=QUERY)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        assert locked.get("/indices-list", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert locked.get("/nowhere").status_code == 401
        assert locked.get("/healthz").get_json() == {"status": "ready"}

    def test_header(self, locked):
        for scheme in ("Bearer", "bearer"):
            answer = locked.post("/knn-service", data=QUERY, headers={"Authorization": f"{scheme} {TOKEN}"})
            assert len(answer.get_json()) == 2

    def test_login(self, make_client):
        client = make_client(access=Access(TOKEN))
        assert client.get("/").headers["Location"] == "/login"
        assert "<form" in client.get("/login").get_data(as_text=True)
        assert client.post("/login", data={"token": "wrong"}).status_code == 401
        cookie = client.post("/login", data={"token": TOKEN}).headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert client.post("/knn-service", data=QUERY).status_code == 200
        value = client.get_cookie(login.COOKIE).value
        session, time, signature = value.split(".")
        for changed in (
            f"{session}.{time}",
            f"{session}.{signature}",
            f"{'0' * 32}.{time}.{signature}",
            f"{session}.{time[:-1]}{'A' if time[-1] != 'A' else 'B'}.{signature}",
        ):
            client.set_cookie(login.COOKIE, changed)
            assert client.post("/knn-service", data=QUERY).status_code == 401
        for changed in (value + "x", "9" * 11 + value[10:], "", "1.", "..", f"-1.{value}", "²" + value):
            client.set_cookie(login.COOKIE, changed)
            assert client.post("/knn-service", data=QUERY).status_code == 401

    def test_an_old_session_ends(self, make_client, monkeypatch):
        client = make_client(access=Access(TOKEN))
        client.post("/login", data={"token": TOKEN})
        now = login.time.time()
        monkeypatch.setattr(login.time, "time", lambda: now + 13 * 3600)
        assert client.post("/knn-service", data=QUERY).status_code == 401

    def test_logging_out_ends_the_session_and_no_other(self, make_client):
        client = make_client(access=Access(TOKEN))
        cookies = []
        for _ in range(2):
            client.post("/login", data={"token": TOKEN})
            cookies.append(client.get_cookie(login.COOKIE).value)
        assert client.post("/logout").status_code == 303
        for cookie, status in zip(cookies, (200, 401), strict=True):
            client.set_cookie(login.COOKIE, cookie)  # as somebody who copied it would
            assert client.post("/knn-service", data=QUERY).status_code == status
        restarted = make_client(access=Access(TOKEN))
        restarted.set_cookie(login.COOKIE, cookies[0])
        assert restarted.post("/knn-service", data=QUERY).status_code == 401

    def test_wrong_tokens_in_headers_are_limited_too(self, make_client):
        client = make_client(access=Access(TOKEN))

        def status(token, address="192.0.2.7"):
            headers = {"Authorization": f"Bearer {token}"}
            return client.get("/indices-list", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code

        assert status(TOKEN) == 200
        assert [status(f"wrong {number}") for number in range(11)] == [401] * 10 + [429]
        assert status(TOKEN) == 429  # else a guesser would learn which one is right
        assert status(TOKEN, "192.0.2.8") == 200
        answer = client.post("/login", data={"token": TOKEN}, environ_base={"REMOTE_ADDR": "192.0.2.7"})
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0

    def test_clients_behind_a_proxy(self, make_client):
        networks = access.parse_networks("10.0.0.0/8, ::1")
        client = make_client(access=Access(TOKEN, None, trusted_proxies=networks))

        def post(token, told, peer="10.0.0.1", scheme="https"):
            headers = {"X-Forwarded-For": told, "X-Forwarded-Proto": scheme}
            return client.post("/login", data={"token": token}, headers=headers, environ_base={"REMOTE_ADDR": peer})

        for _ in range(10):
            assert post("wrong", "203.0.113.1, 198.51.100.7, 10.9.9.9").status_code == 401
        assert (
            post(TOKEN, "203.0.113.9, 198.51.100.7").status_code == 429
        )  # what stands before it, the client wrote itself
        assert (
            post(TOKEN, "198.51.100.8", peer="198.51.100.7").status_code == 429
        )  # no proxy of ours: its word counts nothing
        assert "Secure" in post(TOKEN, "198.51.100.8").headers["Set-Cookie"]
        assert "Secure" not in post(TOKEN, "198.51.100.8", scheme="http").headers["Set-Cookie"]
        assert "Secure" not in post(TOKEN, "x", peer="198.51.100.9").headers["Set-Cookie"]
        with pytest.raises(IdClipError, match="--trusted_proxies"):
            access.parse_networks("10.0.0.1/8")

    def test_where_it_comes_from(self, tmp_path, monkeypatch):
        monkeypatch.delenv(access.TOKEN_VARIABLE, raising=False)
        assert access.read_token(None) is None
        monkeypatch.setenv(access.TOKEN_VARIABLE, f" {TOKEN}\n")
        assert access.read_token(None) == TOKEN
        path = tmp_path / "token"
        path.write_text(TOKEN + "\n")
        path.chmod(0o644)
        with pytest.raises(IdClipError, match="others can read"):
            access.read_token(str(path))
        path.chmod(0o600)
        assert access.read_token(str(path)) == TOKEN
        path.write_text("")
        with pytest.raises(IdClipError, match="is empty"):
            access.read_token(str(path))
        with pytest.raises(IdClipError, match="cannot be read"):
            access.read_token(str(tmp_path / "none"))
        with pytest.raises(IdClipError, match="can be guessed"):
            Access("short")


class TestNamesAndOrigins:
    def test_other_names_are_refused_here(self, open_client, make_client):
        for host, status in [("localhost:1234", 200), ("[::1]:1", 200), ("127.0.0.1", 200), ("evil.example", 403)]:
            assert open_client.get("/indices-list", headers={"Host": host}).status_code == status
        anywhere = make_client(access=Access(TOKEN, None))
        assert anywhere.get("/healthz", headers={"Host": "archive.example"}).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Sec-Fetch-Site": "cross-site"},
        ],
    )
    def test_pages_of_other_origins(self, open_client, make_client, headers):
        assert open_client.post("/knn-service", data=QUERY, headers=headers).status_code == 403
        assert make_client(allow_cors=True).post("/knn-service", data=QUERY, headers=headers).status_code == 200
        own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        assert open_client.post("/knn-service", data=QUERY, headers=own).status_code == 200

    def test_headers_of_answers(self, open_client):
        for address in ("/healthz", "/nowhere"):
            headers = open_client.get(address).headers
            assert "script-src 'self'" in headers["Content-Security-Policy"]
            assert "unsafe-inline" not in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"


class TestLimits:
    def test_size_results_and_text(self, make_client):
        client = make_client(limits=Limits(request_bytes=2000, results=50, text_length=20))
        assert client.post("/knn-service", data=b"x" * 3000).status_code == 413
        for body, message in [({"num_images": 51}, "at most 50"), ({"text": "x" * 21}, "at most 20")]:
            response = client.post("/knn-service", json={"text": "x", **body})
            assert response.status_code == 400
            assert message in response.get_json()["message"]
        for wrong in ({"results": 5}, {"results": 10**9}, {"request_bytes": 0}):
            with pytest.raises(IdClipError, match=r"at least|at most"):
                Limits(**wrong)

    @pytest.mark.parametrize("field", ["image", "faces", "people"])
    def test_pixels(self, make_client, field):
        stream = io.BytesIO()
        Image.new("1", (3000, 3000)).save(stream, "PNG")
        assert len(stream.getvalue()) < 5000
        picture = base64.b64encode(stream.getvalue()).decode()
        bodies = {"image": picture, "faces": [picture], "people": {"none": [{"photo": picture}]}}
        body = {field: bodies[field]} if field == "image" else {"text": "[TOK]", field: bodies[field]}
        response = make_client(limits=Limits(picture_pixels=1_000_000)).post("/knn-service", json=body)
        assert response.status_code == 400
        assert "more than 1 million pixels" in response.get_json()["message"]

    def test_huge_picture(self):
        head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x03\x00\x00\x00\x03\x00\x00\x08\x02\x00\x00\x00"
        with pytest.raises(BadRequest, match=r"not a picture|pixels"):
            Limits().check_picture(head, "'image'")


def test_bodies_are_bounded_by_what_an_address_needs(locked, open_client):
    fields = "&".join(f"f{number}=" for number in range(500_000))
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert locked.post("/login", data=fields, **form).status_code == 413
    assert open_client.post("/metadata", data=b" " * (3 << 20)).status_code == 413
    assert open_client.post("/people/list", json={"find": "x" * 100_000}).status_code == 413
    assert open_client.post("/knn-service", data=b" " * (3 << 20)).status_code == 400  # may hold a picture


def test_values_are_counted_before_they_are_read(open_client, monkeypatch):
    read = []
    monkeypatch.setattr(answers, "_refuse_constant", read.append)
    for many in (b"[NaN," + b"[]," * 300_000 + b"[]]", b'{"b":NaN,' + b'"a":1,' * 300_000 + b'"a":1}', b"[" * 300_000):
        response = open_client.post("/knn-service", data=many)
        assert (response.status_code, "values" in response.get_json()["message"]) == (400, True)
    assert not read
    open_client.post("/knn-service", data=b"[NaN]")
    assert read == ["NaN"]


def test_metadata_is_limited_as_results_are(make_client):
    client = make_client(limits=Limits(results=50))
    assert len(client.post("/metadata", json={"ids": [1] * 50}).get_json()) == 50
    response = client.post("/metadata", json={"ids": [1] * 51})
    assert (response.status_code, "at most 50" in response.get_json()["message"]) == (400, True)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"text": "half a \ud83d smile"}', b'{"text": "half a \xed\xa0\xbd smile"}', '{"text": "x"}'.encode("utf-16"),
        rb'{"identities": ["\uDC00"], "text": "[TOK]"}', rb'{"\ud800": 1, "text": "x"}', b'{"text": "x", "face_weight": NaN}',
        b'{"text": "x", "min_similarity": -Infinity}', b'{"text": "x", "face_weight": 1e999}',
        b'{"text": "[TOK:' + b"9" * 5000 + b']"}', b'{"text": "x", "num_images": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_text_and_numbers_that_are_none(open_client, body):
    response = open_client.post("/knn-service", data=body)
    assert response.status_code == 400
    assert len(response.get_json()["message"]) < 200
    whole = rb'{"text": "a whole \ud83d\ude00 smile", "num_images": 2}'
    assert len(open_client.post("/knn-service", data=whole).get_json()) == 2


def strictly(response):
    """JSON, read by a parser that refuses what is none."""
    return json.loads(response.get_data(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_no_answer_holds_a_number_that_is_no_json(make_client, tiny_models, tmp_path):  # noqa: F811
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "archive"
    shutil.copytree(make_client().application.config["FOLDER"], folder)
    shutil.rmtree(folder / "metadata_arrow", ignore_errors=True)
    for path in (folder / "metadata").glob("*.parquet"):
        table = parquet.read_table(path)
        odd = [(float("inf"), float("-inf"), float("nan"), 1.5)[row % 4] for row in range(len(table))]
        parquet.write_table(table.append_column("odd", pyarrow.array(odd)), path)
    client = create_app({"archive": folder}, tiny_models.load(), People()).test_client()
    found = strictly(client.post("/knn-service", json={"text": "blocks", "num_images": 12}))
    assert [result["odd"] for result in found if "odd" in result] == [1.5] * 3
    again = strictly(client.post("/metadata", json={"ids": list(range(12))}))
    assert [row["metadata"]["odd"] for row in again if "odd" in row["metadata"]] == [1.5] * 3
    hybrid = {"text": "blocks", "num_images": 12, "negative_text": "x", "min_similarity": -1}
    assert len(strictly(client.post("/knn-service", json=hybrid))) == 12
    for address in ("/service-info", "/openapi.json", "/indices-list", "/healthz", "/nowhere"):
        strictly(client.get(address))
    with client.application.app_context():  # whatever a view may come to hold
        odd = {"a": [float("nan"), {"b": (float("inf"), 1.5)}]}
        assert strictly(flask.jsonify(odd)) == {"a": [None, {"b": [None, 1.5]}]}


def test_a_gallery_in_use_is_waited_for_and_named_by_no_path(tiny_models, make_client, tmp_path, monkeypatch):  # noqa: F811
    gallery = Gallery(tmp_path / "secret place" / "gallery.sqlite")
    gallery.enroll("Ada Lovelace", np.ones(FACE_DIM), "test")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **{**options, "timeout": 0}))
    client = create_app(
        {"archive": make_client().application.config["FOLDER"]}, tiny_models.load(), People(gallery)
    ).test_client()
    asked = {"text": "[TOK] runs", "identities": ["Ada Lovelace"]}
    with contextlib.closing(connect(gallery.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for address, body in (
            ("/knn-service", asked),
            ("/people/list", {}),
            ("/people/forget", {"name": "Ada Lovelace"}),
        ):
            response = client.post(address, json=body)
            assert response.status_code == 503, address
            assert "secret" not in response.get_data(as_text=True)
            assert response.headers["Retry-After"]
    assert client.post("/people/list", json={}).get_json()["total"] == 1
    gallery.path.write_bytes(b"no database at all, whatever its name may be")
    for response in (
        client.post("/knn-service", json=asked),
        client.post("/people/list", json={}),
        client.get("/service-info"),
    ):
        assert (response.status_code, "secret" in response.get_data(as_text=True)) == (400, False)


def test_defects_say_nothing(open_client, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("/secret/path [0.123456, 0.5]")

    monkeypatch.setattr(IdentityKnnService, "search", fail)
    with caplog.at_level(logging.DEBUG):
        response = open_client.post("/knn-service", data=QUERY)
    assert response.status_code == 500
    said = response.get_data(as_text=True) + caplog.text
    assert "secret" not in said
    assert "0.123456" not in said
    assert response.get_json()["message"].split()[-1] in caplog.text
    assert "RuntimeError" in caplog.text


def test_error_pages_are_json(open_client):
    assert open_client.put("/knn-service").status_code == 405
    assert "method" in open_client.put("/knn-service").get_json()["message"]
    assert set(open_client.get("/no/such/place").get_json()) == {"message"}


def test_metrics(open_client):
    open_client.post("/knn-service", data=QUERY)
    text = open_client.get("/metrics").get_data(as_text=True)
    assert 'idclip_answers_total{endpoint="knn-service",status="200"}' in text
    assert 'idclip_index_rows{indice_name="archive"} 12.0' in text
    assert "idclip_requests_in_progress 1.0" in text  # this one
    assert "knn_index_time_count" in text


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "::1", "::",
        "fd00:ec2::254", "fe80::1%eth0", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1",
        "168.63.129.16", "255.255.255.255", "no address", "192.0.0.1", "192.0.0.9", "192.0.0.170", "192.88.99.1", "fec0::1",
        "::ffff:192.0.0.8", "::ffff:10.0.0.1", "2001::1", "2001:db8::1", "3fff::1", "64:ff9b:1::1", "5f00::1", "ff0e::1",
        "4000::1", "::1.2.3.4", "100::1", "198.18.0.1", "203.0.113.1", "240.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not picture_urls.is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "192.0.1.1", "2606:2800:220:1::1", "::ffff:93.184.216.34", "2001:4860::1"]
)
def test_addresses_that_are_public(address):
    assert picture_urls.is_public(address)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/x", "http://", "http://user:secret@a.example/", "http://a.example/a b", "http://a.example:0/",
     "http://[::1", "http://a.example/\r\nHost: b", "http://a.example/" + "x" * 3000, "gopher:x"],
)  # fmt: skip
def test_addresses_of_another_form(url):
    with pytest.raises(BadRequest, match="http or https"):
        picture_urls.fetch_picture(url, 1000)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]"])
def test_private_machines_are_not_asked(host):
    with pytest.raises(BadRequest, match=r"public internet|could be fetched"):
        picture_urls.fetch_picture(f"http://{host}:9/", 1000)


@pytest.fixture
def web(monkeypatch):
    """A server that stands for the public internet; every name leads to it, and it notes what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.headers["Host"], self.path))
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
            else:
                self.send_response(404 if self.path == "/none" else 200)
                self.end_headers()
                self.wfile.write(b"x" * int(self.path.rpartition("/")[2] or 0 if self.path != "/none" else 0))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connect, resolve = socket.create_connection, socket.getaddrinfo

    def names(host, port, *_, **__):
        if host == "private.example":
            return [(0, 0, 0, "", ("93.184.216.34", port)), (0, 0, 0, "", ("10.0.0.1", port))]
        return [(0, 0, 0, "", ("93.184.216.34", port))] if host.endswith(".example") else resolve(host, port)

    monkeypatch.setattr(picture_urls.socket, "getaddrinfo", names)

    def connect_here(address, **options):
        assert address == ("93.184.216.34", 80)  # the address that was checked, not the name
        monkeypatch.setattr(picture_urls.socket, "getaddrinfo", resolve)
        try:
            return connect(server.server_address, **options)
        finally:
            monkeypatch.setattr(picture_urls.socket, "getaddrinfo", names)

    monkeypatch.setattr(picture_urls.socket, "create_connection", connect_here)
    yield asked
    server.shutdown()
    server.server_close()


def test_fetching(web):
    assert picture_urls.fetch_picture("http://a.example/10", 1000) == b"x" * 10
    assert web == [("a.example", "/10")]
    assert picture_urls.fetch_picture("http://a.example/to//20", 1000) == b"x" * 20
    assert len(picture_urls.fetch_picture("http://a.example/1000", 1000)) == 1000
    with pytest.raises(BadRequest, match="larger than 1000"):
        picture_urls.fetch_picture("http://a.example/1001", 1000)
    with pytest.raises(BadRequest, match="could be fetched"):
        picture_urls.fetch_picture("http://a.example/none", 1000)


@pytest.mark.parametrize("inside", ["http://127.0.0.1/", "http://169.254.169.254/latest", "http://private.example/"])
def test_redirects_are_checked_again(web, inside):
    with pytest.raises(BadRequest, match="public internet"):
        picture_urls.fetch_picture(f"http://a.example/to/{inside}", 1000)
    assert len(web) == 1
    with pytest.raises(BadRequest, match="http or https"):
        picture_urls.fetch_picture("http://a.example/to/file:///etc/passwd", 1000)


def test_redirects_end(web):
    with pytest.raises(BadRequest, match="redirects too often"):
        picture_urls.fetch_picture("http://a.example" + "/to/" * 9 + "x", 1000)


def test_slow_answers_end(web, monkeypatch):
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(picture_urls.socket, "create_connection", lambda *_, **__: plain)
    plain = socket.socket()
    plain.connect(silent.getsockname())
    monkeypatch.setattr(picture_urls, "_SECONDS", 0.2)
    with pytest.raises(BadRequest, match="could be fetched"):
        picture_urls.fetch_picture("http://a.example/x", 1000)
    silent.close()


def test_one_deadline_over_all_hops(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock, hops = Clock(), []

    def slow_redirect(target, most_bytes, end):
        picture_urls.seconds_left(end)
        hops.append(target.path)
        clock.now += 6
        return 302, "/again", b""

    monkeypatch.setattr(picture_urls, "time", clock)
    monkeypatch.setattr(picture_urls, "_get_once", slow_redirect)
    with pytest.raises(BadRequest, match="could be fetched"):
        picture_urls.fetch_picture("http://a.example/x", 1000)
    assert hops == ["/x", "/again"]  # the third would begin after 12 of 10 seconds


@pytest.mark.parametrize("stage", ["names", "handshake"])
def test_names_and_handshakes_end_too(monkeypatch, stage):
    silent, over = socket.create_server(("127.0.0.1", 0)), threading.Event()
    here = socket.create_connection(silent.getsockname())
    monkeypatch.setattr(picture_urls, "_SECONDS", 0.3)
    monkeypatch.setattr(picture_urls.socket, "create_connection", lambda *_, **__: here)

    def resolve(*_, **__):
        if stage == "names":
            over.wait(30)
        return [(0, 0, 0, "", ("93.184.216.34", 443))]

    monkeypatch.setattr(picture_urls.socket, "getaddrinfo", resolve)
    answered = []

    def fetch():
        with pytest.raises(BadRequest, match="could be fetched"):
            picture_urls.fetch_picture("https://a.example/x", 1000)
        answered.append(stage)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(20)
    over.set()
    assert answered == [stage]
    silent.close()


class TestWebServer:
    @pytest.fixture
    def server(self):
        server = WebServer("127.0.0.1", 0, threads=2, request_bytes=10_000)
        server.start()
        yield server
        server.stop(1)

    @staticmethod
    def get(server, path, **options):
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", **options)
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read()), response.headers

    def test_from_loading_to_ready(self, server, open_client):
        with pytest.raises(urllib.error.HTTPError, match="503") as error:
            self.get(server, "/healthz")
        assert json.loads(error.value.read()) == {"status": "loading"}
        server.gate.open(open_client.application)
        status, body, headers = self.get(server, "/healthz")
        assert (status, body) == (200, {"status": "ready"})
        assert "waitress" not in str(headers)
        assert len(self.get(server, "/knn-service", data=QUERY.encode())[1]) == 2
        with pytest.raises(urllib.error.HTTPError, match="413"):
            self.get(server, "/knn-service", data=b"x" * 20_000)

    def test_what_is_at_hand_is_finished(self, server):
        begun, go_on, answers = threading.Event(), threading.Event(), []

        def slow_app(environ, start_response):
            begun.set()
            go_on.wait(10)
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
            return [b"[]"]

        server.gate.open(slow_app)
        asking = threading.Thread(target=lambda: answers.append(self.get(server, "/")))
        asking.start()
        begun.wait(10)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        go_on.set()
        stopping.join()
        asking.join()
        assert answers[0][:2] == (200, [])

    def test_silent_connections_keep_nobody_out(self, server, open_client):
        server.gate.open(open_client.application)
        with contextlib.ExitStack() as stack:
            for number in range(150):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
                connection.sendall(b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\n" if number % 2 else b"G")
            assert self.get(server, "/healthz")[0] == 200

    def test_a_request_has_to_come_whole_in_time(self, server):
        (listening,) = (each for each in server._server._map.values() if hasattr(each, "channel_class"))
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        begun = wait_for(lambda: [one.begun for one in listening.active_channels.values() if one.begun])[0]
        (channel,) = listening.active_channels.values()
        channel.last_activity = channel.begun = begun - 1000  # as if it had begun long ago
        connection.sendall(b"Host: localhost\r\n")  # what comes meanwhile wins it no time
        assert connection.recv(1000) == b""
        connection.close()

    def test_nobody_is_let_in_beside_the_lock(self):
        gate, entered, refused = ReadinessGate(), threading.Event(), []
        gate.open(lambda environ, start_response: entered.set() or [b""])
        asking = threading.Thread(target=lambda: gate({}, lambda status, headers: refused.append(status)))
        with gate._changed:
            asking.start()
            assert not entered.wait(0.1)  # whoever comes now waits to see whether the gate is open
            gate._closing = True
        asking.join(30)
        assert (entered.is_set(), refused) == (False, ["503 Service Unavailable"])

    def test_a_queue_is_no_fault(self, server):
        assert not logging.getLogger("waitress.queue").isEnabledFor(logging.WARNING)

    def test_a_port_in_use(self, server):
        with pytest.raises(IdClipError, match="choose another --port"):
            WebServer("127.0.0.1", server.port, 1, 1000)


def test_pictures_that_take_too_long_or_have_to_wait(make_client, monkeypatch):
    slow = base64.b64encode(b"P3\n2000 1900\n255\n" + b"7 " * (3 * 2000 * 1900)).decode()
    decoders = Decoders(processes=1, seconds=1.5)
    monkeypatch.setattr(bounded_decoding, "_decoders", lambda: decoders)
    with contextlib.closing(decoders):
        response = make_client().post("/knn-service", data=json.dumps({"image": slow}))
        assert response.status_code == 400
        assert "takes too long to decode" in response.get_json()["message"]
    monkeypatch.setattr(bounded_decoding, "_decoders", lambda: Decoders(processes=0, seconds=0.01))
    response = make_client().post("/knn-service", data=json.dumps({"image": slow}))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "try again" in response.get_json()["message"]


def test_malformed_vectors_and_pictures(make_client):
    client = make_client()
    rng = np.random.default_rng(0)
    jpeg = draw_images(1)[0].jpeg
    pictures = [jpeg[:cut] for cut in (0, 1, 2, 20, len(jpeg) // 2)] + [rng.bytes(200), b"GIF89a" + rng.bytes(50)]
    bodies = [{"image": base64.b64encode(picture).decode()} for picture in pictures]
    bodies += [{"image": text} for text in ("====", "data:image/png;base64,", "\ud800", "é", "A", "data:,")]
    bodies += [{"embedding_input": vector} for vector in ([], [1e400], [[1]], [None], [10**400], ["1"], {}, [0] * 24)]
    bodies += [
        {"text": "[TOK]", "faces": faces} for faces in ([[]], [[[]]], [None], [[1e39] * 16], {}, "x", [[1] * 15])
    ]
    for body in bodies:
        response = client.post("/knn-service", data=json.dumps(body))
        assert response.status_code == 400, body
        assert set(response.get_json()) == {"message"}
        assert "Traceback" not in response.get_data(as_text=True)
