"""One command over a folder of pictures: index, faces, people, groups, and the service that answers from them."""

import csv
import json
import stat

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("clip_retrieval")

from collection_fixtures import CORNERS, draw, draw_collection, toy_options
from face_pack_fixtures import toy_picture
from retrieval_fixtures import PLAIN, tiny_models  # noqa: F401

from open_clip_idplugin import cli
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.model_store import installation as store
from open_clip_idplugin.retrieval import serve
from open_clip_idplugin.retrieval.open import command as open_verb
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """Nothing is read from or written to the user's folders."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def opened(tmp_path, tiny_models):  # noqa: F811
    """Call the verb on the drawn collection, without the service unless told otherwise."""
    root = draw_collection(tmp_path / "pictures")
    spec = toy_options(tmp_path).faces.spec
    flags = {
        "model": PLAIN,
        "checkpoint": str(tiny_models.plain),
        "faces": spec,
        "det_size": 192,
        "workers": 0,
        "batch_size": 2,
        "output": str(tmp_path / "out"),
        "serve": False,
    }

    def call(*folders, **changes):
        open_verb.open_pictures(*(folders or (str(root),)), **{**flags, **changes})

    call.root, call.out, call.flags = root, tmp_path / "out", flags
    return call


def report_of(opened) -> dict:
    return json.loads((opened.out / "open_report.json").read_text())


def enrol_folder(folder):
    """A person who looks like the face of one.png."""
    pixels = toy_picture((32, 32))
    (folder / "Ada Lovelace").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "Ada Lovelace" / "photo.png")
    return folder


def test_one_command(opened, tmp_path, capsys):
    opened(people=str(enrol_folder(tmp_path / "people")))
    printed = capsys.readouterr().out
    assert "5 pictures (5 new)" in printed and "7 faces in 4 of them" in printed
    assert "1 people are enrolled" in printed and "idclip serve --index" in printed
    report = report_of(opened)
    assert report["index"]["unreadable"]["counts"] == {"picture cannot be read": 1}
    assert report["people"] == 1
    for name in ("open_report.json", "gallery.sqlite", "groups/groups.csv", "people_report.json"):
        assert stat.S_IMODE((opened.out / name).stat().st_mode) == 0o600
    names = {path.relative_to(opened.root).as_posix() for path in opened.root.rglob("*.*")}
    assert names == {*CORNERS, "broken.jpg"}  # nothing was written among the pictures

    opened(people=str(tmp_path / "people"))
    printed = capsys.readouterr().out
    assert "5 pictures (all as before)" in printed
    assert "Embedding" not in printed and "photos are in" not in printed


def test_service_finds_the_enrolled_person(opened, tmp_path, monkeypatch):
    started = {}
    monkeypatch.setattr(serve, "serve", lambda *arguments, **named: started.update(named, arguments=arguments))
    opened(people=str(enrol_folder(tmp_path / "people")), serve=True, port=0)
    index, model, checkpoint = started["arguments"]
    setup = LocalModel(model, checkpoint, started["gallery"], started["faces"], started["det_size"])
    client = serve.open_app(index, setup).test_client()
    answer = client.post(
        "/knn-service", json={"text": "[TOK] outside", "identities": ["Ada Lovelace"], "num_images": 5}
    ).get_json()
    assert isinstance(answer, list), answer
    best = answer[0]
    assert best["face_similarity"] == pytest.approx(1, abs=0.01)
    assert {result["key"] for result in answer} == set(CORNERS)


def test_named_groups_are_enrolled_by_the_next_run(opened, capsys):
    for number in range(3):
        draw(opened.root / f"again{number}.png", [(64, 32)], 30 + number)
    opened()
    groups = opened.out / "groups" / "groups.csv"
    with groups.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows and report_of(opened)["groups"]["groups"] == len(rows)
    with groups.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows([{**rows[0], "name": "Grace Hopper"}, *rows[1:]])
    opened()
    assert [person.name for person in Gallery(opened.out / "gallery.sqlite").people()] == ["Grace Hopper"]
    assert report_of(opened)["groups"]["enrolled"] >= int(rows[0]["faces"])
    with groups.open(newline="") as stream:
        assert all(not row["name"] for row in csv.DictReader(stream))


def test_several_folders_are_one_collection(opened, tmp_path):
    draw(tmp_path / "more" / "one.png", [(96, 32)], 40)
    opened(str(opened.root), str(tmp_path / "more"))
    manifest = report_of(opened)
    assert manifest["index"]["images"] == 6 and len(manifest["pictures"]) == 2


def test_what_is_refused(opened, tmp_path):
    with pytest.raises(IdClipError, match="name a folder"):
        open_verb.open_pictures()
    with pytest.raises(IdClipError, match="no folder"):
        opened(str(tmp_path / "nowhere"))
    with pytest.raises(IdClipError, match="lie inside each other"):
        opened(output=str(opened.root / "index"))
    with pytest.raises(IdClipError, match="lies inside another"):
        opened(str(opened.root), str(opened.root / "sub"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(IdClipError, match="no pictures in"):
        opened(str(opened.root), str(tmp_path / "empty"))
    with pytest.raises(IdClipError, match="give --checkpoint"):
        opened(checkpoint=None)
    assert not opened.out.exists()


def test_missing_face_model_is_answered_with_the_command_that_gets_it(opened, monkeypatch):
    with pytest.raises(IdClipError, match="`idclip models get opencv` fetches one"):
        opened(faces=None)
    monkeypatch.setattr(
        open_verb, "state_of", lambda model: store.THERE if model.name == "buffalo_l" else store.MISSING
    )
    assert open_verb.choose_faces(None) == "insightface:buffalo_l"
    monkeypatch.setattr(open_verb, "state_of", lambda model: store.THERE)
    assert open_verb.choose_faces(None) == "opencv:default"
    with pytest.raises(IdClipError, match="idclip models get buffalo_l"):
        opened(faces="insightface:buffalo_l")


def test_another_face_model_is_refused_before_the_work(opened, tmp_path):
    from face_pack_fixtures import write_pack

    opened()
    write_pack(tmp_path / "other", size=16, seed=5)
    draw(opened.root / "new.png", [(0, 0)], 50)
    with pytest.raises(IdClipError, match="those of --faces"):
        opened(faces=f"insightface:{tmp_path / 'other'}")
    assert report_of(opened)["index"]["images"] == 5


def test_a_disk_that_is_not_there_changes_nothing(opened, tmp_path):
    for number in range(12):
        draw(opened.root / f"many{number}.png", [(32, 32)], 60 + number)
    opened()
    for number in range(12):
        (opened.root / f"many{number}.png").rename(tmp_path / f"many{number}.png")
    with pytest.raises(IdClipError, match="is the disk there"):
        opened()
    opened(accept_gone=True)
    assert report_of(opened)["index"]["gone"] == 12


def test_default_output_is_in_the_users_folder(opened, tmp_path):
    opened(output=None)
    (folder,) = (tmp_path / "data" / "open_clip_idplugin" / "collections").iterdir()
    assert folder.name.startswith("pictures-") and (folder / "index" / "image.index").exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_command_line(opened, capsys):
    flags = [f"--{name}={value}" for name, value in opened.flags.items() if name != "serve"]
    assert cli.run(cli.VERBS, ["open", str(opened.root), *flags, "--noserve"], "idclip") == 0
    assert "5 pictures (5 new)" in capsys.readouterr().out
    assert cli.run(cli.VERBS, ["open", str(opened.root / "nowhere"), *flags, "--noserve"], "idclip") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_unknown_face_model_is_measured_on_the_collection(opened):
    rng = np.random.default_rng(0)
    for number in range(40):
        corners = [(int(x) * 32, int(y) * 32) for x, y in rng.permutation(np.argwhere(np.ones((5, 5))))[:4]]
        draw(opened.root / f"crowd{number}.png", corners, number)
    opened()
    sentence = report_of(opened)["calibration"]
    measured = (opened.out / "index" / "faces" / "calibration.json").exists()
    assert ("of this collection: " if measured else "ArcFace") in sentence
