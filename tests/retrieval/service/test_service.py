"""The search service: stock requests as clip-retrieval answers them, people in the query, bad requests in a sentence."""

import base64
import io
import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("clip_retrieval")

from retrieval_fixtures import FACE_DIM, IDENTITY, DrawnImage, TinyModels, draw_images, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery, GalleryError
from open_clip_idplugin.pictures import PictureSource, load_image
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval import serve
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.embed import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.search import command as search
from open_clip_idplugin.retrieval.service.app import create_app

FACE_MODEL = "test faces"
TEXT = "[TOK] beside coloured blocks"


@dataclass
class DrawnFace:
    embedding: np.ndarray


class MeanColourEngine:
    """Stands in for a face engine: the 'face' of a picture is its mean colour; a black picture has none."""

    model_id = FACE_MODEL
    embedding_size = FACE_DIM

    def the_face(self, picture: PictureSource, policy: str = "largest") -> DrawnFace:
        colour = np.asarray(load_image(picture), np.float32).mean(axis=(0, 1))
        if colour.max() < 1:
            raise IdClipError("no face was found")
        return DrawnFace(np.resize(colour / np.linalg.norm(colour), FACE_DIM).astype(np.float32))


@dataclass(frozen=True)
class World:
    """An index made with the plain CLIP, a gallery, and the models."""

    images: list[DrawnImage]
    folder: Path
    gallery: Gallery
    models: TinyModels


@pytest.fixture(scope="module")
def world(tiny_models, tmp_path_factory) -> World:  # noqa: F811
    folder = tmp_path_factory.mktemp("service")
    images = draw_images(40)
    (folder / "shards").mkdir()
    for number in range(2):
        write_shard(folder / "shards" / f"{number}.tar", images[number * 20 : number * 20 + 20])
    source = find_images(str(folder / "shards"))
    index.build_index(source, tiny_models.load_plain(), folder / "archive", EmbedOptions(8, 0))
    gallery = Gallery(folder / "gallery.sqlite")
    for number, name in enumerate(["Ada Lovelace", "Grace Hopper"]):
        gallery.enroll(name, draw_face(number), FACE_MODEL)
    return World(images, folder / "archive", gallery, tiny_models)


@pytest.fixture(scope="module")
def loaded(world):
    return world.models.load()


@pytest.fixture(scope="module")
def app(world, loaded):
    return create_app({"archive": world.folder}, loaded, People(world.gallery, MeanColourEngine()))


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="module")
def address(app) -> str:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def draw_face(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(FACE_DIM).astype(np.float32)


def ask(client, **body):
    response = client.post("/knn-service", data=json.dumps(body))
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def refused(client, **body) -> str:
    response = client.post("/knn-service", data=json.dumps(body))
    assert response.status_code == 400, response.get_json()
    message = response.get_json()["message"]
    assert "\n" not in message and "Traceback" not in message
    return message


def stock_service(world, loaded):
    """clip-retrieval's own service over the same index and model, untouched by us."""
    import faiss
    from clip_retrieval.clip_back import ClipResource, KnnService, ParquetMetadataProvider

    resource = ClipResource(
        device="cpu",
        model=loaded.model,
        preprocess=loaded.preprocess,
        tokenizer=loaded.tokenizer,
        model_txt_mclip=None,
        safety_model=None,
        violence_detector=None,
        metadata_provider=ParquetMetadataProvider(str(world.folder / "metadata")),
        image_index=faiss.read_index(str(world.folder / "image.index")),
        text_index=None,
        ivf_old_to_new_mapping=None,
        columns_to_return=["image_path", "caption"],
        metadata_is_ordered_by_ivf=False,
        aesthetic_embeddings=None,
    )
    return KnnService(clip_resources={"archive": resource})


def same_answers(ours, stock) -> None:
    assert [result["id"] for result in ours] == [result["id"] for result in stock]
    np.testing.assert_allclose(
        [result["similarity"] for result in ours], [result["similarity"] for result in stock], atol=1e-6
    )
    assert [result.get("caption") for result in ours] == [result.get("caption") for result in stock]


def best_rows(world, query: np.ndarray, count: int) -> list[int]:
    import faiss

    return [int(row) for row in faiss.read_index(str(world.folder / "image.index")).search(query, count)[1][0]]


class TestStockRequests:
    def test_text(self, client, world, loaded):
        stock = stock_service(world, world.models.load_plain())
        ours = ask(client, text="red blocks", modality="image", num_images=7, num_result_ids=9, indice_name="archive")
        same_answers(ours, stock.query(text_input="red blocks", num_images=7, num_result_ids=9, deduplicate=False))

    def test_image(self, client, world, loaded):
        picture = base64.b64encode(world.images[5].jpeg).decode()
        ours = ask(client, image=picture, num_images=5)
        same_answers(
            ours,
            stock_service(world, loaded).query(image_input=picture, num_images=5, num_result_ids=5, deduplicate=False),
        )
        assert ours[0]["key"] == world.images[5].key

    def test_embedding(self, client, world, loaded):
        vector = [float(number) for number in draw_face(3)] + [0.0] * 8
        ours = ask(client, embedding_input=vector, num_images=5, deduplicate=True)
        same_answers(ours, stock_service(world, loaded).query(embedding_input=vector, num_images=5, num_result_ids=5))

    def test_missing_fields_get_defaults(self, client):
        assert len(ask(client, text="blocks")) == 40
        assert len(ask(client, text="blocks", num_images=3)) == 3
        assert len(ask(client, text="blocks", num_images=3, num_result_ids=10_000, indice_name="")) == 40

    def test_results_carry_what_a_reader_needs(self, client, world):
        images = {image.key: image for image in world.images}
        for result in ask(client, text="blocks", num_images=5):
            image = images[result["key"]]
            assert result["caption"] == image.caption
            assert result["identity_name"] == image.record["identity_name"]
            assert result["synthetic"] is True
            assert -1 <= result["similarity"] <= 1
            assert Image.open(io.BytesIO(base64.b64decode(result["image"]))).size == (48, 40)
        assert "image" not in ask(client, text="blocks", num_images=1, include_images=False)[0]

    def test_other_endpoints(self, client, world):
        assert client.get("/indices-list").get_json() == ["archive"]
        ask(client, text="blocks")
        assert "full_knn_request_time" in client.get("/metrics").get_data(as_text=True)
        assert "text_clip_inference_time" in client.get("/metrics-summary").get_data(as_text=True)
        (answer,) = client.post("/metadata", data=json.dumps({"ids": [3], "indice_name": "archive"})).get_json()
        assert answer["id"] == 3
        assert answer["metadata"]["key"] in {image.key for image in world.images}
        assert "image" in answer["metadata"]

    @pytest.mark.parametrize("ids", [[-1], [40], "3", [True], [1.5], None])
    def test_bad_metadata_requests(self, client, ids):
        response = client.post("/metadata", data=json.dumps({"ids": ids}))
        assert response.status_code == 400
        assert "'ids'" in response.get_json()["message"]


class TestPeople:
    def test_enrolled_name(self, client, world, loaded):
        face = world.gallery.embedding("Ada Lovelace")
        expected = best_rows(world, QueryEncoder(loaded).encode([TEXT], faces=[face]), 10)
        results = ask(client, text=TEXT, identities=["ada LOVELACE"], num_images=10)
        assert [result["id"] for result in results] == expected
        plain = ask(client, text="somebody beside coloured blocks", num_images=10)
        assert [result["similarity"] for result in results] != [result["similarity"] for result in plain]
        other = ask(client, text=TEXT, identities=["Grace Hopper"], num_images=10)
        assert [result["similarity"] for result in results] != [result["similarity"] for result in other]

    def test_embedding(self, client, world):
        numbers = [float(number) for number in world.gallery.embedding("Ada Lovelace")]
        by_name = ask(client, text=TEXT, identities="Ada Lovelace", num_images=5)
        for faces in ([numbers], numbers):
            same_answers(ask(client, text=TEXT, faces=faces, num_images=5), by_name)

    @pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
    def test_photo(self, client, world, loaded, head):
        photo = world.images[0].jpeg
        face = MeanColourEngine().the_face(photo).embedding
        expected = best_rows(world, QueryEncoder(loaded).encode([TEXT], faces=[face]), 5)
        results = ask(client, text=TEXT, faces=[head + base64.b64encode(photo).decode()], num_images=5)
        assert [result["id"] for result in results] == expected

    def test_two_people(self, client, world, loaded):
        text = "[TOK] and [TOK:2] among blocks"
        ada = world.gallery.embedding("Ada Lovelace")
        numbers = [float(number) for number in draw_face(7)]
        expected = best_rows(world, QueryEncoder(loaded).encode([text], faces=[np.stack([draw_face(7), ada])]), 5)
        results = ask(client, text=text, faces=[numbers], identities=["Ada Lovelace"], num_images=5)
        assert [result["id"] for result in results] == expected

    def test_near_duplicates_are_kept(self, client):
        every = ask(client, text=TEXT, identities=["Ada Lovelace"], num_images=40)
        assert len(every) == 40
        assert len(ask(client, text=TEXT, identities=["Ada Lovelace"], num_images=40, deduplicate=True)) < 40

    def test_enrolled_while_serving(self, client, world):
        assert "nobody named" in refused(client, text=TEXT, identities=["Late Comer"])
        world.gallery.enroll("Late Comer", draw_face(9), FACE_MODEL)
        assert ask(client, text=TEXT, identities=["Late Comer"], num_images=2)
        world.gallery.forget("Late Comer")
        assert "nobody named" in refused(client, text=TEXT, identities=["Late Comer"])


BLACK = io.BytesIO()
Image.new("RGB", (32, 32)).save(BLACK, "PNG")
FACE = [0.5] * FACE_DIM


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "asks for nothing"),
        ({"text": "", "image": None}, "asks for nothing"),
        ({"text": 5}, "'text' must be a string"),
        ({"text": "x" * 10_001}, "10001 characters"),
        ({"text": "x", "num_images": "5"}, "'num_images'"),
        ({"text": "x", "num_images": 0}, "'num_images'"),
        ({"text": "x", "num_result_ids": 10**9}, "'num_result_ids'"),
        ({"text": "x", "modality": "sound"}, "'modality'"),
        ({"text": "x", "modality": "text"}, "no text index"),
        ({"text": "x", "indice_name": "other"}, "'indice_name' must be one of archive"),
        ({"text": "x", "indice_name": ["archive"]}, "'indice_name'"),
        ({"text": "x", "deduplicate": "yes"}, "'deduplicate'"),
        ({"text": "x", "use_mclip": True}, "multilingual"),
        ({"text": "x", "aesthetic_score": "high"}, "'aesthetic_score'"),
        ({"image": "%%%"}, "not valid base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "'image' is not a picture"),
        ({"image_url": "file:///etc/passwd"}, "fetches no addresses"),
        ({"embedding_input": [1.0, 2.0]}, "'embedding_input' has 2 numbers"),
        ({"embedding_input": [float("nan")] * 24}, "not valid JSON"),
        ({"embedding_input": "1,2"}, "'embedding_input'"),
        ({"text": TEXT}, r"[TOK]"),
        ({"text": "no placeholder", "faces": [FACE]}, r"[TOK]"),
        ({"text": TEXT, "faces": [FACE, FACE]}, r"[TOK:2]"),
        ({"faces": [FACE]}, "need a 'text'"),
        ({"text": TEXT, "faces": [[1.0, 2.0]]}, "has 2 numbers, but the faces of this service have 16"),
        ({"text": TEXT, "faces": [[0.0] * FACE_DIM]}, "not all zero"),
        ({"text": TEXT, "faces": [["a"] * FACE_DIM]}, "'faces'"),
        ({"text": TEXT, "faces": [{"x": 1}]}, "'faces'"),
        ({"text": TEXT, "faces": [[[1.0]]]}, "'faces'"),
        ({"text": TEXT, "faces": ["not base64!"]}, "not valid base64"),
        ({"text": TEXT, "faces": [base64.b64encode(BLACK.getvalue()).decode()]}, "face 1: no face was found"),
        ({"text": TEXT, "faces": [FACE] * 17}, "at most 16"),
        ({"text": TEXT, "identities": ["Nobody"]}, "nobody named 'Nobody'"),
        ({"text": TEXT, "identities": [5]}, "'identities'"),
        ({"text": TEXT, "identities": [""]}, "cannot be a person's name"),
        ({"text": "word " * 60 + TEXT, "faces": [FACE]}, "too long"),
    ],
)
def test_bad_requests_get_a_sentence(client, body, message):
    assert message in refused(client, **body)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object(client, content):
    response = client.post("/knn-service", data=content)
    assert response.status_code == 400
    assert "JSON" in response.get_json()["message"]


def test_services_without_gallery_or_face_model(world, loaded):
    bare = create_app({"archive": world.folder}, loaded, People()).test_client()
    assert "without a gallery" in refused(bare, text=TEXT, identities=["Ada Lovelace"])
    assert "without a face model" in refused(bare, text=TEXT, faces=[base64.b64encode(world.images[0].jpeg).decode()])
    empty = People(Gallery(world.folder / "none.sqlite"))
    message = refused(create_app({"a": world.folder}, loaded, empty).test_client(), text=TEXT, identities=["Ada"])
    assert "nobody is enrolled yet" in message
    assert str(world.folder) not in message


def test_addresses_only_where_allowed(world, loaded, tmp_path):
    open_app = create_app({"archive": world.folder}, loaded, People(), allow_urls=True).test_client()
    assert "http or https" in refused(open_app, image_url="file:///etc/passwd")
    assert "public internet" in refused(open_app, image_url="http://127.0.0.1:9/picture.jpg")


def test_cross_origin_only_where_allowed(world, loaded, client):
    ask_with_origin = {"data": json.dumps({"text": "x"}), "headers": {"Origin": "http://elsewhere.example"}}
    assert "Access-Control-Allow-Origin" not in client.post("/knn-service", **ask_with_origin).headers
    allowed = create_app({"archive": world.folder}, loaded, People(), allow_cors=True).test_client()
    assert "Access-Control-Allow-Origin" in allowed.post("/knn-service", **ask_with_origin).headers


def test_another_image_tower_is_refused(world):
    with pytest.raises(IndexMismatch, match="differs from that of IdCLIP-ViT-retrieval-tiny"):
        create_app({"archive": world.folder}, world.models.load(prompted=True), People())


def test_index_of_clip_retrieval_itself_is_served_with_a_warning(world, loaded, tmp_path, caplog):
    import shutil

    shutil.copytree(world.folder, tmp_path / "stock")
    for name in ("index_card.json", "thumbnails.sqlite"):
        (tmp_path / "stock" / name).unlink()
    app = create_app({"stock": tmp_path / "stock"}, loaded, People())
    assert "no index card" in caplog.text
    assert ask(app.test_client(), text="blocks", num_images=1)[0]["key"]

    (tmp_path / "stock" / "image.index").write_bytes(b"damaged")
    with pytest.raises(IndexMismatch, match="not a readable faiss index"):
        create_app({"stock": tmp_path / "stock"}, loaded, People())
    (tmp_path / "stock" / "image.index").unlink()
    with pytest.raises(IndexMismatch, match=r"no image\.index"):
        create_app({"stock": tmp_path / "stock"}, loaded, People())


def test_face_models_are_not_mixed(world):
    engine = MeanColourEngine()
    engine.model_id = "other faces"
    with pytest.raises(GalleryError, match=r"made with the face model 'test faces'.* with those of 'other faces'"):
        People(world.gallery, engine)


class TestRunningBackend:
    def test_clip_client(self, address, client, world):
        from clip_retrieval.clip_client import ClipClient

        backend = ClipClient(f"{address}/knn-service", "archive", num_images=6, deduplicate=False)
        same_answers(backend.query(text="red blocks"), ask(client, text="red blocks", num_images=6))
        path = world.folder.parent / "query.jpg"
        path.write_bytes(world.images[2].jpeg)
        assert backend.query(image=str(path))[0]["key"] == world.images[2].key

    def test_search_verb(self, address, world, tmp_path, capsys, client):
        page = tmp_path / "page.html"
        search.search(TEXT, url=address, identities="Ada Lovelace", num_images=4, output=str(page))
        printed = capsys.readouterr().out
        results = ask(client, text=TEXT, identities=["Ada Lovelace"], num_images=4)
        for rank, result in enumerate(results, 1):
            assert f"{rank}  {result['similarity']:.4f}  {result['key']}" in printed
        assert page.read_text().count("data:image/jpeg;base64,") == 4
        assert page.stat().st_mode & 0o777 == 0o600
        with pytest.raises(IdClipError, match="the search was refused: nobody named 'Nobody'"):
            search.search(TEXT, url=address, identities="Nobody")

    def test_client_only_mode(self, address, world, client):
        setup = LocalModel(IDENTITY, str(world.models.identity), str(world.gallery.path))
        query = search.Query(TEXT, identities=("Ada Lovelace",), num_images=6)
        same_answers(
            search.search_any_backend(address, query, setup),
            ask(client, text=TEXT, identities=["Ada Lovelace"], num_images=6),
        )
        plain = replace(query, text="red blocks", identities=())
        same_answers(search.search_any_backend(address, plain, setup), ask(client, text="red blocks", num_images=6))

    def test_nobody_there(self):
        with pytest.raises(IdClipError, match="cannot be reached"):
            search.search_service("http://127.0.0.1:9", search.Query("x"))


def test_search_in_a_folder(world, client, capsys):
    setup = LocalModel(IDENTITY, str(world.models.identity), str(world.gallery.path))
    query = search.Query(TEXT, identities=("Ada Lovelace",), num_images=3)
    same_answers(
        search.search_folder(str(world.folder), query, setup),
        ask(client, text=TEXT, identities=["Ada Lovelace"], num_images=3),
    )
    with pytest.raises(IdClipError, match="the search was refused: nobody named 'Nobody'"):
        search.search_folder(str(world.folder), replace(query, identities=("Nobody",)), setup)
    wrong = search.Query("x", options={"fmr": 2})
    with pytest.raises(IdClipError, match="the search was refused: 'fmr' is a false match rate"):
        search.search_folder(str(world.folder), wrong, None)  # before any model is loaded
    with pytest.raises(IdClipError, match="give either --index"):
        search.search("x")
    with pytest.raises(IdClipError, match="--model"):
        search.search("x", index=str(world.folder))


def test_photos_of_a_search(world, loaded, client, tmp_path):
    """A photo is read from its file, however the query is encoded."""

    class Setup:
        def load(self):
            return loaded, People(world.gallery, MeanColourEngine())

    (tmp_path / "who.jpg").write_bytes(world.images[0].jpeg)
    query = search.Query(TEXT, photos=(str(tmp_path / "who.jpg"),), num_images=3)
    face = MeanColourEngine().the_face(world.images[0].jpeg).embedding
    expected = QueryEncoder(loaded).encode([TEXT], faces=[face])
    np.testing.assert_allclose(search.encode_query(query, Setup()), expected[0], atol=1e-6)
    results = search.search_folder(str(world.folder), query, Setup(), include_images=True)
    assert [result["id"] for result in results] == best_rows(world, expected, 3) and results[0]["image"]
    same_answers(results, ask(client, **query.to_json(True)))


def test_lists_of_names():
    assert search._split('Ada Lovelace, "Hopper, Grace",007') == ("Ada Lovelace", "Hopper, Grace", "007")
    assert search._split(None) == search._split(" ,") == ()


def test_page_escapes_what_it_shows():
    from open_clip_idplugin.retrieval.search.results_page import render_page

    page = render_page("<script>", ["<b>"], [{"id": 1, "similarity": 0.5, "caption": '"><script>alert(1)</script>'}])
    assert "<script>" not in page


def test_serve_listens_here_only(world, monkeypatch):
    monkeypatch.delenv("IDCLIP_TOKEN", raising=False)
    with pytest.raises(IdClipError, match="give a token"):
        serve.serve(str(world.folder), IDENTITY, host="0.0.0.0")
    for host in ("127.0.0.1", "localhost", "::1"):
        assert serve.choose_access(host, None, None, False).token is None
    assert serve.choose_access("0.0.0.0", "t" * 20, None, False).token == "t" * 20
    with pytest.raises(IdClipError, match="there is no folder"):
        serve.serve("missing", IDENTITY)
    with pytest.raises(IdClipError, match="only --immich_compatible does without"):
        serve.serve(model=IDENTITY)
    with pytest.raises(IdClipError, match="--model: name the open_clip model"):
        serve.serve(str(world.folder))


def test_several_indices(world, loaded):
    folders = serve.split_indices(f"one={world.folder}, two={world.folder}")
    several = create_app(folders, loaded, People(), mmap=True).test_client()
    assert several.get("/indices-list").get_json() == ["one", "two"]
    same_answers(
        ask(several, text="blocks", num_images=5), ask(several, text="blocks", num_images=5, indice_name="two")
    )
    assert list(serve.split_indices(str(world.folder))) == [world.folder.name]
    with pytest.raises(IdClipError, match="comes twice"):
        serve.split_indices(f"one={world.folder},one={world.folder}")
