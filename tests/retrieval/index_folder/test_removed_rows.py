"""Images taken out of an index: hidden at once from every answer, whatever the type of index."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from retrieval_fixtures import FACE_DIM, draw_images, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.embed import EmbedOptions
from open_clip_idplugin.retrieval.index.remove import index_remove
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.index_folder import removed_rows
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.generations import changing
from open_clip_idplugin.retrieval.index_folder.removed_rows import RemovedRows, read_removed, rows_of_keys
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.service.app import create_app


@pytest.fixture(scope="module")
def built(tiny_models, tmp_path_factory):  # noqa: F811
    """Index folders by type, over the same images."""
    folder = tmp_path_factory.mktemp("removed")
    (folder / "shards").mkdir()
    images = draw_images(30)
    write_shard(folder / "shards" / "0.tar", images[:15])
    write_shard(folder / "shards" / "1.tar", images[15:])
    source, loaded = find_images(str(folder / "shards")), tiny_models.load_plain()
    for key in ("Flat", "HNSW15"):
        index.build_index(source, loaded, folder / key, EmbedOptions(8, 0), key)
    return folder


@pytest.fixture(params=["Flat", "HNSW15"])
def archive(built, request, tmp_path):
    return shutil.copytree(built / request.param, tmp_path / "archive")


def test_hidden_while_serving(archive, tiny_models, capsys):  # noqa: F811
    client = create_app({"archive": archive}, tiny_models.load(), People()).test_client()

    def ask(count):
        return client.post("/knn-service", json={"text": "blocks", "num_images": count}).get_json()

    before = ask(30)
    gone = [before[0], before[3]]
    index_remove(str(archive), keys=gone[0]["key"], ids=str(gone[1]["id"]))
    assert "2 images removed" in capsys.readouterr().out
    expected = [result["id"] for result in before if result not in gone]
    assert [result["id"] for result in ask(30)] == expected
    assert [result["id"] for result in ask(5)] == expected[:5]  # as many as were asked for
    response = client.post("/metadata", json={"ids": [gone[0]["id"]]})
    assert response.status_code == 400
    assert "were removed" in response.get_json()["message"]
    raw = b"".join(path.read_bytes() for path in archive.glob("thumbnails.sqlite*"))
    import base64

    for result in gone:
        assert base64.b64decode(result["image"])[-200:] not in raw
    assert base64.b64decode(before[1]["image"])[-50:] in raw

    index_remove(str(archive), keys=gone[0]["key"])
    assert "0 images removed, 1 were removed before" in capsys.readouterr().out


def test_rows_are_looked_up_while_nobody_else_changes_the_index(archive, monkeypatch):
    """A compaction in between would give the images other rows."""
    looked_up = []

    def look(folder, keys):
        with pytest.raises(IdClipError, match="another process"), changing(folder):
            pass
        looked_up.append(keys)
        return rows_of_keys(folder, keys)

    monkeypatch.setattr(removed_rows, "rows_of_keys", look)
    key = draw_images(30)[7].key
    index_remove(str(archive), keys=key)
    assert looked_up == [{key}]
    assert read_removed(archive).tolist() == rows_of_keys(archive, {key})[0].tolist()
    with pytest.raises(IdClipError, match="not in"):
        index_remove(str(archive), keys="nobody")
    with changing(archive):  # an error gave the folder back
        pass


def test_everything_removed(archive, tiny_models):  # noqa: F811
    index_remove(str(archive), ids=",".join(map(str, range(30))))
    client = create_app({"archive": archive}, tiny_models.load(), People()).test_client()
    assert client.post("/knn-service", json={"text": "blocks"}).get_json() == []


def test_keys_of_a_file_and_what_is_refused(built, tmp_path):
    archive = shutil.copytree(built / "Flat", tmp_path / "archive")
    listed = tmp_path / "keys.txt"
    listed.write_text("4_n000004\n\n7_n000002\n")
    index_remove(str(archive), keys_file=str(listed))
    assert len(read_removed(archive)) == 2
    for options, message in [
        ({"keys": "4_n000004,nobody"}, "1 keys are not in"),
        ({"ids": "30"}, "from 0 to 29"),
        ({"ids": "x"}, "from 0 to 29"),
        ({}, "name the images"),
        ({"keys_file": "none"}, "cannot be read"),
    ]:
        with pytest.raises(IdClipError, match=message):
            index_remove(str(archive), **options)
    assert len(read_removed(archive)) == 2
    with pytest.raises(IdClipError, match="no index folder"):
        index_remove(str(tmp_path), ids="1")


def test_damaged_list_is_refused(tmp_path):
    for content in ("{", "[]", '{"ids": "x"}', '{"ids": [1e400]}'):
        (tmp_path / "removed.json").write_text(content)
        with pytest.raises(IndexMismatch, match="is damaged"):
            RemovedRows(tmp_path, 5)
    (tmp_path / "removed.json").write_text(json.dumps({"ids": [3, 1, 99]}))
    rows = RemovedRows(tmp_path, 5)
    assert rows.ids.tolist() == [1, 3]
    assert np.flatnonzero(rows.left).tolist() == [0, 2, 4]
