"""Export and import of people: everything travels, nothing is overwritten, nothing in the file is trusted."""

import io
import json
import sqlite3
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from open_clip_idplugin.gallery import Details, Gallery, GalleryError
from open_clip_idplugin.gallery.verbs import export_people, import_people

MODEL = "insightface:test"
CROP = b"\xff\xd8 a picture"


def draw_embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    gallery = Gallery(tmp_path / "gallery.sqlite")
    details = {"notes": "née Byron", "consent": "form 7", "consent_date": "2020-01-02", "consent_until": "2021-01-02"}
    details["word"] = "a woman"
    gallery.enroll("Ada", draw_embeddings(2), MODEL, ["a.jpg", "b.jpg"], [0.5, 2], [CROP, None], details)
    gallery.add_alias("Ada", "Countess")
    gallery.enroll("José", draw_embeddings(1, seed=1), MODEL)
    return gallery


def export(gallery: Gallery, *names: str) -> str:
    path = str(gallery.path.with_name("people.zip"))
    export_people(path, *names, gallery=str(gallery.path))
    return path


def test_everything_travels(gallery, tmp_path, capsys):
    path = export(gallery)
    assert stat.S_IMODE((tmp_path / "people.zip").stat().st_mode) == 0o600
    import_people(path, str(tmp_path / "other.sqlite"))
    assert "2 people were enrolled" in capsys.readouterr().out
    other = Gallery(tmp_path / "other.sqlite")
    assert other.people() == gallery.people()
    assert other.person("Countess").details == Details("née Byron", "form 7", "2020-01-02", "2021-01-02", "a woman")
    assert other.cover("Ada") == CROP
    for mine, theirs in zip(gallery.photos("Ada"), other.photos("Ada"), strict=True):
        assert (mine.label, mine.quality, mine.crop) == (theirs.label, theirs.quality, theirs.crop)
        np.testing.assert_allclose(mine.embedding, theirs.embedding, atol=1e-6)
    with pytest.raises(GalleryError, match="exists already"):
        export(gallery)


def test_the_named_alone_travel(gallery, tmp_path):
    import_people(export(gallery, "countess", "Ada"), str(tmp_path / "other.sqlite"))
    assert Gallery(tmp_path / "other.sqlite").names() == ["Ada"]


def test_conflicts_are_reported_and_change_nothing(gallery, tmp_path, capsys):
    path, other = export(gallery), Gallery(tmp_path / "other.sqlite")
    other.enroll("COUNTESS", draw_embeddings(1, seed=5), MODEL)
    before = other.embedding("Countess")
    for enrolled in (1, 0):  # the second time everybody is there
        import_people(path, str(other.path))
        printed = capsys.readouterr().out
        assert "'Ada' was left out: 'Countess' belongs to 'COUNTESS' in this gallery" in printed
        assert f"{enrolled} people were enrolled" in printed
    assert other.names() == ["COUNTESS", "José"]
    np.testing.assert_array_equal(other.embedding("Countess"), before)


def test_another_face_model_is_refused(gallery, tmp_path):
    path, other = export(gallery), Gallery(tmp_path / "other.sqlite")
    other.enroll("Grace", draw_embeddings(1), "insightface:other")
    with pytest.raises(GalleryError, match=r"face model 'insightface:test', the gallery .* 'insightface:other'"):
        import_people(path, str(other.path))
    assert other.names() == ["Grace"]


def rewrite(path: str, people=None, **members: bytes | None) -> None:
    """Change the JSON by `people`, or put other bytes into members."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    if people is not None:
        head = json.loads(content["people.json"])
        people(head)
        content["people.json"] = json.dumps(head).encode()
    content |= {
        name.replace("__", "/").replace("_npy", ".npy").replace("_jpg", ".jpg").replace("_json", ".json"): v
        for name, v in members.items()
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)


def test_an_export_of_before_words_is_read(gallery, tmp_path):
    path = export(gallery, "Ada")
    rewrite(path, people=lambda head: (head.update(schema=3), head["people"][0].pop("word")))
    import_people(path, str(tmp_path / "other.sqlite"))
    assert Gallery(tmp_path / "other.sqlite").person("Ada").details.word == ""


def array(rows) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(rows))
    return stream.getvalue()


def claiming(shape: str) -> bytes:
    """An array's header for more numbers than follow."""
    content = array(np.zeros((3, 16), np.float32))
    return content.replace(b"(3, 16)", shape.encode()).replace(b" " * (len(shape) - 7) + b"\n", b"\n")


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([object], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"people": lambda head: head.update(format="something")}, "not written by"),
        ({"people": lambda head: head.update(schema=99)}, "newer version"),
        ({"people": lambda head: head.pop("model_id")}, "damaged"),
        ({"people": lambda head: head["people"][0].update(name="a\0b")}, "cannot be a person's name"),
        ({"people": lambda head: head["people"][0].update(name=7)}, "damaged"),
        ({"people": lambda head: head["people"][0].update(consent_until="soon")}, "no date"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(row=3)}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(row=-1)}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(quality=-1)}, "damaged"),
        ({"people": lambda head: head["people"][0].update(photos=[])}, "damaged"),
        ({"embeddings_npy": None}, "damaged"),
        ({"embeddings_npy": pickled()}, "damaged"),
        ({"crops__000000_jpg": b"<script>"}, "damaged"),
        ({"crops__000000_jpg": CROP + bytes(1 << 22)}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][1].update(crop="crops/000000.jpg")}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][1].update(row=0)}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(row=True)}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(row="0")}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(quality="2")}, "damaged"),
        ({"people": lambda head: head["people"][0]["photos"][0].update(quality=10**400)}, "damaged"),
        ({"people": lambda head: head.update(embedding_size=512)}, "damaged"),
        ({"people": lambda head: head.update(people=7)}, "damaged"),
        ({"people_json": b"[" * 100_000}, "damaged"),
        ({"embeddings_npy": array(np.zeros(48, np.float32))}, "damaged"),
        ({"embeddings_npy": array(np.full((3, 16), np.nan, np.float32))}, "zero or not finite"),
        ({"embeddings_npy": array([["a"] * 16] * 3)}, "damaged"),
        ({"embeddings_npy": claiming("(99999999999, 99999999999)")}, "damaged"),
        ({"embeddings_npy": b"\x93NUMPY\x01\x00\x03"}, "damaged"),
    ],
)
def test_what_is_wrong_inside_is_refused_before_anybody_is_enrolled(gallery, tmp_path, change, reason):
    path = export(gallery)
    rewrite(path, **change)
    with pytest.raises(GalleryError, match=reason):
        import_people(path, str(tmp_path / "other.sqlite"))
    assert not (tmp_path / "other.sqlite").exists()


def test_files_that_are_no_export(gallery, tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    for name, reason in {"text.zip": "damaged or no export", "none.zip": "cannot be read"}.items():
        with pytest.raises(GalleryError, match=reason):
            import_people(str(tmp_path / name), str(gallery.path))
    with pytest.raises(GalleryError, match="nobody is enrolled"):
        export_people(str(tmp_path / "a.zip"), gallery=str(tmp_path / "empty.sqlite"))


def test_an_import_is_all_or_nothing(gallery, tmp_path):
    """The last person of a file cannot be enrolled: the first one is not either, and what was there stays."""
    path, other = export(gallery), Gallery(tmp_path / "other.sqlite")
    other.enroll("Grace", draw_embeddings(1, seed=9), MODEL)
    before = other.path.read_bytes()
    rewrite(path, people=lambda head: head["people"][1].update(aliases=["Pepe", "PEPE"]))
    with pytest.raises(GalleryError, match="'PEPE' is an alias of 'José'"):
        import_people(path, str(other.path))
    assert other.names() == ["Grace"] and other.path.read_bytes() == before


def test_vectors_of_another_length_than_the_gallerys_are_refused(gallery, tmp_path):
    path, other = export(gallery), Gallery(tmp_path / "other.sqlite")
    other.enroll("Grace", np.ones((1, 8)), MODEL)
    with pytest.raises(GalleryError, match=r"holds 8-d embeddings of .*cannot be mixed with 16-d ones"):
        import_people(path, str(other.path))
    assert other.names() == ["Grace"]


@pytest.mark.parametrize("place", [100, 400, 900])
def test_damaged_bytes_are_one_sentence(gallery, tmp_path, place):
    """Wherever a packed member is torn, zlib's own error too."""
    path = export(gallery)
    with Path(path).open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes(40))
    with pytest.raises(GalleryError, match=r"damaged or no export|cannot be read"):
        import_people(path, str(tmp_path / "other.sqlite"))


FOREIGN_ROWS = {
    "UPDATE photos SET embedding = x'010203' WHERE label = ''": "an embedding in it is no 16 numbers",
    "UPDATE photos SET embedding = 'text' WHERE label = ''": "an embedding in it is no 16 numbers",
    "UPDATE photos SET embedding = zeroblob(68) WHERE label = ''": "an embedding in it is no 16 numbers",
    "UPDATE photos SET quality = 'heavy'": "a photo's weight in it is no number above 0",
    "UPDATE photos SET quality = -1": "a photo's weight in it is no number above 0",
    "UPDATE face_model SET size = 'many'": "its face model is no name and number",
    "UPDATE people SET name = x'ff00'": "a name in it is no text",
}


@pytest.mark.parametrize("statement", FOREIGN_ROWS)
def test_rows_that_somebody_else_wrote_are_refused_by_every_reader(gallery, statement):
    with sqlite3.connect(gallery.path) as connection:
        connection.execute(statement)
    readers = {
        "means": gallery.means,
        "embedding": lambda: gallery.embedding("José"),
        "photos": lambda: gallery.photos("José"),
        "people": gallery.people,
    }
    readers = {name: read for name, read in readers.items() if (name == "people") == ("people" in statement)}
    for read in readers.values():
        with pytest.raises(
            GalleryError, match=rf"gallery\.sqlite' cannot be used as a gallery: {FOREIGN_ROWS[statement]}"
        ):
            read()
