"""An index that follows a folder: new, changed, renamed, copied and gone pictures, and kills at any moment."""

import os
import shutil
import time

import pytest

pytest.importorskip("clip_retrieval")

from collection_fixtures import CORNERS, content_of, draw, draw_collection, list_files, touch_later, toy_options
from retrieval_fixtures import tiny_models  # noqa: F401

from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.retrieval.index import add as index_add
from open_clip_idplugin.retrieval.index import partition_pipeline
from open_clip_idplugin.retrieval.index import refresh as index_refresh
from open_clip_idplugin.retrieval.index import rename as index_rename
from open_clip_idplugin.retrieval.index.build import NothingReadable
from open_clip_idplugin.retrieval.index.picture_manifest import FILE_NAME, read_manifest
from open_clip_idplugin.retrieval.index.refresh import IndexRefresh
from open_clip_idplugin.retrieval.index.remove import index_remove
from open_clip_idplugin.retrieval.index_folder import generations
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch


@pytest.fixture
def root(tmp_path):
    return draw_collection(tmp_path / "pictures")


@pytest.fixture
def refresh(root, tiny_models, tmp_path):  # noqa: F811
    """Refresh the index of `root`, or of another name; `loads` counts how often the model was asked for."""
    loads = []

    def load():
        loads.append(1)
        return tiny_models.load_plain()

    def run(name="index"):
        return IndexRefresh(tmp_path / name, root, load, toy_options(tmp_path)).run(list_files(root))

    run.loads = loads
    return run


def change_everything(root):
    """One picture of each kind; returns nothing that stays equal by chance."""
    draw(root / "new.png", [(32, 96), (96, 0)], 20)
    draw(root / "one.png", [(96, 96)], 21)  # changed
    (root / "two.png").rename(root / "sub" / "moved.png")
    (root / "none.png").unlink()
    shutil.copy(root / "sub" / "three.png", root / "copy.png")


def assert_equal_to_new(tmp_path, root, refresh):
    """The index is as one that is made now; of its files only the manifest and the faces are looked at."""
    refresh("fresh")
    assert content_of(tmp_path / "index") == content_of(tmp_path / "fresh")
    known, fresh = (read_manifest(tmp_path / name / FILE_NAME) for name in ("index", "fresh"))
    assert {each.name: each.state for each in known} == {each.name: each.state for each in fresh}
    tables = [load_face_table(tmp_path / name / "face_table") for name in ("index", "fresh")]
    assert sorted(zip(*(tables[0].column(name) for name in ("key", "face")))) == sorted(
        zip(*(tables[1].column(name) for name in ("key", "face")))
    )
    shutil.rmtree(tmp_path / "fresh")


def test_first_and_second_run(root, refresh, tmp_path, monkeypatch):
    first = refresh()
    assert (first.images, first.new, len(first.unreadable)) == (5, 5, 1)
    assert first.unreadable[0].key == "broken.jpg" and first.unreadable[0].detail
    assert set(content_of(tmp_path / "index")) == set(CORNERS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")}
    monkeypatch.setattr(index_refresh, "hash_file", None)  # nothing is read
    second = refresh()
    assert second.nothing and second.images == 5 and len(second.unreadable) == 1
    assert len(refresh.loads) == 1  # the model neither
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")} == before


def test_every_kind_of_change(root, refresh, tmp_path):
    refresh()
    change_everything(root)
    done = refresh()
    assert (done.new, done.changed, done.renamed, done.gone) == (1, 1, 1, 1)
    assert [(skip.key, skip.detail) for skip in done.copies] == [("sub/three.png", "copy.png")] or [
        (skip.key, skip.detail) for skip in done.copies
    ] == [("copy.png", "sub/three.png")]
    assert_equal_to_new(tmp_path, root, refresh) if done.copies[0].key != "copy.png" else None
    assert set(content_of(tmp_path / "index")) == {
        "new.png",
        "one.png",
        "sub/moved.png",
        "sub/three.png",
        "sub/four.png",
    }
    assert refresh().nothing


def test_only_what_is_new_is_embedded(root, refresh, tmp_path, monkeypatch):
    refresh()
    change_everything(root)
    seen = []
    decode = partition_pipeline._PictureFolder.__getitem__
    monkeypatch.setattr(
        partition_pipeline._PictureFolder,
        "__getitem__",
        lambda self, row: seen.append(self._keys[row]) or decode(self, row),
    )
    refresh()
    assert sorted(seen) == ["new.png", "one.png"]


def test_names_that_change_places(root, refresh, tmp_path):
    refresh()
    before = content_of(tmp_path / "index")
    (root / "one.png").rename(root / "aside")
    (root / "two.png").rename(root / "one.png")
    (root / "aside").rename(root / "two.png")
    for _ in range(2):  # the second run must not change them back
        refresh()
        after = content_of(tmp_path / "index")
        assert after == {**before, "one.png": before["two.png"], "two.png": before["one.png"]}
    assert len(refresh.loads) == 1


def test_copy_takes_the_place_of_a_lost_original(root, refresh, tmp_path):
    shutil.copy(root / "one.png", root / "zcopy.png")
    assert [skip.key for skip in refresh().copies] == ["zcopy.png"]
    before = content_of(tmp_path / "index")
    (root / "one.png").unlink()
    done = refresh()
    assert (done.renamed, done.gone, done.copies) == (1, 0, [])
    assert content_of(tmp_path / "index")["zcopy.png"] == before["one.png"]
    assert len(refresh.loads) == 1


def test_touched_is_not_changed(root, refresh):
    refresh()
    touch_later(root / "one.png")
    assert refresh().nothing
    assert len(refresh.loads) == 1


def test_unreadable_is_tried_again_when_it_changed(root, refresh, tmp_path):
    refresh()
    touch_later(root / "broken.jpg")
    assert refresh().nothing and len(refresh.loads) == 1  # same bytes
    (root / "broken.jpg").write_bytes(b"still no picture")
    assert [skip.key for skip in refresh().unreadable] == ["broken.jpg"] and len(refresh.loads) == 2
    draw(root / "whole.png", [(32, 0)], 9)
    (root / "whole.png").rename(root / "broken.jpg")
    done = refresh()
    assert (done.new + done.changed, done.unreadable) == (1, [])
    assert "broken.jpg" in content_of(tmp_path / "index")


def test_hidden_by_hand_stays_hidden(root, refresh, tmp_path):
    refresh()
    index_remove(str(tmp_path / "index"), keys="one.png")
    done = refresh()
    assert done.nothing and done.hidden == 1
    assert "one.png" not in content_of(tmp_path / "index")
    (root / "two.png").unlink()
    refresh()
    draw(root / "two.png", CORNERS["two.png"], 1)  # gone and come back is another matter
    assert refresh().new == 1
    assert "two.png" in content_of(tmp_path / "index")


def test_faces_of_gone_pictures_leave_and_the_index_is_compacted(root, refresh, tmp_path):
    refresh()
    (root / "two.png").unlink()
    (root / "sub" / "three.png").unlink()
    done = refresh()
    assert done.compacted and done.gone == 2
    keys = set(load_face_table(tmp_path / "index" / "face_table").column("key"))
    assert keys == {"one.png", "sub/four.png"}
    assert not (tmp_path / "index" / "removed.json").exists()
    assert_equal_to_new(tmp_path, root, refresh)


def test_running_service_sees_it(root, refresh, tmp_path, tiny_models):  # noqa: F811
    from open_clip_idplugin.retrieval.ranking.query_people import People
    from open_clip_idplugin.retrieval.service.app import create_app
    from open_clip_idplugin.retrieval.service.served_indices import CHECK_SECONDS

    refresh()
    client = create_app({"index": tmp_path / "index"}, tiny_models.load(), People()).test_client()

    def keys():
        answer = client.post("/knn-service", json={"text": "a square", "num_images": 20}).get_json()
        return {result["key"] for result in answer}

    assert keys() == set(CORNERS)
    change_everything(root)
    refresh()
    for _ in range(20):
        time.sleep(CHECK_SECONDS / 4)
        if keys() != set(CORNERS):
            break
    assert {"new.png", "sub/moved.png"} < keys() and "none.png" not in keys()


KILLS = [
    (index_refresh, "write_manifest", 0),
    (index_refresh, "write_manifest", 1),
    (index_refresh, "write_manifest", 2),
    (index_refresh, "write_manifest", 3),
    (index_refresh, "remove_rows", 0),
    (index_refresh, "keep_only", 0),
    (index_rename, "rename_in_table", 0),
    (generations, "exchange", 0),
    (generations, "exchange", 1),
    (index_add, "embed_images", 0),
    (index_add, "_extend_faiss", 0),
    (index_add, "add_to_table", 0),
]


@pytest.mark.parametrize(("place", "name", "number"), KILLS)
def test_killed_anywhere_the_next_run_ends_the_same(place, name, number, root, refresh, tmp_path, monkeypatch):
    refresh()
    change_everything(root)
    (root / "copy.png").unlink()
    calls = []

    real = getattr(place, name)

    def dying(*arguments, **named):
        calls.append(1)
        if len(calls) == number + 1:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(place, name, dying)
        refresh()
    refresh()
    assert_equal_to_new(tmp_path, root, refresh)
    assert refresh().nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "pack", "pictures"]


def test_killed_first_run_goes_on_with_its_list(root, refresh, tmp_path, monkeypatch):
    """A picture that comes while a long first run is interrupted must not throw its work away."""
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(
            "open_clip_idplugin.retrieval.index.build.build_faiss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        refresh()
    draw(root / "new.png", [(32, 96)], 20)
    (root / "one.png").unlink()
    seen = []
    decode = partition_pipeline._PictureFolder.__getitem__
    monkeypatch.setattr(
        partition_pipeline._PictureFolder,
        "__getitem__",
        lambda self, row: seen.append(self._keys[row]) or decode(self, row),
    )
    done = refresh()
    assert seen == ["new.png"]
    assert done.images == 5 and done.gone == 1
    monkeypatch.undo()
    assert_equal_to_new(tmp_path, root, refresh)


def test_nothing_readable(root, refresh, tmp_path):
    for name in CORNERS:
        (root / name).unlink()
    with pytest.raises(NothingReadable):
        refresh()
    assert not (tmp_path / "index").exists()
    draw(root / "good.png", [(0, 0)])
    assert refresh().images == 1


def test_names_that_are_not_text(root, refresh, tmp_path):
    from open_clip_idplugin.retrieval.index.picture_manifest import KnownPicture, write_manifest

    odd = os.fsdecode(b"caf\xe9.png")
    write_manifest(tmp_path / "list.parquet", [KnownPicture(odd, 3, 4, "ab", "unreadable", "why")])
    assert read_manifest(tmp_path / "list.parquet") == [KnownPicture(odd, 3, 4, "ab", "unreadable", "why")]


def test_an_index_of_somebody_else_is_refused(root, refresh, tmp_path):
    refresh()
    (tmp_path / "index" / FILE_NAME).unlink()
    with pytest.raises(IndexMismatch, match="not made by"):
        refresh()
