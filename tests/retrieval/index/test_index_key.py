"""faiss types that do not fit are refused before a picture is embedded; those that fit are built."""

import json

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from index_change_fixtures import archive, changeable  # noqa: F401
from retrieval_fixtures import tiny_models  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.compact import index_compact
from open_clip_idplugin.retrieval.index.factory_key import why_unfit
from open_clip_idplugin.retrieval.index.faiss_build import build_faiss
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.remove import index_remove
from open_clip_idplugin.retrieval.index.sources import find_images

WIDTH = 24


@pytest.mark.parametrize(
    ("key", "count", "reason"),
    [
        ("", 100, "autofaiss builds Flat, HNSW"),
        ("nonsense", 100, "autofaiss builds Flat, HNSW"),
        ("IVF-1,Flat", 100, "autofaiss builds Flat, HNSW"),
        ("IVF4,IVF4,Flat", 100, "autofaiss builds Flat, HNSW"),
        ("IVF0,Flat", 100, "its numbers must be 1 to"),
        ("IVF99999999999,Flat", 100, "its numbers must be 1 to"),
        ("HNSW0", 100, "its numbers must be 1 to"),
        ("HNSW1", 100, "at least 2 links"),
        ("IVF1024,Flat", 100, "1024 clusters need at least as many vectors"),
        ("PQ8", 300, "autofaiss builds Flat, HNSW"),
        ("SQ8", 300, "autofaiss builds Flat, HNSW"),
        ("PCA8,Flat", 300, "autofaiss builds Flat, HNSW"),
        ("IVF4_HNSW32,Flat", 300, "autofaiss builds Flat, HNSW"),
        ("OPQ7_24,IVF4,PQ8x4", 300, "OPQ splits 24 numbers into 7 parts"),
        ("OPQ8_24,IVF4,PQ7x4", 300, "should be a multiple of the number of subquantizers"),
        ("OPQ8_8,IVF4,PQ8x4", 255, "OPQ needs 256 vectors, and is trained with 255"),
        ("OPQ8_8,IVF2,PQ8x4", 300, "OPQ needs 256 vectors, and is trained with 200"),
        ("OPQ8_8,IVF4,PQ8x12", 300, "a product quantizer of 12 bits needs 4096 vectors, and is trained with 300"),
        ("Pad32,IVF400_HNSW32,PQ8x4", 300, "400 clusters need"),
        ("LSH", 100, "autofaiss builds Flat, HNSW"),
    ],
)
def test_types_that_cannot_be_built(key, count, reason):
    assert reason in why_unfit(key, WIDTH, count)


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("Flat", 1),
        ("HNSW2", 5),
        ("HNSW15", 5),
        ("IVF4,Flat", 4),
        ("OPQ1_4,IVF3,PQ1x4", 256),
        ("Pad32,IVF4_HNSW32,PQ8x4", 16),
    ],
)
def test_types_that_fit_are_built(key, count, tmp_path):
    import faiss

    assert why_unfit(key, WIDTH, count) is None
    (tmp_path / "img_emb").mkdir()
    vectors = np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float32)
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", vectors)
    build_faiss(tmp_path, "img", "image", key)
    assert faiss.read_index(str(tmp_path / "image.index")).ntotal == count


def test_what_autofaiss_fails_at_is_one_sentence(tmp_path, monkeypatch):
    import autofaiss

    def fail(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(autofaiss, "build_index", fail)
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.eye(WIDTH, dtype=np.float32))
    with pytest.raises(IdClipError, match=r"no index of the type 'Flat' \(division by zero\): try --index_key Flat"):
        build_faiss(tmp_path, "img", "image", "Flat")
    with pytest.raises(IdClipError, match=r"no index \(division by zero\)$"):
        build_faiss(tmp_path, "img", "image", None)


def test_a_type_that_does_not_fit_is_refused_before_the_embedding(changeable, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(index, "embed_images", lambda *_: pytest.fail("embedded"))
    source = find_images(str(changeable / "shards"))
    with pytest.raises(
        IdClipError, match="--index_key 'IVF25,Flat' does not fit 24 vectors of 24 numbers: 25 clusters"
    ):
        index.build_index(source, tiny_models.load_plain(), tmp_path / "index", EmbedOptions(8, 0), "IVF25,Flat")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("archive", ["IVF4,Flat"], indirect=True)
def test_a_compacted_index_that_is_too_small_for_its_type_gets_another(archive):  # noqa: F811
    index_remove(str(archive), ids=",".join(map(str, range(21))))
    index_compact(str(archive))
    assert json.loads((archive / "image.json").read_text())["index_key"] == "Flat"
