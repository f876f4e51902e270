"""One pass for image vectors, faces and thumbnails: the same as three runs after each other."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("clip_retrieval")

from collection_fixtures import CORNERS, content_of, draw_collection, toy_options
from face_pack_fixtures import toy_picture
from retrieval_fixtures import draw_images, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.retrieval.face_index import passing_faces
from open_clip_idplugin.retrieval.face_index.build import add_faces
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.add import add_images
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import find_images
from webdataset_tools.collection_faces.build import FacesOptions, build_face_table


@pytest.fixture
def pictures(tmp_path):
    return draw_collection(tmp_path / "pictures")


def separately(tmp_path, pictures, loaded, options: EmbedOptions):
    """`idclip index`, `idclip faces` and `idclip index_faces`."""
    plain = EmbedOptions(options.batch_size, 0)
    index.build_index(find_images(str(pictures)), loaded, tmp_path / "separate", plain)
    spec = options.faces.spec
    build_face_table(FacesOptions(str(pictures), tmp_path / "table", spec, options.faces.det_size, workers=1))
    add_faces(tmp_path / "separate", tmp_path / "table")
    return tmp_path / "separate"


@pytest.mark.parametrize("workers", [0, 2])
def test_equal_to_separate_runs(workers, pictures, tiny_models, tmp_path):  # noqa: F811
    options, loaded = toy_options(tmp_path, workers=workers), tiny_models.load_plain()
    card = index.build_index(find_images(str(pictures)), loaded, tmp_path / "index", options)
    expected = separately(tmp_path, pictures, loaded, options)
    assert content_of(tmp_path / "index") == content_of(expected)
    assert {key: len(faces) for key, (_, faces) in content_of(expected).items()} == {
        key: len(corners) for key, corners in CORNERS.items()
    }
    assert (card.images, card.skipped) == (5, 1)
    ours, theirs = load_face_table(tmp_path / "index" / "face_table"), load_face_table(tmp_path / "table")
    for name in ("key", "path", "face", "width", "height", "embedding_row", "model_id"):
        assert ours.column(name).tolist() == theirs.column(name).tolist()
    for name in ("box", "landmarks", "score"):
        np.testing.assert_allclose(ours.column(name), theirs.column(name), atol=1e-3)
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, atol=1e-5)
    assert ours.info.pictures == theirs.info.pictures == 6


def test_face_table_is_private(pictures, tiny_models, tmp_path):  # noqa: F811
    index.build_index(find_images(str(pictures)), tiny_models.load_plain(), tmp_path / "index", toy_options(tmp_path))
    folder = tmp_path / "index" / "face_table"
    for name in ("faces.parquet", "embeddings.npy"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["embeddings.npy", "faces.parquet", "metadata.json"]


def test_shards_too(tiny_models, tmp_path):  # noqa: F811
    images = draw_images(2)
    pixels = toy_picture((32, 64))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100, subsampling=0)
    face = replace(images[0], key="face", jpeg=stream.getvalue())
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "0.tar", images)
    write_shard(tmp_path / "shards" / "1.tar", [face])
    options, loaded = toy_options(tmp_path), tiny_models.load_plain()
    index.build_index(find_images(str(tmp_path / "shards")), loaded, tmp_path / "index", options)
    expected = separately(tmp_path, tmp_path / "shards", loaded, options)
    assert content_of(tmp_path / "index") == content_of(expected)
    row = load_face_table(tmp_path / "index" / "face_table").row(0)
    assert (row.shard, row.key, row.path) == ("1.tar", "face", "face.jpg")


def test_a_face_model_that_fails_costs_the_faces_alone(pictures, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    find = passing_faces.find_faces

    def failing(engine, pixels, finding):
        faces = find(engine, pixels, finding)
        if len(faces) == 2:
            raise RuntimeError("odd picture")
        return faces

    monkeypatch.setattr(passing_faces, "find_faces", failing)
    index.build_index(find_images(str(pictures)), tiny_models.load_plain(), tmp_path / "index", toy_options(tmp_path))
    found = content_of(tmp_path / "index")
    assert {key: len(faces) for key, (_, faces) in found.items()} == {
        key: 0 if len(corners) == 2 else len(corners) for key, corners in CORNERS.items()
    }


def test_killed_between_pass_and_table(pictures, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    source, loaded, options = find_images(str(pictures)), tiny_models.load_plain(), toy_options(tmp_path)
    index.build_index(source, loaded, tmp_path / "undisturbed", options)
    places = [(passing_faces, "write_table"), (passing_faces, "remove_parts"), (index, "add_faces_to_held")]
    for place, name in places:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            index.build_index(source, loaded, tmp_path / "index", options)
        assert not (tmp_path / "index").exists()
    with monkeypatch.context() as patch:  # what is embedded is not embedded again
        patch.setattr("open_clip_idplugin.retrieval.index.partition_pipeline.Pipeline.run", None)
        index.build_index(source, loaded, tmp_path / "index", options)
    assert content_of(tmp_path / "index") == content_of(tmp_path / "undisturbed")


def test_adding_finds_the_faces_of_what_is_new(pictures, tiny_models, tmp_path):  # noqa: F811
    loaded, options = tiny_models.load_plain(), toy_options(tmp_path)
    (pictures / "two.png").rename(tmp_path / "two.png")
    index.build_index(find_images(str(pictures)), loaded, tmp_path / "index", options)
    (tmp_path / "two.png").rename(pictures / "two.png")
    add_images(tmp_path / "index", find_images(str(pictures)), loaded, options)
    index.build_index(find_images(str(pictures)), loaded, tmp_path / "whole", options)
    assert content_of(tmp_path / "index") == content_of(tmp_path / "whole")
    table = load_face_table(tmp_path / "index" / "face_table")
    assert sorted(set(table.column("key"))) == sorted(key for key, corners in CORNERS.items() if corners)


def test_verb_and_what_is_refused(pictures, tiny_models, tmp_path, capsys):  # noqa: F811
    from retrieval_fixtures import PLAIN

    options = toy_options(tmp_path)
    arguments = (str(pictures), PLAIN, str(tmp_path / "index"), str(tiny_models.plain))
    flags = {"workers": 0, "faces": options.faces.spec, "det_size": 192}
    for change, message in (
        ({"face_table": "table"}, "give one of the two"),
        ({"distributor": "pyspark"}, "on this machine alone"),
        ({"faces": "insightface:/nowhere/pack"}, "nowhere"),
    ):
        with pytest.raises(IdClipError, match=message):
            index.index(*arguments, **{**flags, **change})
    for _ in range(2):
        index.index(*arguments, **flags)
        assert "7 faces in 4 images" in capsys.readouterr().out
    card = json.loads((tmp_path / "index" / "index_card.json").read_text())
    assert card["images"] == 5
