"""From pictures to an index folder: through clip-retrieval's own readers and autofaiss, with bad input on the way."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from index_fixtures import OPTIONS, read_index
from PIL import Image

pytest.importorskip("clip_retrieval")

from retrieval_fixtures import DrawnImage, draw_images, encode_jpeg, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.thumbnails import Thumbnails
from open_clip_idplugin.retrieval.face_index.reading import load_face_index
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index import partition_pipeline
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import SourceError, find_images
from open_clip_idplugin.retrieval.index.writer import record_columns
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch, load_card


@pytest.fixture
def shards(tmp_path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    images = draw_images(24)
    for number in range(3):
        write_shard(folder / f"{number:05d}.tar", images[number * 8 : number * 8 + 8])
    return folder


def test_rows_vectors_metadata_and_thumbnails_agree(shards, tiny_models, tmp_path):  # noqa: F811
    loaded = tiny_models.load_plain()
    images = {image.key: image for image in draw_images(24)}
    card = index.build_index(find_images(str(shards)), loaded, tmp_path / "index", EmbedOptions(4, 2))
    metadata, vectors = read_index(tmp_path / "index")

    assert card.images == len(metadata) == len(vectors) == 24
    assert set(metadata["image_path"]) == set(images)
    thumbnails = Thumbnails(tmp_path / "index", card.partitions).get(range(24))
    for row, (key, vector) in enumerate(zip(metadata["image_path"], vectors)):
        np.testing.assert_allclose(vector, encode_jpeg(loaded, images[key].jpeg), atol=1e-3)  # stored as float16
        assert metadata["caption"].iloc[row] == images[key].caption
        assert metadata["identity_id"].iloc[row] == images[key].record["identity_id"]
        assert metadata["attributes.stratum"].iloc[row] == images[key].record["attributes"]["stratum"]
        shown, original = (
            np.asarray(Image.open(io.BytesIO(jpeg)), float) for jpeg in (thumbnails[row], images[key].jpeg)
        )
        assert np.abs(shown - original).mean() < 15

    assert load_card(tmp_path / "index") == card
    assert card.synthetic == 24
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "image.index", "image.json", "img_emb", "index_card.json", "index_report.json", "metadata", "thumbnails.sqlite",
    }  # fmt: skip
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "index").glob("*.json"))
    assert not list(tmp_path.glob(".*"))


def test_bad_pictures_cost_their_row_only(shards, tiny_models, tmp_path):  # noqa: F811
    images = draw_images(24)
    bad = [
        DrawnImage("100_n1", b"no picture at all", "text", {"image_id": "a string this time"}),
        DrawnImage("101_n1", images[0].jpeg[:200], "truncated", {"image_id": None}),
    ]
    write_shard(shards / "00003.tar", [*bad, images[3]])
    card = index.build_index(find_images(str(shards)), tiny_models.load_plain(), tmp_path / "index", OPTIONS)
    assert (card.images, card.skipped) == (25, 2)
    report = json.loads((tmp_path / "index" / "index_report.json").read_text())
    assert sorted(report["skipped"]["keys"]) == ["100_n1", "101_n1"]
    assert (report["found"], report["indexed"]) == (27, 25)


def test_nothing_readable(tmp_path, tiny_models):  # noqa: F811
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(IdClipError, match="none of the 1 pictures could be read"):
        index.build_index(
            find_images(str(tmp_path / "pictures")), tiny_models.load_plain(), tmp_path / "index", OPTIONS
        )
    assert not (tmp_path / "index").exists()


def test_folder_of_pictures(tmp_path, tiny_models):  # noqa: F811
    images = draw_images(3)
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    (tmp_path / "pictures" / "one.jpg").write_bytes(images[0].jpeg)
    (tmp_path / "pictures" / "sub" / "two.JPG").write_bytes(images[1].jpeg)
    (tmp_path / "pictures" / "bad.png").write_bytes(images[2].jpeg[:100])
    (tmp_path / "pictures" / "one.txt").write_text("left alone: keys of texts and pictures do not match here")
    loaded = tiny_models.load_plain()
    card = index.build_index(find_images(str(tmp_path / "pictures")), loaded, tmp_path / "index", OPTIONS)
    metadata, vectors = read_index(tmp_path / "index")
    assert list(metadata["image_path"]) == ["one.jpg", "sub/two.JPG"]
    assert (card.images, card.skipped) == (2, 1)
    np.testing.assert_allclose(vectors[1], encode_jpeg(loaded, images[1].jpeg), atol=1e-3)


def test_same_index_again_is_kept_and_another_is_refused(shards, tiny_models, tmp_path, capsys):  # noqa: F811
    source, loaded = find_images(str(shards)), tiny_models.load_plain()
    first = index.build_index(source, loaded, tmp_path / "index", OPTIONS)
    stamp = (tmp_path / "index" / "image.index").stat().st_mtime_ns
    assert index.build_index(source, loaded, tmp_path / "index", EmbedOptions(2, 0)) == first
    assert (tmp_path / "index" / "image.index").stat().st_mtime_ns == stamp
    assert "nothing to do" in capsys.readouterr().out

    with pytest.raises(IdClipError, match="holds an index of other images, another model or other options"):
        index.build_index(source, tiny_models.load(prompted=True), tmp_path / "index", OPTIONS)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(IdClipError, match="holds something else"):
        index.build_index(source, loaded, tmp_path / "letters", OPTIONS)
    assert (tmp_path / "letters" / "letter.txt").exists()


def test_killed_build_leaves_no_index_and_goes_on(shards, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    source, loaded = find_images(str(shards)), tiny_models.load_plain()
    run, calls = partition_pipeline.Pipeline.run, []

    def killed_in_the_second_partition(self, number):
        calls.append(number)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return run(self, number)

    monkeypatch.setattr(partition_pipeline.Pipeline, "run", killed_in_the_second_partition)
    options = EmbedOptions(4, 0)
    with pytest.raises(KeyboardInterrupt):
        index.build_index(source, loaded, tmp_path / "index", options)
    assert not (tmp_path / "index").exists()
    with pytest.raises(RuntimeError, match="killed while indexing"), monkeypatch.context() as patch:
        patch.setattr(index, "build_faiss", lambda *_: (_ for _ in ()).throw(RuntimeError("killed while indexing")))
        index.build_index(source, loaded, tmp_path / "index", options)
    assert not (tmp_path / "index").exists()
    card = index.build_index(source, loaded, tmp_path / "index", options)
    assert calls == [0, 1, 1, 2]  # nothing finished was done again
    assert (card.images, card.partitions) == (24, (8, 8, 8))

    undisturbed = index.build_index(source, loaded, tmp_path / "undisturbed", options)
    assert undisturbed == card
    for one, other in zip(read_index(tmp_path / "index"), read_index(tmp_path / "undisturbed")):
        assert (np.asarray(one) == np.asarray(other)).all()


def test_killed_build_goes_on_with_its_partitions_whatever_the_workers(shards, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    source, loaded = find_images(str(shards)), tiny_models.load_plain()
    with pytest.raises(RuntimeError), monkeypatch.context() as patch:
        patch.setattr(index, "build_faiss", lambda *_: (_ for _ in ()).throw(RuntimeError))
        index.build_index(source, loaded, tmp_path / "index", EmbedOptions(4, 0))
    (tmp_path / ".index.building" / "done" / "000002.json").unlink()
    card = index.build_index(source, loaded, tmp_path / "index", EmbedOptions(4, 3))
    metadata, _ = read_index(tmp_path / "index")
    assert card.partitions == (8, 8, 8) and set(metadata["image_path"]) == {image.key for image in draw_images(24)}


def test_unfinished_build_of_another_plan_is_thrown_away(shards, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    source = find_images(str(shards))
    with pytest.raises(RuntimeError), monkeypatch.context() as patch:
        patch.setattr(index, "build_faiss", lambda *_: (_ for _ in ()).throw(RuntimeError))
        index.build_index(source, tiny_models.load(prompted=True), tmp_path / "index", OPTIONS)
    loaded = tiny_models.load_plain()
    index.build_index(source, loaded, tmp_path / "index", OPTIONS)
    metadata, vectors = read_index(tmp_path / "index")
    jpeg = {image.key: image.jpeg for image in draw_images(24)}[metadata["image_path"].iloc[0]]
    np.testing.assert_allclose(vectors[0], encode_jpeg(loaded, jpeg), atol=1e-3)


def test_captions_are_embedded_on_request(shards, tiny_models, tmp_path):  # noqa: F811
    import faiss

    loaded = tiny_models.load()
    options = EmbedOptions(4, 0, thumbnail_size=0, embed_captions=True)
    index.build_index(find_images(str(shards)), loaded, tmp_path / "index", options)
    metadata, _ = read_index(tmp_path / "index")
    vectors = faiss.read_index(str(tmp_path / "index" / "text.index")).reconstruct_n(0, 24)
    expected = loaded.model.encode_text(loaded.tokenizer(list(metadata["caption"])), normalize=True)
    np.testing.assert_allclose(vectors, expected.detach().numpy(), atol=1e-3)
    assert not (tmp_path / "index" / "thumbnails.sqlite").exists()


def test_shards_without_captions_or_records(tmp_path, tiny_models):  # noqa: F811
    images = draw_images(6)
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "0.tar", images[:3])
    write_shard(tmp_path / "shards" / "1.tar", images[3:], captions=False, records=False)
    source = find_images(str(tmp_path / "shards"))
    assert not source.has_captions  # the reader would drop three pictures otherwise
    assert index.build_index(source, tiny_models.load_plain(), tmp_path / "index", OPTIONS).images == 6


def test_sources(shards, tmp_path):
    assert find_images(f"{shards}/{{00000..00002}}.tar") == find_images(str(shards))
    assert find_images(str(shards / "00001.tar")).count == 8
    with pytest.raises(SourceError, match="no file or folder"):
        find_images(f"{shards}/{{00000..00005}}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="neither tar files nor pictures"):
        find_images(str(tmp_path / "empty"))


def test_tar_that_breaks_off(shards, tiny_models, tmp_path):  # noqa: F811
    whole = (shards / "00002.tar").read_bytes()
    (shards / "00002.tar").write_bytes(whole[: len(whole) // 2 + 300])
    source = find_images(str(shards))
    card = index.build_index(source, tiny_models.load_plain(), tmp_path / "index", OPTIONS)
    assert 16 < card.images < 24
    report = json.loads((tmp_path / "index" / "index_report.json").read_text())
    assert report["shards_that_break_off"] == ["00002.tar"]


def test_records_of_any_form():
    columns = record_columns(['{"a": 1, "b": {"c": [1, 2]}}', "no json", '{"a": "x", "d": null}', "[1]"])
    assert columns == {"a": [1, None, "x", None], "b.c": ["[1, 2]", None, None, None], "d": [None] * 4}


def test_fingerprint_tells_image_towers_apart(tiny_models):  # noqa: F811
    import torch

    plain = fingerprint_image_tower(tiny_models.load_plain().model)
    identity = tiny_models.load()
    assert fingerprint_image_tower(identity.model) == plain
    assert fingerprint_image_tower(tiny_models.load(prompted=True).model) != plain
    with torch.no_grad():
        identity.model.adaptor.output.weight += 1  # the text side does not matter
    assert fingerprint_image_tower(identity.model) == plain
    identity.model.visual.preprocess_cfg["mean"] = (0.0, 0.0, 0.0)
    assert fingerprint_image_tower(identity.model) != plain


def test_damaged_card(tmp_path):
    assert load_card(tmp_path) is None
    for content in ("{", "[]", '{"version": 1}', '{"version": 99}'):
        (tmp_path / "index_card.json").write_text(content)
        with pytest.raises(IndexMismatch):
            load_card(tmp_path)


def test_verb(shards, tiny_models, tmp_path, capsys):  # noqa: F811
    from retrieval_fixtures import IDENTITY

    output = str(tmp_path / "index")
    index.index(str(shards), IDENTITY, output, str(tiny_models.identity), workers=0)
    printed = capsys.readouterr().out
    assert "24 images, 0 skipped" in printed
    assert "idclip serve --index" in printed
    with pytest.raises(IdClipError, match="--precision 'fp8'"):
        index.index(str(shards), IDENTITY, output, precision="fp8")
    with pytest.raises(IdClipError, match="--batch_size"):
        index.index(str(shards), IDENTITY, output, batch_size=0)
    shutil.rmtree(output)


def test_verb_with_faces(shards, tiny_models, tmp_path, capsys):  # noqa: F811
    from face_index_fixtures import unit, write_face_table
    from retrieval_fixtures import IDENTITY

    from open_clip_idplugin.faces.face_table import FaceTableError

    faces = {image.key: [unit(np.eye(4)[row % 4])] for row, image in enumerate(draw_images(24)) if row % 2}
    table = write_face_table(tmp_path / "table", faces, "test-model", 4)
    arguments = (str(shards), IDENTITY, str(tmp_path / "index"), str(tiny_models.identity))
    with pytest.raises(FaceTableError):
        index.index(*arguments, workers=0, face_table=str(tmp_path / "elsewhere"))
    assert not (tmp_path / "index").exists()
    for _ in range(2):
        index.index(*arguments, workers=0, face_table=str(table))
        assert "12 faces in 12 images, by test-model" in capsys.readouterr().out
    keys = read_index(tmp_path / "index")[0]["image_path"].tolist()
    found = load_face_index(tmp_path / "index", keys)
    assert {keys[row] for row in range(24) if len(found.faces_of(row))} == set(faces)


def test_two_runs_at_once(shards, tiny_models, tmp_path, monkeypatch):  # noqa: F811
    source, loaded = find_images(str(shards)), tiny_models.load_plain()

    def second_run(*_):
        with pytest.raises(IdClipError, match="another run is building"):
            index.build_index(source, loaded, tmp_path / "index", OPTIONS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(index, "build_faiss", second_run)
        index.build_index(source, loaded, tmp_path / "index", OPTIONS)
    assert index.build_index(source, loaded, tmp_path / "index", OPTIONS).images == 24
