"""More images for an index: old rows stay, new ones are found, and a killed run loses nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from face_index_fixtures import write_face_table
from index_change_fixtures import FACE_SIZE, FACES, KINDS, OPTIONS, archive, changeable, face_of  # noqa: F401
from retrieval_fixtures import FACE_DIM, IDENTITY, PLAIN, draw_images, encode_jpeg, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.calibration import assumed_calibration
from open_clip_idplugin.faces.calibration_files import write_calibration
from open_clip_idplugin.faces.errors import ModelMismatch
from open_clip_idplugin.pictures.thumbnails import Thumbnails
from open_clip_idplugin.retrieval.face_index.reading import load_face_index
from open_clip_idplugin.retrieval.index import add as index_add
from open_clip_idplugin.retrieval.index.build import NothingReadable, build_index
from open_clip_idplugin.retrieval.index.compact import compact
from open_clip_idplugin.retrieval.index.remove import index_remove
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.index_folder import generations
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch, load_card
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.service.app import create_app


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("archive", KINDS, indirect=True)
def test_rows_stay_and_new_ones_are_found(archive, changeable, tiny_models):  # noqa: F811
    from clip_retrieval.clip_back import load_index, load_metadata_provider

    loaded = tiny_models.load_plain()
    before, inode = read_keys(archive), (archive / "img_emb" / "img_emb_000000.npy").stat().st_ino
    source = find_images(str(changeable / "more"))
    added = index_add.add_images(archive, source, loaded, OPTIONS, str(changeable / "more_table"))

    images = {image.key: image for image in draw_images(36)}
    keys = read_keys(archive)
    assert keys[:24] == before
    assert sorted(keys) == sorted(images)
    assert (added.images, added.skipped, len(added.known)) == (12, 0, 4)
    card = load_card(archive)
    assert card == added.card
    assert (card.images, card.synthetic, card.partitions[-1]) == (36, 36, 12)
    assert (archive / "img_emb" / "img_emb_000000.npy").stat().st_ino == inode  # linked, not copied
    report = json.loads((archive / "index_report.json").read_text())["added"]
    assert sorted(report[0]["in_the_index_already"]["keys"]) == sorted(key for key in keys if key in added.known)
    assert not list(archive.parent.glob(".*"))

    stock = load_index(str(archive / "image.index"), enable_faiss_memory_mapping=False)
    metadata, _ = load_metadata_provider(str(archive), False, False, stock, None, False)
    pictures = Thumbnails(archive, card.partitions).get(range(36))
    for row, key in enumerate(keys):
        vector = encode_jpeg(loaded, images[key].jpeg)
        assert stock.search(vector[None], 1)[1][0, 0] == row
        assert metadata.get([row])[0]["caption"] == images[key].caption
        assert pictures[row][-50:] != b"" and pictures.count(pictures[row]) == 1
    faces = load_face_index(archive, keys, FACES)
    np.testing.assert_array_equal(faces.embeddings, [face_of(key) for key in keys])
    assert {path.stat().st_mode & 0o777 for path in (archive / "faces").iterdir()} == {0o600}


def test_twice_is_once_and_faces_are_kept(archive, changeable, tiny_models, capsys):  # noqa: F811
    options = {"images": str(changeable / "more"), "model": PLAIN, "checkpoint": str(tiny_models.plain), "workers": 0}
    index_add.index_add(str(archive), **options)
    assert "12 images added, 0 skipped" in capsys.readouterr().out
    faces = load_face_index(archive, read_keys(archive), FACES)
    assert faces.info.images == 24  # the new images' faces are unknown
    once = snapshot(archive)
    index_add.index_add(str(archive), **options)
    printed = capsys.readouterr().out
    assert "0 images added" in printed
    assert "and 11 more" in printed
    assert snapshot(archive) == once


def test_removed_image_may_come_back(archive, changeable, tiny_models):  # noqa: F811
    back = "21_n000001"
    index_remove(str(archive), keys=back)
    index_add.add_images(archive, find_images(str(changeable / "more")), tiny_models.load_plain(), OPTIONS)
    rows = [row for row, key in enumerate(read_keys(archive)) if key == back]
    assert len(rows) == 2
    client = create_app({"archive": archive}, tiny_models.load(), People()).test_client()
    found = client.post("/knn-service", json={"text": "blocks", "num_images": 40}).get_json()
    assert len(found) == 36
    assert [result["id"] for result in found if result["key"] == back] == rows[1:]
    assert all("image" in result for result in found)


def test_killed_run_loses_nothing_and_goes_on(archive, changeable, tiny_models, monkeypatch):  # noqa: F811
    source, loaded = find_images(str(changeable / "more")), tiny_models.load_plain()
    before = snapshot(archive)
    for place, name in [(index_add, "_extend_faiss"), (index_add, "_write_report"), (generations, "exchange")]:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            index_add.add_images(archive, source, loaded, OPTIONS)
        assert snapshot(archive) == before
    with monkeypatch.context() as patch:  # what is embedded is not embedded again
        patch.setattr("open_clip_idplugin.retrieval.index.partition_pipeline.Pipeline.run", None)
        index_add.add_images(archive, source, loaded, OPTIONS)
    assert load_card(archive).images == 36
    assert not list(archive.parent.glob(".*"))


def test_a_failed_run_leaves_what_the_next_one_can_use_alone(archive, changeable, tiny_models, monkeypatch):  # noqa: F811
    source, loaded = find_images(str(changeable / "more")), tiny_models.load_plain()
    before = snapshot(archive)

    class TakesNoMore:
        def add(self, vectors):
            raise RuntimeError("this type is built once")

    def fail(*_):
        raise OSError("the disk is full")

    for place, name, what, kept in [
        ("add", "read_index", lambda path: TakesNoMore(), False),  # refused again next time
        ("embed", "_embed_here", fail, False),  # nothing is done
        ("add", "_write_report", fail, True),
    ]:
        with pytest.raises((IdClipError, OSError)), monkeypatch.context() as patch:
            patch.setattr(f"open_clip_idplugin.retrieval.index.{place}.{name}", what)
            index_add.add_images(archive, source, loaded, OPTIONS)
        assert snapshot(archive) == before
        left = [path.name for path in archive.parent.glob(".*")]
        assert left == ([".archive.building"] if kept else []), name
    assert not (archive.parent / ".archive.building" / "next").exists()  # half an index is of no use


@pytest.mark.parametrize("there_is_one", [False, True])
def test_pictures_that_were_unreadable_are_read_once_they_are_mended(archive, tiny_models, tmp_path, there_is_one):  # noqa: F811
    """They have the same names and sizes: what was found of them the first time must not count again."""
    (pictures := tmp_path / "pictures").mkdir()
    good = draw_images(1, seed=9)[0].jpeg
    (pictures / "one.jpg").write_bytes(bytes(len(good)))
    target = archive if there_is_one else tmp_path / "fresh"
    make = index_add.add_images if there_is_one else lambda index, *rest: build_index(rest[0], rest[1], index, rest[2])
    for readable in (False, True):
        source = find_images(str(pictures))
        if readable:
            make(target, source, tiny_models.load_plain(), OPTIONS)
        else:
            with pytest.raises(NothingReadable):
                make(target, source, tiny_models.load_plain(), OPTIONS)
            (pictures / "one.jpg").write_bytes(good)
        assert not list(target.parent.glob(".*.building"))
    assert "one" in "".join(read_keys(target))


def test_a_calibration_beside_the_faces_stays(archive, changeable, tiny_models):  # noqa: F811
    own = replace(assumed_calibration(FACES), source="measured here")
    write_calibration(archive / "faces" / "calibration.json", own)
    loaded = tiny_models.load_plain()
    tables = (str(changeable / "more_table"), None)
    for number, table in enumerate(tables):
        (folder := changeable.parent / f"{archive.parent.name}_{number}").mkdir()
        images = draw_images(36)[24:30] if number == 0 else draw_images(36)[30:]
        write_shard(folder / "0.tar", images)
        index_add.add_images(archive, find_images(str(folder)), loaded, OPTIONS, table)
        assert load_face_index(archive, read_keys(archive), FACES).calibration.source == "measured here"
        assert (archive / "faces" / "calibration.json").stat().st_mode & 0o777 == 0o600
    index_remove(str(archive), ids="1,2")
    compact(archive)
    assert load_face_index(archive, read_keys(archive), FACES).calibration.source == "measured here"


def test_folder_of_pictures(archive, tiny_models, tmp_path):  # noqa: F811
    images = draw_images(3, seed=9)
    (tmp_path / "pictures").mkdir()
    for image in images:
        (tmp_path / "pictures" / f"{image.key}.jpg").write_bytes(image.jpeg)
    (tmp_path / "pictures" / "bad.jpg").write_bytes(b"no picture")
    added = index_add.add_images(archive, find_images(str(tmp_path / "pictures")), tiny_models.load_plain(), OPTIONS)
    assert (added.images, added.skipped, added.known) == (3, 1, [])


def test_another_face_model_is_refused_before_the_work(archive, changeable, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    source, loaded = find_images(str(changeable / "more")), tiny_models.load_plain()
    faces = {"500_n000001": [face_of("500_n000001")]}
    table = write_face_table(tmp_path / "table", faces, "insightface:other/net-0123456789ab", FACE_SIZE)
    monkeypatch.setattr(index_add, "embed_images", None)  # calling it would be a TypeError
    before = snapshot(archive)
    with pytest.raises(
        ModelMismatch, match=r"the faces of the index .* and those of the table .* from different models"
    ):
        index_add.add_images(archive, source, loaded, OPTIONS, table)
    assert snapshot(archive) == before


def test_what_is_refused(archive, changeable, tiny_models, tmp_path):  # noqa: F811
    source, loaded = find_images(str(changeable / "more")), tiny_models.load_plain()
    before = snapshot(archive)
    with pytest.raises(IndexMismatch, match="was made with the image tower of"):
        index_add.add_images(archive, source, tiny_models.load(prompted=True), OPTIONS)
    with pytest.raises(IndexMismatch, match="no index folder"):
        index_add.add_images(tmp_path / "nowhere", source, loaded, OPTIONS)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(IdClipError, match="none of the 1 new pictures could be read"):
        index_add.add_images(archive, find_images(str(tmp_path / "pictures")), loaded, OPTIONS)
    with generations.changing(archive), pytest.raises(IdClipError, match="another process is writing"):
        index_add.add_images(archive, source, loaded, OPTIONS)
    info = archive / "faces" / "faces.json"
    info.write_text(info.read_text().replace(FACES, "other faces"))
    with pytest.raises(ModelMismatch):
        index_add.add_images(archive, source, loaded, OPTIONS, str(changeable / "more_table"))
    info.write_text(info.read_text().replace("other faces", FACES))
    assert snapshot(archive) == before
    assert not list(archive.parent.glob(".*"))
    (archive / "index_card.json").unlink()
    with pytest.raises(IndexMismatch, match="no index card"):
        index_add.add_images(archive, source, loaded, OPTIONS)


def test_exchange_where_the_system_has_no_single_step(tmp_path, monkeypatch):
    monkeypatch.setattr(generations.ctypes, "CDLL", lambda *_, **__: object())
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    handle = generations.FolderHandle(tmp_path / "old")
    assert handle.is_current()
    generations.exchange(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == ["old", "new"]
    assert not handle.is_current()
