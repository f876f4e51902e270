"""Removed images leave the files of an index: vectors, metadata, thumbnails and faces; the others stay."""

import json

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from index_change_fixtures import FACES, KINDS, OPTIONS, archive, changeable, face_of  # noqa: F401
from retrieval_fixtures import draw_images, encode_jpeg, tiny_models  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.thumbnails import Thumbnails
from open_clip_idplugin.retrieval.face_index.reading import load_face_index
from open_clip_idplugin.retrieval.index import add as index_add
from open_clip_idplugin.retrieval.index import compact as index_compact
from open_clip_idplugin.retrieval.index.remove import index_remove
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.index_folder import generations
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch, load_card
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys


def everything_in(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("archive", KINDS, indirect=True)
def test_removed_rows_leave_the_files(archive, changeable, tiny_models, capsys):  # noqa: F811
    import faiss

    loaded = tiny_models.load_plain()
    index_add.add_images(
        archive, find_images(str(changeable / "more")), loaded, OPTIONS, str(changeable / "more_table")
    )
    keys, card = read_keys(archive), load_card(archive)
    gone = [0, 5, 13, 30]
    pictures = Thumbnails(archive, card.partitions).get(range(36))
    vectors = np.concatenate([np.load(path) for path in sorted((archive / "img_emb").glob("*.npy"))])
    index_remove(str(archive), ids=",".join(map(str, gone)))
    before = everything_in(archive)
    capsys.readouterr()
    index_compact.index_compact(str(archive))
    assert "4 images left with 4 thumbnails and 4 faces\n32 images stay" in capsys.readouterr().out

    raw = everything_in(archive)
    for row in gone:
        traces = (vectors[row].tobytes(), vectors[row].astype(np.float32).tobytes(), face_of(keys[row]).tobytes())
        assert all(trace in before and trace not in raw for trace in traces)
        assert pictures[row][-40:] not in raw
        assert f'"{keys[row]}"'.encode() not in raw
    stay = [row for row in range(36) if row not in gone]
    assert read_keys(archive) == [keys[row] for row in stay]
    faiss_index = faiss.read_index(str(archive / "image.index"))
    assert faiss_index.ntotal == 32
    images = {image.key: image for image in draw_images(36)}
    for row, key in enumerate(read_keys(archive)):
        assert faiss_index.search(encode_jpeg(loaded, images[key].jpeg)[None], 1)[1][0, 0] == row
    card = load_card(archive)
    assert (card.images, card.synthetic, sum(card.partitions)) == (32, 32, 32)
    assert Thumbnails(archive, card.partitions).get(range(32)) == [pictures[row] for row in stay]
    faces = load_face_index(archive, read_keys(archive), FACES)
    np.testing.assert_array_equal(faces.embeddings, [face_of(keys[row]) for row in stay])
    assert faces.info.images == 32
    assert not (archive / "removed.json").exists()
    assert not list(archive.parent.glob(".*"))
    assert json.loads((archive / "image.json").read_text())["index_key"] == archive_kind(faiss_index)

    index_compact.index_compact(str(archive))
    assert "nothing was removed" in capsys.readouterr().out
    added = index_add.add_images(archive, find_images(str(changeable / "shards")), loaded, OPTIONS)
    assert added.images == 3  # what left may come back


def archive_kind(faiss_index) -> str:
    return {"IndexFlatIP": "Flat", "IndexHNSWFlat": "HNSW15", "IndexIVFFlat": "IVF4,Flat"}[type(faiss_index).__name__]


def test_killed_run_loses_nothing(archive, monkeypatch):  # noqa: F811
    index_remove(str(archive), ids="3")
    before = everything_in(archive)
    for place, name in [(index_compact, "build_faiss"), (generations, "exchange")]:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            index_compact.compact(archive)
        assert everything_in(archive) == before
    assert index_compact.compact(archive) == index_compact.Left(1, 1, 1, 23)


def test_faces_of_some_images_only(archive, changeable, tiny_models):  # noqa: F811
    index_add.add_images(archive, find_images(str(changeable / "more")), tiny_models.load_plain(), OPTIONS)
    keys = read_keys(archive)
    index_remove(str(archive), ids="2,35")
    assert index_compact.compact(archive).faces == 1
    faces = load_face_index(archive, read_keys(archive), FACES)
    assert faces.info.images == 23
    assert keys[2] not in read_keys(archive)


def test_what_is_refused(archive, tmp_path):  # noqa: F811
    with pytest.raises(IndexMismatch, match="no index folder"):
        index_compact.compact(tmp_path / "nowhere")
    index_remove(str(archive), ids=",".join(map(str, range(24))))
    with pytest.raises(IdClipError, match="delete the folder"):
        index_compact.compact(archive)
    (archive / "removed.json").write_text('{"ids": [1]}')
    next((archive / "img_emb").glob("*.npy")).unlink()
    with pytest.raises(IndexMismatch, match="does not hold the embeddings"):
        index_compact.compact(archive)
    assert (archive / "removed.json").exists()


def test_index_of_clip_retrieval_itself(archive):  # noqa: F811
    (archive / "index_card.json").unlink()
    (archive / "index_report.json").unlink()
    (archive / "thumbnails.sqlite").unlink()
    keys = read_keys(archive)
    index_remove(str(archive), keys=keys[7])
    assert index_compact.compact(archive) == index_compact.Left(1, 0, 1, 23)
    assert read_keys(archive) == keys[:7] + keys[8:]
