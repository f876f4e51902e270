"""Groups of unknown faces: who is grouped, what the files say, and that named groups are enrolled."""

import csv
import json
import stat
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from face_index_fixtures import unit, write_face_table
from face_pack_fixtures import toy_picture, write_pack
from PIL import Image
from safetensors.numpy import save_file
from sklearn.neighbors import NearestNeighbors

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import ModelMismatch
from open_clip_idplugin.faces.grouping import find_neighbours, group_faces, load_graph
from open_clip_idplugin.gallery import Gallery, group_commands
from open_clip_idplugin.gallery.group_commands import enroll_groups
from webdataset_tools.collection_faces.command import faces as faces_verb

suggest = partial(group_commands.suggest, least_face=0)  # the table's faces have a few pixels
MODEL, SIZE = "insightface:test", 64


def photos_of(person: int, count: int, seed: int = 0) -> list[np.ndarray]:
    """`count` embeddings around an axis, with cosines of about 0.8 to each other and 0 to other people's."""
    noise = unit(np.random.default_rng((person, seed)).standard_normal((count, SIZE)))
    return list(unit(2 * np.eye(SIZE, dtype=np.float32)[person] + noise))


@pytest.fixture
def table(tmp_path):
    """Person 0 on 5 pictures, 1 on 4, 2 on 6, two strangers once each; one face without an embedding."""
    people = {0: photos_of(0, 5), 1: photos_of(1, 4), 2: photos_of(2, 6), 3: photos_of(3, 1), 4: photos_of(4, 1)}
    pictures = {f"p{person}_{number}": [row] for person, rows in people.items() for number, row in enumerate(rows)}
    pictures["p0_0"].insert(0, None)
    return write_face_table(tmp_path / "table", pictures, MODEL, SIZE)


def keys_of(groups, table) -> list[set[str]]:
    from open_clip_idplugin.faces.face_table import load_face_table

    opened = load_face_table(table)
    return [{opened.row(int(opened.face_of_embedding[row])).key for row in rows} for rows in groups]


def test_groups_are_people_without_the_enrolled_and_the_lone(tmp_path, table, capsys):
    gallery = Gallery(tmp_path / "g.sqlite")
    gallery.enroll("Known", np.stack(photos_of(1, 3, seed=1)), MODEL)
    suggest(str(table), str(tmp_path / "out"), gallery=str(gallery.path))
    groups = json.loads((tmp_path / "out" / "groups.json").read_text())["groups"]
    assert keys_of(groups, table) == [{f"p2_{n}" for n in range(6)}, {f"p0_{n}" for n in range(5)}]
    assert "17 faces: 4 of enrolled people, 11 in 2 groups, 2 alone" in capsys.readouterr().out
    with (tmp_path / "out" / "groups.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["group", "faces", "name"], ["1", "6", ""], ["2", "5", ""]]
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(IdClipError, match="may hold names already"):
        suggest(str(table), str(tmp_path / "out"), gallery=str(gallery.path))


def test_small_faces_are_in_no_group(tmp_path, table, capsys):
    group_commands.suggest(str(table), str(tmp_path / "out"), gallery=str(tmp_path / "g.sqlite"))
    assert json.loads((tmp_path / "out" / "groups.json").read_text())["groups"] == []
    assert "0 in 0 groups, 0 alone, 17 too small" in capsys.readouterr().out


def name_groups(folder, names: dict[int, str], separator: str = ",") -> str:
    lines = [f"{group}{separator}9{separator}{name}" for group, name in names.items()]
    text = "\ufeff" + "\r\n".join([separator.join(("Group", "faces", "Name")), *lines]) + "\r\n"
    (folder / "groups.csv").write_text(text, encoding="utf-8")
    return str(folder / "groups.csv")


@pytest.mark.parametrize("separator", [",", ";"])
def test_named_groups_are_enrolled(tmp_path, table, separator):
    gallery, before = str(tmp_path / "g.sqlite"), set(Path.cwd().iterdir())
    suggest(str(table), str(tmp_path / "out"), gallery=gallery)
    named = name_groups(tmp_path / "out", {1: "José Pérez", 2: "", 3: "Ada"}, separator)
    enroll_groups(named, gallery, consent="form 7")
    report = json.loads((tmp_path / "out" / "people_report.json").read_text(encoding="utf-8"))
    assert report["enrolled"] == {"José Pérez": 6, "Ada": 4} and set(Path.cwd().iterdir()) == before
    people = {person.name: (person.photos, person.details.consent) for person in Gallery(gallery).people()}
    assert people == {"José Pérez": (6, "form 7"), "Ada": (4, "form 7")}
    assert Gallery(gallery).embedding("José Pérez")[2] > 0.8
    suggest(str(table), str(tmp_path / "again"), gallery=gallery)  # the named are known now
    again = json.loads((tmp_path / "again" / "groups.json").read_text())["groups"]
    assert keys_of(again, table) == [{f"p0_{n}" for n in range(5)}]


def test_two_groups_of_one_name_are_one_person(tmp_path, table):
    suggest(str(table), str(tmp_path / "out"), gallery=str(tmp_path / "g.sqlite"))
    named = name_groups(tmp_path / "out", {1: "Ada", 2: "Ada"})
    enroll_groups(named, str(tmp_path / "g.sqlite"), report=str(tmp_path / "report.json"))
    assert [(person.name, person.photos) for person in Gallery(tmp_path / "g.sqlite").people()] == [("Ada", 11)]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({4: "Ada"}, "line 2: '4' is no group; there are 1 to 3"),
        ({"x": "Ada"}, "'x' is no group"),
        ({1: ""}, "no group"),
    ],
)
def test_names_that_fit_no_group(tmp_path, table, names, reason):
    suggest(str(table), str(tmp_path / "out"), gallery=str(tmp_path / "g.sqlite"))
    with pytest.raises(IdClipError, match=reason):
        enroll_groups(name_groups(tmp_path / "out", names), str(tmp_path / "g.sqlite"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"groups": [[-1]]}, "was not written by"),  # counted from the end it would be somebody else's face
        ({"groups": [[True]]}, "was not written by"),
        ({"groups": [["0"]]}, "was not written by"),
        ({"groups": [[0.9]]}, "was not written by"),
        ({"groups": [[17]]}, "fewer faces than were grouped"),
        ({"face_table": None}, "was not written by"),
        ({"input": 3}, "was not written by"),
    ],
)
def test_groups_that_were_tampered_with(tmp_path, table, changes, reason):
    suggest(str(table), str(tmp_path / "out"), gallery=str(tmp_path / "g.sqlite"))
    file = tmp_path / "out" / "groups.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(IdClipError, match=reason):
        enroll_groups(name_groups(tmp_path / "out", {1: "Ada"}), str(tmp_path / "g.sqlite"))
    assert not Gallery(tmp_path / "g.sqlite").people()


def test_another_table_or_face_model_is_refused(tmp_path, table):
    gallery = Gallery(tmp_path / "g.sqlite")
    suggest(str(table), str(tmp_path / "out"), gallery=str(gallery.path))
    other = write_face_table(tmp_path / "other", {"p": photos_of(0, 17)}, MODEL, SIZE)
    with pytest.raises(IdClipError, match="is not the one that was grouped"):
        enroll_groups(name_groups(tmp_path / "out", {1: "Ada"}), str(gallery.path), face_table=str(other))
    (tmp_path / "out" / "groups.json").unlink()
    with pytest.raises(IdClipError, match=r"keep groups\.json beside"):
        enroll_groups(str(tmp_path / "out" / "groups.csv"), str(gallery.path))
    gallery.enroll("Known", np.ones((1, SIZE)), "insightface:other")
    with pytest.raises(ModelMismatch):
        suggest(str(table), str(tmp_path / "new"), gallery=str(gallery.path))


def test_faces_on_the_page_and_in_the_gallery(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, corner in enumerate([(32, 32), (96, 64), (64, 96)]):
        picture = toy_picture(corner)
        picture[corner[1] : corner[1] + 4 * number, corner[0] + 8 : corner[0] + 24] = 0  # so that no two are alike
        Image.fromarray(picture).save(pictures / f"{number}<b>.png")
    pack = f"insightface:{write_pack(tmp_path / 'toy')}"
    faces_verb(str(pictures), str(tmp_path / "table"), pack, 192)
    suggest(str(tmp_path / "table"), str(tmp_path / "out"), str(pictures), str(tmp_path / "g.sqlite"), show=2)
    page = (tmp_path / "out" / "groups.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "<h2>Group 1 <small>(3 faces)</small></h2>" in page
    assert "&lt;b&gt;.png" in page
    assert "<b>" not in page
    enroll_groups(
        name_groups(tmp_path / "out", {1: "Ada"}), str(tmp_path / "g.sqlite"), report=str(tmp_path / "report.json")
    )
    gallery = Gallery(tmp_path / "g.sqlite")
    assert {face.label for face in gallery.photos("Ada")} == {"0<b>.png", "1<b>.png", "2<b>.png"}
    assert all(face.crop is not None and face.quality < 1 for face in gallery.photos("Ada"))


def test_too_few_faces_are_no_group():
    assert group_faces(np.zeros((0, 4), np.float32), 0.5, 3) == []
    assert group_faces(unit(np.eye(4)), 0.5, 2) == []


class TestNeighbourGraph:
    """Comparisons that are kept give what comparing anew gives."""

    def embeddings(self, count=60, seed=0):
        rng = np.random.default_rng(seed)
        return unit(rng.standard_normal((8, 16))[rng.integers(8, size=count)] + 0.4 * rng.standard_normal((count, 16)))

    def expected(self, embeddings):
        return embeddings @ embeddings.T >= 0.8

    def test_faces_come_and_go(self, tmp_path, monkeypatch):
        vectors = self.embeddings()
        vectors[7] = vectors[3]  # two copies of a picture
        find_neighbours(vectors[:40], 0.8).save(tmp_path / "graph")
        compared = []
        search = NearestNeighbors.radius_neighbors
        monkeypatch.setattr(
            NearestNeighbors,
            "radius_neighbors",
            lambda self, X, **more: compared.append(len(X)) or search(self, X, **more),
        )
        order = np.random.default_rng(1).permutation(np.r_[5:40, 45:60])
        graph = find_neighbours(vectors[order], 0.8, load_graph(tmp_path / "graph"))
        assert compared == [15]
        assert np.array_equal(graph.pairs.toarray(), self.expected(vectors[order]))
        graph.save(tmp_path / "graph")
        assert np.array_equal(load_graph(tmp_path / "graph").pairs.toarray(), self.expected(vectors[order]))
        again = find_neighbours(vectors[order], 0.8, load_graph(tmp_path / "graph"))
        assert compared == [15]
        assert np.array_equal(again.pairs.toarray(), self.expected(vectors[order]))

    def test_copies_of_a_vector_are_told_apart(self, tmp_path):
        vectors = self.embeddings()[[0, 0, 0, 1, 2]]
        find_neighbours(vectors[1:], 0.8).save(tmp_path / "graph")
        graph = find_neighbours(vectors, 0.8, load_graph(tmp_path / "graph"))
        assert np.array_equal(graph.pairs.toarray(), self.expected(vectors))

    def test_another_threshold_compares_anew(self, tmp_path):
        vectors = self.embeddings()
        find_neighbours(vectors, 0.5).save(tmp_path / "graph")
        graph = find_neighbours(vectors, 0.8, load_graph(tmp_path / "graph"))
        assert np.array_equal(graph.pairs.toarray(), self.expected(vectors))

    def test_groups_are_the_same_with_and_without(self, tmp_path):
        vectors = self.embeddings(200)
        group_faces(vectors[:150], 0.8, 3, tmp_path / "graph")
        kept = group_faces(vectors, 0.8, 3, tmp_path / "graph")
        assert [group.tolist() for group in kept] == [group.tolist() for group in group_faces(vectors, 0.8, 3)]
        assert len(kept) > 3

    @pytest.mark.parametrize("content", [b"", b"no graph", None])
    def test_a_broken_file_is_made_anew(self, content, tmp_path):
        vectors, path = self.embeddings(), tmp_path / "graph"
        if content is not None:
            path.write_bytes(content)
        assert load_graph(path) is None
        group_faces(vectors, 0.8, 3, path)
        assert load_graph(path).threshold == 0.8
        assert path.stat().st_mode & 0o777 == 0o600

    def test_numbers_out_of_range_are_no_graph(self, tmp_path):
        path = tmp_path / "graph"
        save_file(
            {
                "marks": np.zeros((2, 16), np.uint8),
                "starts": np.array([0, 1, 1]),
                "columns": np.array([9], np.int32),
            },
            path,
            {"threshold": "0.8"},
        )
        assert load_graph(path) is None
