"""faiss indices from strangers: refused by their own size before faiss allocates what they claim."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")

import faiss

from open_clip_idplugin.retrieval.index_folder.faiss_files import read_index

VECTORS = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)


@pytest.fixture(params=["Flat", "IVF4,Flat", "HNSW8", "IDMap,Flat", "OPQ4,IVF4,Flat"])
def path(request, tmp_path) -> Path:
    index = faiss.index_factory(8, request.param, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, np.arange(700)) if "IDMap" in request.param else index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "image.index"))
    return tmp_path / "image.index"


@pytest.mark.parametrize("flags", [0, faiss.IO_FLAG_MMAP])
def test_real_indices_are_read(path, flags):
    index = read_index(path, flags)
    assert index.ntotal == 700 and index.search(VECTORS[:1], 3)[1].shape == (1, 3)


@pytest.mark.parametrize(
    ("place", "value"), [(8, struct.pack("<q", 1 << 40)), (8, struct.pack("<q", -1)), (4, struct.pack("<i", 1 << 20))]
)
def test_a_count_beyond_the_file_is_refused(path, place, value):
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"claims -?\d+ vectors of \d+ dimensions in \d+ bytes"):
        read_index(path)


@pytest.mark.parametrize("length", [0, 10, 36, 200])
def test_torn_files_are_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RuntimeError):
        read_index(path)


def test_numbers_of_a_flat_index_are_counted(tmp_path):
    path = tmp_path / "flat.index"
    index = faiss.IndexFlatIP(8)
    index.add(VECTORS)
    faiss.write_index(index, str(path))
    content = bytearray(path.read_bytes())
    content[37:45] = struct.pack("<q", 1 << 38)
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"claims \d+ numbers in \d+ bytes"):
        read_index(path)


def test_lists_in_a_file_elsewhere_are_refused(tmp_path):
    """faiss opens whatever file the index names."""
    for name in ("own", "elsewhere"):
        (tmp_path / name).mkdir()
    quantizer = faiss.IndexFlatL2(8)
    index = faiss.IndexIVFFlat(quantizer, 8, 4)
    index.train(VECTORS)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "elsewhere" / "lists"))
    index.replace_invlists(lists)
    index.add(VECTORS)
    path = tmp_path / "own" / "image.index"
    faiss.write_index(index, str(path))
    with pytest.raises(RuntimeError, match=r"keeps its lists in \S+elsewhere/lists, outside its folder"):
        read_index(path)
    shutil.copy(path, tmp_path / "elsewhere" / "image.index")
    assert read_index(tmp_path / "elsewhere" / "image.index").ntotal == 700
