"""One command over real photographs with real face models: who is asked for comes first, strangers are not found."""

import pytest
from PIL import Image

pytest.importorskip("clip_retrieval")

from face_engine_fixtures import IDENTIFICATION, needs_dlib, write_mobile_face_net
from real_photos import REAL, needs_real_photos
from retrieval_fixtures import PLAIN, tiny_models  # noqa: F401

from open_clip_idplugin.retrieval import serve
from open_clip_idplugin.retrieval.open.command import open_pictures
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel

pytestmark = needs_real_photos
SCENE = "scenes/identification1.jpg"
ELSEWHERE = ("Family2-Lady", "Family2-Man")  # in none of the photographs


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def mobile(tmp_path):
    (tmp_path / "net").mkdir()
    return write_mobile_face_net(tmp_path / "net")


def service_of(tmp_path, faces: str, model: str, checkpoint: str, folders=(REAL / "coco", REAL / "scenes")):
    """Open folders with the eight people, and the service over them."""
    open_pictures(
        *map(str, folders),
        model=model,
        checkpoint=checkpoint,
        faces=faces,
        people=str(REAL / "identities"),
        output=str(tmp_path / "out"),
        workers=2,
        serve=False,
    )
    gallery = str(tmp_path / "out" / "gallery.sqlite")
    setup = LocalModel(model, checkpoint, gallery, faces)
    return serve.open_app(str(tmp_path / "out" / "index"), setup).test_client()


def ask(client, name: str, **more):
    request = {"text": "[TOK] in a photograph", "identities": [name], "num_images": 60, **more}
    answer = client.post("/knn-service", json=request).get_json()
    assert isinstance(answer, list), answer
    return answer


def assert_found(client):
    for name in sorted(IDENTIFICATION):
        best, *others = ask(client, name)
        assert best["key"] == SCENE, (name, best["key"], best["face_similarity"])
        assert max(other.get("face_similarity", 0) for other in others) < best["face_similarity"]
        assert [result["key"] for result in ask(client, name, min_probability=0.5)] == [SCENE], name
    for name in ELSEWHERE:
        assert ask(client, name, min_probability=0.5) == [], name  # not found is an answer


def test_people_of_a_scene_come_first(tmp_path, mobile, tiny_models, capsys):  # noqa: F811
    client = service_of(tmp_path, mobile, PLAIN, str(tiny_models.plain))
    assert "58 pictures (58 new)" in capsys.readouterr().out
    assert_found(client)


def turn(folder, orientation: int, way: Image.Transpose) -> None:
    """Store the scene turned, with the EXIF number that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(REAL / SCENE) as picture:
        picture.transpose(way).save(folder / f"turned{orientation}.jpg", quality=95, exif=exif)


def test_turned_photographs_are_found_alike(tmp_path, mobile, tiny_models):  # noqa: F811
    folder = tmp_path / "turned"
    folder.mkdir()
    ways = Image.Transpose
    for orientation, way in ((3, ways.ROTATE_180), (6, ways.ROTATE_90), (8, ways.ROTATE_270)):
        turn(folder, orientation, way)
    client = service_of(tmp_path, mobile, PLAIN, str(tiny_models.plain), (REAL / "scenes", folder))
    for name in ("Family1-Mom", "Family1-Dad"):
        found = sorted(ask(client, name), key=lambda result: -result.get("face_similarity", -1))
        scores = [result["face_similarity"] for result in found[:4]]
        assert {result["key"].rpartition("/")[2] for result in found[:4]} == {
            "identification1.jpg",
            *(f"turned{number}.jpg" for number in (3, 6, 8)),
        }
        assert max(scores) - min(scores) < 0.06  # they were compressed once more


def vit_b_32(folder) -> str:
    """Random weights of ViT-B-32."""
    import open_clip
    import torch

    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), folder / "vit.pt")
    return str(folder / "vit.pt")


@pytest.mark.slow
def test_with_the_shape_of_vit_b_32(tmp_path, mobile):
    assert_found(service_of(tmp_path, mobile, "ViT-B-32", vit_b_32(tmp_path)))


@pytest.mark.slow
@needs_dlib
def test_with_dlib(tmp_path, tiny_models):  # noqa: F811
    assert_found(service_of(tmp_path, "dlib:hog", PLAIN, str(tiny_models.plain)))
