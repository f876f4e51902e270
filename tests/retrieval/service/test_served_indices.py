"""An index is added to, removed from, compacted and replaced while requests are answered from it."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("clip_retrieval")

from index_change_fixtures import KINDS, OPTIONS, archive, changeable, face_of  # noqa: F401
from retrieval_fixtures import FACE_DIM, draw_images, tiny_models  # noqa: F401

from open_clip_idplugin.pictures.thumbnails import Thumbnails
from open_clip_idplugin.retrieval.face_index.build import add_faces
from open_clip_idplugin.retrieval.index import add as index_add
from open_clip_idplugin.retrieval.index import compact as index_compact
from open_clip_idplugin.retrieval.index.remove import index_remove
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.index_folder import generations
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.service import served_indices
from open_clip_idplugin.retrieval.service.app import create_app

PERSON = "7_n000002"


@pytest.fixture
def app(archive, tiny_models, monkeypatch):  # noqa: F811
    monkeypatch.setattr(served_indices, "CHECK_SECONDS", 0.02)
    return create_app({"archive": archive}, tiny_models.load(), People())


def ask(app, **more):
    people = {"all": [{"embedding": face_of(PERSON).tolist()}]}
    body = {"text": "blocks", "num_images": 40, "people": people, "face_weight": 9, **more}
    response = app.test_client().post("/knn-service", json=body)
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def wait_for(app, count: int):
    end = time.monotonic() + 30
    while len(results := ask(app)) != count:
        assert time.monotonic() < end, f"{len(results)} instead of {count} results"
        time.sleep(0.02)
    return results


def test_requests_go_on_through_every_change(archive, app, changeable, tiny_models):  # noqa: F811
    known = {image.key for image in draw_images(36)}
    pictures: dict[str, str] = {}
    lock, stop, counts = threading.Lock(), threading.Event(), []

    def client(number: int) -> None:
        while not stop.is_set():
            results = ask(app) if number % 2 else ask(app, people={})
            keys = [result["key"] for result in results]
            assert set(keys) <= known and len(set(keys)) == len(keys)
            counts.append(len(keys))
            if number % 2:
                assert keys[0] == PERSON and results[0]["face_similarity"] > 0.99
            with lock:
                for result in results:  # row, key and picture are of the same index
                    if "image" in result:
                        assert pictures.setdefault(result["key"], result["image"]) == result["image"]

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        try:
            wait_for(app, 24)
            source, table = find_images(str(changeable / "more")), str(changeable / "more_table")
            index_add.add_images(archive, source, tiny_models.load_plain(), OPTIONS, table)
            wait_for(app, 36)
            index_remove(str(archive), keys="0_n000000,25_n000000")
            wait_for(app, 34)
            index_compact.compact(archive)
            end = time.monotonic() + 30
            while max(result["id"] for result in ask(app)) > 33:  # rows are counted anew
                assert time.monotonic() < end
        finally:
            stop.set()
        for done in clients:
            done.result()
    assert set(counts) == {24, 36, 34}
    assert set(pictures) == known
    assert {"0_n000000", "25_n000000"}.isdisjoint(result["key"] for result in wait_for(app, 34))
    metrics = app.test_client().get("/metrics").get_data(as_text=True)
    assert 'idclip_index_rows{indice_name="archive"} 34.0' in metrics


@pytest.mark.parametrize("archive", KINDS, indirect=True)
def test_vectors_on_the_disk_give_the_same_answers(archive, tiny_models):  # noqa: F811
    loaded = tiny_models.load()
    apps = [create_app({"archive": archive}, loaded, People(), mmap=mmap) for mmap in (False, True)]
    one, other = (ask(app, people={}, include_images=False) for app in apps)
    assert one == other
    assert one


def test_faces_that_are_added_later(archive, app, changeable, tmp_path):  # noqa: F811
    shutil.rmtree(archive / "faces")
    response = app.test_client()
    end = time.monotonic() + 30
    body = {"text": "[TOK]", "faces": [face_of(PERSON).tolist()], "fusion": "filter"}
    while response.post("/knn-service", json=body).status_code == 200:
        assert time.monotonic() < end
    add_faces(archive, changeable / "table")
    while response.post("/knn-service", json=body).status_code != 200:
        assert time.monotonic() < end


def test_index_that_cannot_be_opened_leaves_the_old_one(archive, app, changeable, tmp_path, caplog):  # noqa: F811
    expected = ask(app)
    damaged = tmp_path / "damaged"
    shutil.copytree(archive, damaged)
    (damaged / "image.index").write_bytes(b"nothing")
    generations.exchange(damaged, archive)
    shutil.rmtree(damaged)
    end = time.monotonic() + 30
    while not caplog.messages:
        assert ask(app) == expected
        assert time.monotonic() < end
    time.sleep(0.1)
    assert ask(app) == expected
    assert len(caplog.messages) == 1  # refused once, not with every request
    assert "cannot be served, the old one goes on" in caplog.messages[0]
    good = tmp_path / "good"
    shutil.copytree(changeable / "HNSW15", good)
    index_remove(str(good), ids="3")
    generations.exchange(good, archive)
    wait_for(app, 23)


def test_open_thumbnails_and_removed_rows_outlive_their_folder(archive, tmp_path):  # noqa: F811
    from open_clip_idplugin.retrieval.index_folder.removed_rows import RemovedRows

    index_remove(str(archive), ids="3")
    pictures, removed = Thumbnails(archive, (12, 12)), RemovedRows(archive, 24)
    shown = pictures.get(range(24))
    index_compact.compact(archive)
    assert pictures.get(range(24)) == shown
    assert removed.ids.tolist() == [3]
    shutil.rmtree(archive)
    assert pictures.get(range(24)) == shown
    assert removed.ids.tolist() == [3]
