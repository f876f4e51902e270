"""Faces beside an image index: the join with a face table, who is matched to which face, candidates, refusals."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")

from face_index_fixtures import unit, write_face_table

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.calibration import assumed_calibration
from open_clip_idplugin.faces.calibration_files import load_calibration, user_file, write_calibration
from open_clip_idplugin.faces.errors import ModelMismatch
from open_clip_idplugin.retrieval.face_index import build as face_index_build
from open_clip_idplugin.retrieval.face_index import reading as face_index
from open_clip_idplugin.retrieval.face_index.build import add_faces, index_faces
from open_clip_idplugin.retrieval.face_index.change import compact_faces
from open_clip_idplugin.retrieval.face_index.reading import load_face_index
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.generations import changing
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys

SIZE = 16
MODEL = "test faces"


def write_index(folder: Path, keys: list[str]) -> Path:
    """As much of an image index as faces are joined with: two partitions of metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "metadata").mkdir(parents=True)
    for number, part in enumerate((keys[:5], keys[5:])):
        pq.write_table(pa.table({"image_path": part}), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


@pytest.fixture(scope="module")
def faces():
    """Key -> faces: none, one, two or three; one of them without embedding; one picture that is not indexed."""
    rng = np.random.default_rng(5)
    found = {f"picture {number}": list(unit(rng.standard_normal((number % 4, SIZE)))) for number in range(12)}
    found["picture 3"][1] = None
    return {**dict(reversed(found.items())), "elsewhere": list(unit(rng.standard_normal((1, SIZE))))}


@pytest.fixture(scope="module")
def keys():
    return [f"picture {number}" for number in range(12)]


@pytest.fixture(scope="module")
def folder(faces, keys, tmp_path_factory):
    root = tmp_path_factory.mktemp("face_index")
    write_face_table(root / "table", faces, MODEL, SIZE)
    index_faces(str(write_index(root / "index", keys)), str(root / "table"))
    return root / "index"


MINIATURE = "insightface:miniature/recogniser-ff9cc405493d"
NO_FACE = assumed_calibration("").impostors.mean


@pytest.fixture(scope="module")
def opened(folder, keys):
    return load_face_index(folder, keys, MODEL)


def slow_best(faces, keys, person) -> list[float]:
    known = [[row for row in faces[key] if row is not None] for key in keys]
    return [max((float(person @ row) for row in rows), default=NO_FACE) for rows in known]


def test_join(opened, faces, keys, folder):
    assert opened.info.faces == sum(row is not None for key in keys for row in faces[key])
    assert opened.info.images_with_faces == 9
    for number, key in enumerate(keys):
        rows = [row for row in faces[key] if row is not None]
        np.testing.assert_array_equal(opened.embeddings[list(opened.faces_of(number))], np.reshape(rows, (-1, SIZE)))
    assert opened.box(opened.faces_of(3)[1]) == ([20.0, 5.0, 28.0, 15.0], [0.4167, 0.125, 0.5833, 0.375])
    assert len(opened.faces_of(12)) == 0


def test_files_are_private(folder):
    assert (folder / "faces").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (folder / "faces").iterdir()} == {0o600}
    assert not list(folder.glob(".faces*"))


def test_one_person(opened, faces, keys):
    person = unit(np.arange(SIZE) - 7)
    order = np.array([7, 0, 3, 11, 3, 2])
    matches = opened.match(person[None], order)
    expected = slow_best(faces, keys, person)
    np.testing.assert_allclose(matches.similarities[0], [expected[row] for row in order], atol=1e-6)
    assert matches.counts.tolist() == [3, 0, 2, 3, 2, 2]
    for value, face, row in zip(matches.similarities[0], matches.faces[0], order, strict=True):
        assert face in opened.faces_of(row) if row else face == -1
        assert row == 0 or opened.embeddings[face] @ person == pytest.approx(value, abs=1e-6)


def test_two_people_are_two_faces(opened, keys):
    from itertools import permutations

    like_the_first = opened.embeddings[opened.faces_of(7)[0]]
    people = np.stack([like_the_first, unit(like_the_first + 0.2 * opened.embeddings[opened.faces_of(7)[1]])])
    matches = opened.match(people, np.arange(12))
    for image in range(12):
        rows = opened.faces_of(image)
        assert len(set(matches.faces[:, image])) == min(len(rows), 1) + 1 or len(rows) == 0
        if len(rows) < 2:
            assert matches.similarities[:, image].tolist().count(NO_FACE) == 2 - len(rows)
            continue
        best = max(
            sum(float(people[i] @ opened.embeddings[face]) for i, face in enumerate(p)) for p in permutations(rows, 2)
        )
        assert matches.similarities[:, image].sum() == pytest.approx(best, abs=1e-5)


def test_candidates(opened, faces, keys):
    person = unit(np.arange(SIZE) - 7)
    expected = slow_best(faces, keys, person)
    best = sorted((row for row in range(12) if row % 4), key=lambda row: -expected[row])
    assert best[0] in opened.nearest_images(person, 1)
    allowed = np.ones(12, bool)
    allowed[best[0]] = False
    found = opened.nearest_images(person, 100, allowed)
    assert found.tolist() == sorted(best[1:])
    assert set(opened.nearest_images(person, 100)) == set(best)


def test_many_faces_are_found_through_faiss(tmp_path, monkeypatch):
    monkeypatch.setattr(face_index_build, "MOST_EXACT", 300)
    rows = unit(np.random.default_rng(0).standard_normal((600, SIZE)))
    keys = [str(number) for number in range(600)]
    table = write_face_table(tmp_path / "table", dict(zip(keys, ([row] for row in rows))), MODEL, SIZE)
    add_faces(write_index(tmp_path / "index", keys), table)
    opened = load_face_index(tmp_path / "index", keys)
    assert (tmp_path / "index" / "faces" / "faces.index").exists()
    wanted = set(np.argsort(-(rows @ rows[5]))[:20].tolist())
    assert len(wanted & set(opened.nearest_images(rows[5], 20).tolist())) >= 18
    allowed = np.arange(600) % 2 == 0
    found = opened.nearest_images(rows[5], 20, allowed)
    assert len(found) == 20 and (found % 2 == 0).all()


def test_keys_are_read_while_nobody_else_changes_the_index(folder, faces, tmp_path, monkeypatch):
    """Rows of before a compaction would make the index unservable."""
    shutil.copytree(folder, tmp_path / "index", ignore=shutil.ignore_patterns("faces"))
    read = []

    def held(index):
        with pytest.raises(IdClipError, match="another process"), changing(index):
            pass
        read.append(index)
        return read_keys(index)

    monkeypatch.setattr(face_index_build, "read_keys", held)
    add_faces(tmp_path / "index", write_face_table(tmp_path / "table", faces, MODEL, SIZE))
    assert read == [tmp_path / "index"]
    with changing(tmp_path / "index"):  # given back
        pass


def test_same_table_again_and_another(folder, faces, keys, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "index")
    table = write_face_table(tmp_path / "table", faces, MODEL, SIZE)
    add_faces(tmp_path / "index", table)
    assert "nothing to do" in capsys.readouterr().out
    one = write_face_table(tmp_path / "one", {"picture 1": [np.eye(SIZE)[0]]}, "another", SIZE)
    assert add_faces(tmp_path / "index", one).faces == 1
    assert load_face_index(tmp_path / "index", keys).model_id == "another"
    with pytest.raises(ModelMismatch, match="people of the queries"):
        load_face_index(tmp_path / "index", keys, MODEL)
    appended = load_face_index(tmp_path / "index", [*keys, "new"])
    assert appended.match(np.eye(SIZE, dtype=np.float32)[:1], np.array([12, 1])).counts.tolist() == [0, 1]


def test_refusals(folder, faces, keys, tmp_path):
    strangers = write_face_table(tmp_path / "strangers", {"other": [np.eye(SIZE)[0]]}, MODEL, SIZE)
    with pytest.raises(IdClipError, match="knows none of the pictures"):
        add_faces(folder, strangers)
    twice = write_index(tmp_path / "twice", ["picture 1", "b", "picture 1"])
    with pytest.raises(IdClipError, match="several pictures have the key 'picture 1'"):
        add_faces(twice, write_face_table(tmp_path / "table", faces, MODEL, SIZE))
    with pytest.raises(IndexMismatch, match="no image index"):
        read_keys(tmp_path)
    with pytest.raises(IndexMismatch, match="belong to other images"):
        load_face_index(folder, keys[::-1])
    assert load_face_index(tmp_path, keys) is None
    shutil.copytree(folder, tmp_path / "index")
    for name in ("boxes.npy", "faces.json"):
        (tmp_path / "index" / face_index.FOLDER / name).write_bytes(b"damaged")
        with pytest.raises(IndexMismatch, match="is damaged"):
            load_face_index(tmp_path / "index", keys)


def crowds(shift: float) -> dict[str, list[np.ndarray]]:
    """Forty pictures of two strangers each, whose cosines `shift` brings up."""
    rng = np.random.default_rng(3)
    axis = shift * np.eye(SIZE)[0]
    return {f"crowd {number}": list(unit(unit(rng.standard_normal((2, SIZE))) + axis)) for number in range(40)}


def test_a_model_that_nobody_measured_is_measured_on_the_collection(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model, pictures = "onnx:other/net-00112233aabb", crowds(2.0)
    assert load_calibration(model).assumed
    write_face_table(tmp_path / "table", pictures, model, SIZE, side=40)
    index = write_index(tmp_path / "index", list(pictures))
    index_faces(str(index), str(tmp_path / "table"))
    assert "was measured on this collection" in capsys.readouterr().out
    scale = load_face_index(index, list(pictures)).calibration
    assert not scale.assumed
    assert scale.threshold(1e-3) > 0.9 > scale.impostors.mean > 0.6
    assert load_calibration(model).impostors == scale.impostors  # enrolling knows as well
    assert {path.stat().st_mode & 0o777 for path in (index / "faces").iterdir()} == {0o600}
    # a change of the index keeps it, also where the user has another one by then
    write_calibration(user_file(model), replace(scale, source="another"))
    write_face_table(tmp_path / "again", {**pictures, "more": pictures["crowd 0"]}, model, SIZE, side=40)
    index_faces(str(index), str(tmp_path / "again"))
    assert load_face_index(index, list(pictures)).calibration.source == scale.source
    compact_faces(index, write_index(tmp_path / "smaller", list(pictures)[:30]), np.arange(40) < 30)
    assert load_face_index(tmp_path / "smaller", list(pictures)[:30]).calibration.source == scale.source


def test_a_collection_of_other_scores_is_reported(tmp_path, capsys):
    pictures = crowds(2.0)
    write_face_table(tmp_path / "table", pictures, MINIATURE, SIZE, side=40)
    index_faces(str(write_index(tmp_path / "index", list(pictures))), str(tmp_path / "table"))
    assert "do not fit the calibration" in capsys.readouterr().out
    assert not (tmp_path / "index" / "faces" / "calibration.json").exists()


def test_a_collection_that_is_too_small_says_so(tmp_path, capsys):
    pictures = dict(list(crowds(0.0).items())[:4])
    write_face_table(tmp_path / "table", pictures, "onnx:small/net-00112233aacc", SIZE, side=40)
    index = write_index(tmp_path / "index", list(pictures))
    index_faces(str(index), str(tmp_path / "table"))
    assert "only 28 pairs" in capsys.readouterr().out
    assert load_face_index(index, list(pictures)).calibration.assumed
