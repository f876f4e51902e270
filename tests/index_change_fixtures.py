"""Indices of every type over drawn images, for the tests that change them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from face_index_fixtures import unit, write_face_table
from retrieval_fixtures import draw_images, write_shard

from open_clip_idplugin.retrieval.face_index.build import add_faces
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import find_images

KINDS = ("Flat", "HNSW15", "IVF4,Flat")
OPTIONS = EmbedOptions(8, 0)
FACES, FACE_SIZE = "test faces", 16
INDEXED, OVERLAP, ALL = 24, 20, 36


@pytest.fixture(scope="session")
def changeable(tiny_models, tmp_path_factory) -> Path:
    """Folders by type, over images 0 to 23 with faces; `more`: shards of images 20 to 35; `table`, `more_table`."""
    folder = tmp_path_factory.mktemp("changeable")
    images = draw_images(ALL)
    for name, parts in {"shards": (images[:12], images[12:INDEXED]), "more": (images[OVERLAP:],)}.items():
        (folder / name).mkdir()
        for number, part in enumerate(parts):
            write_shard(folder / name / f"{number}.tar", part)
    write_face_table(folder / "table", faces_of(images[:INDEXED]), FACES, FACE_SIZE)
    write_face_table(folder / "more_table", faces_of(images[OVERLAP:]), FACES, FACE_SIZE)
    source, loaded = find_images(str(folder / "shards")), tiny_models.load_plain()
    for kind in KINDS:
        index.build_index(source, loaded, folder / kind, OPTIONS, kind)
        add_faces(folder / kind, folder / "table")
    return folder


@pytest.fixture
def archive(changeable, request, tmp_path) -> Path:
    """A copy of an index to change; of the type that the test's parameter names."""
    return Path(shutil.copytree(changeable / getattr(request, "param", "Flat"), tmp_path / "archive"))


def faces_of(images) -> dict[str, list[np.ndarray]]:
    """Each image's one face, different from all others."""
    return {image.key: [face_of(image.key)] for image in images}


def face_of(key: str) -> np.ndarray:
    return unit(np.random.default_rng(int(key.split("_")[0])).standard_normal(FACE_SIZE))
