"""The gallery file and its verbs: names, means, permissions, and that a forgotten person leaves no bytes behind."""

import contextlib
import datetime
import io
import sqlite3
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import Face
from open_clip_idplugin.gallery import (
    SCHEMA_VERSION,
    ConsentExpired,
    Details,
    Gallery,
    GalleryError,
    Person,
    default_gallery,
)
from open_clip_idplugin.gallery import verbs as gallery_verbs
from open_clip_idplugin.gallery.erasure import Secrets, count_left, files_of
from open_clip_idplugin.gallery.named_people import find_people

MODEL = "insightface:test"


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    return Gallery(tmp_path / "people" / "gallery.sqlite")


def draw_embeddings(count: int, size: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def test_mean_of_unit_embeddings(gallery):
    photos = draw_embeddings(3) * np.array([[1.0], [10.0], [0.1]], dtype=np.float32)  # a photo's scale must not matter
    gallery.enroll("Ada Lovelace", photos, MODEL, ["a.jpg", "b.jpg", "c.jpg"])
    unit = photos / np.linalg.norm(photos, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    np.testing.assert_allclose(gallery.embedding("Ada Lovelace"), mean / np.linalg.norm(mean), atol=1e-6)
    assert gallery.embedding("Ada Lovelace").dtype == np.float32


def test_photos_are_added_and_not_counted_twice(gallery):
    first, second = draw_embeddings(2)
    assert gallery.enroll("Ada", first, MODEL).photos == 1
    assert gallery.enroll("ada", np.stack([first, second]), MODEL).photos == 2
    assert gallery.names() == ["Ada"]


@pytest.mark.parametrize("spelling", ["josé  PÉREZ", "Jose\u0301 Pe\u0301rez", " José Pérez ", "José Pérez"])
def test_names_ignore_case_form_and_spacing(gallery, spelling):
    gallery.enroll("José Pérez", draw_embeddings(1), MODEL)
    assert gallery.embedding(spelling).shape == (512,)


HIDING = {
    "zero width": "A\u200bda",
    "word joiner": "A\u2060da",
    "byte order mark": "\ufeffAda",
    "soft hyphen": "A\u00adda",
    "from right to left": "A\u202eda",
    "isolated": "\u2066Ada\u2069",
    "mark of direction": "Ada\u200f",
    "tag": "Ada\U000e0061",
    "Hangul filler": "\u3164",
    "blank Braille": "Ada\u2800",
    "grapheme joiner": "A\u034fda",
    "joiner between Latin letters": "A\u200cda",
    "joiner at an end": "\u0639\u0644\u06cc\u200c",
    "joiner between two scripts": "\u0639\u200dA",
    "selector of nothing": "\ufe0fAda",
}


@pytest.mark.parametrize("name", HIDING.values(), ids=HIDING)
def test_names_hide_nothing(gallery, name):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    with pytest.raises(GalleryError, match=r"U\+[0-9A-F]{4,5} in it cannot be seen") as refused:
        gallery.enroll(name, draw_embeddings(1), MODEL)
    assert str(refused.value).isprintable()
    with pytest.raises(GalleryError, match="cannot be seen"):
        gallery.rename("Ada", name)
    with pytest.raises(GalleryError, match="cannot be seen"):
        gallery.add_alias("Ada", name)
    assert gallery.names_and_aliases() == {"Ada": "Ada"}


SPELLED_WITH_JOINERS = {
    "Persian": "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
    "Bengali": "\u09b0\u200d\u09cd\u09af\u09be\u099a\u09c7\u09b2",
    "Sinhala": "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
    "Malayalam": "\u0d2e\u0d4b\u0d39\u0d28\u0d4d\u200d \u0d15\u0d46",
    "Japanese": "\u845b\U000e0100\u57ce",
}


@pytest.mark.parametrize("name", SPELLED_WITH_JOINERS.values(), ids=SPELLED_WITH_JOINERS)
def test_names_may_be_spelled_with_joiners_and_found_without(gallery, name):
    bare = "".join(letter for letter in name if letter not in "\u200c\u200d\U000e0100")
    assert gallery.enroll(name, draw_embeddings(1), MODEL).name == name  # shown as it is written
    assert gallery.person(bare).name == name
    assert gallery.enroll(bare, draw_embeddings(1, seed=1), MODEL).photos == 2  # the same person
    assert find_people(f"{bare} runs", gallery.names_and_aliases()).identities == (name,)
    assert find_people(f"{name} runs", {bare: bare}).identities == (bare,)


@pytest.mark.parametrize("name", ["", "   ", "a\0b", "x" * 201])
def test_bad_names(gallery, name):
    with pytest.raises(GalleryError, match="cannot be a person's name"):
        gallery.enroll(name, draw_embeddings(1), MODEL)


def test_file_is_private(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    assert stat.S_IMODE(gallery.path.stat().st_mode) == 0o600
    gallery.path.chmod(0o644)  # a copy that lost its permission is closed again
    gallery.names()
    assert stat.S_IMODE(gallery.path.stat().st_mode) == 0o600


def test_forget_leaves_no_bytes(gallery):
    kept, gone = draw_embeddings(40, seed=1), draw_embeddings(40, seed=2)
    gallery.enroll("Kept Person", kept, MODEL)
    gallery.enroll("Forgotten Person", gone, MODEL, [f"forgotten_{i}.jpg" for i in range(40)])
    stored = gone / np.linalg.norm(gone, axis=1, keepdims=True)
    assert stored[0].tobytes() in gallery.path.read_bytes()

    assert gallery.forget("forgotten person").photos == 40

    for file in gallery.path.parent.iterdir():
        raw = file.read_bytes()
        assert b"orgotten" not in raw
        for row in stored:  # no page may hold even a piece of a vector
            assert row[:8].tobytes() not in raw
            assert row[-8:].tobytes() not in raw
    assert gallery.names() == ["Kept Person"]
    with pytest.raises(GalleryError, match="nobody named 'Forgotten Person'"):
        gallery.embedding("Forgotten Person")


def test_forget_proves_that_vectors_crops_and_texts_are_gone(gallery, capsys):
    random = np.random.default_rng(3)
    rows, crops = draw_embeddings(6), [random.bytes(9000) for _ in range(6)]  # a crop fills several pages
    labels = [f"holiday_{number}.jpg" for number in range(6)]
    gallery.enroll("Kept Person", rows[:3], MODEL, labels[:3], crops=crops[:3])
    gallery.enroll("Gone Person", rows[2:], MODEL, labels[2:], crops=crops[2:], details={"notes": "secret note"})
    gallery.add_alias("Gone Person", "Vanished")
    gallery_verbs.forget("Gone Person", str(gallery.path))
    printed = capsys.readouterr().out
    assert "4 face embeddings, 4 pictures" in printed
    assert "1 aliases" in printed
    assert "byte by byte afterwards: gallery.sqlite. Nothing" in printed
    raw = gallery.path.read_bytes()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for piece in (b"Gone", b"anished", b"secret", b"holiday_5", *(row[4:8].tobytes() for row in unit[3:])):
        assert piece not in raw
    for crop in crops[3:]:
        assert not any(crop[start : start + 16] in raw for start in range(0, len(crop), 16))
    assert unit[2].tobytes() in raw  # the photo that both had is still the other's


@pytest.mark.parametrize("beside", ["gallery.sqlite", "gallery.sqlite-wal"])
def test_bytes_that_are_left_are_found(gallery, beside):
    gone, kept = draw_embeddings(2)
    words = Secrets((gone.tobytes(),), ("Gone Person", "short"))
    gallery.path.parent.mkdir()
    gallery.path.touch()
    left = gallery.path.with_name(beside)
    left.write_bytes(b"x" * 5 + gone.tobytes()[100:164] + b"short Gone Person" + kept.tobytes())
    assert count_left(files_of(gallery.path), words, Secrets((kept.tobytes(),), ("Kept",))) == (7, 1)
    assert count_left(files_of(gallery.path), words, Secrets((gone.tobytes(),), ("Gone Person II",))) == (0, 0)


def test_a_forgetting_that_failed_is_no_success(gallery, monkeypatch):
    gallery.enroll("Gone Person", draw_embeddings(1), MODEL)
    monkeypatch.setattr("open_clip_idplugin.gallery.store.count_left", lambda *_: (3, 0))
    with pytest.raises(IdClipError, match="3 pieces of embeddings or pictures and 0 texts are still"):
        gallery_verbs.forget("Gone Person", str(gallery.path))


def test_a_write_ahead_log_is_emptied_too(gallery):
    gallery.enroll("Kept Person", draw_embeddings(3), MODEL)
    with contextlib.closing(sqlite3.connect(gallery.path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        gallery.enroll("Gone Person", draw_embeddings(30, seed=2), MODEL)
        assert other.execute("SELECT count(*) FROM people").fetchone() == (2,)
        assert gallery.forget("Gone Person").clean
        assert b"Gone" not in gallery.path.with_name("gallery.sqlite-wal").read_bytes()


def test_joining_leaves_no_second_copy(gallery):
    rows = draw_embeddings(30)
    gallery.enroll("Ada", rows[:1], MODEL)
    gallery.enroll("Countess", rows, MODEL)
    gallery.merge("Countess", "Ada")
    raw = gallery.path.read_bytes()
    first = rows[0] / np.linalg.norm(rows[0])
    assert raw.count(first.tobytes()) <= 2  # the row and its index of unique photos


def test_rename(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    gallery.enroll("Grace", draw_embeddings(1, seed=1), MODEL)
    with pytest.raises(GalleryError, match="'GRACE' is already enrolled"):
        gallery.rename("ada", "GRACE")
    assert gallery.rename("ada", "ADA").name == "ADA"  # the same person may change its spelling
    gallery.rename("ada", "Ada Lovelace")
    assert gallery.names() == ["Ada Lovelace", "Grace"]


def test_one_face_model_a_gallery(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    with pytest.raises(GalleryError, match="cannot be mixed with 512-d ones of 'insightface:other'"):
        gallery.enroll("Grace", draw_embeddings(1), "insightface:other")
    with pytest.raises(GalleryError, match="cannot be mixed with 128-d ones"):
        gallery.enroll("Grace", draw_embeddings(1, 128), MODEL)
    assert gallery.names() == ["Ada"]
    gallery.forget("Ada")
    gallery.enroll("Grace", draw_embeddings(1), "insightface:other")  # an empty gallery starts again
    assert gallery.model_id == "insightface:other"


@pytest.mark.parametrize("bad", [np.zeros((1, 512)), np.full((1, 512), np.nan), np.zeros((0, 512)), np.ones((1, 2, 3))])
def test_embeddings_that_stand_for_no_face(gallery, bad):
    with pytest.raises(GalleryError):
        gallery.enroll("Ada", bad, MODEL)
    assert gallery.names() == []


def test_files_that_are_no_gallery(tmp_path):
    with pytest.raises(GalleryError, match="there is no gallery"):
        Gallery(tmp_path / "none.sqlite").embedding("Ada")
    assert Gallery(tmp_path / "none.sqlite").people() == []
    assert not (tmp_path / "none.sqlite").exists()

    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be read as a header" * 20)
    with pytest.raises(GalleryError, match="cannot be used as a gallery"):
        Gallery(tmp_path / "text.sqlite").names()

    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE something (x)")
    with pytest.raises(GalleryError, match="a database of something else"):
        Gallery(tmp_path / "other.sqlite").names()


@pytest.mark.parametrize("version", [0, 3, SCHEMA_VERSION, SCHEMA_VERSION + 1])
def test_a_database_of_something_else_stays_as_it_is(tmp_path, version):
    path = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE people (id, phone); PRAGMA user_version = {version}")
    path.chmod(0o644)
    before, content = path.stat(), path.read_bytes()
    for use in (Gallery.names, Gallery.means, lambda other: other.enroll("Ada", draw_embeddings(1), MODEL)):
        with pytest.raises(GalleryError, match="a database of something else"):
            use(Gallery(path))
    after = path.stat()
    assert (after.st_mode, after.st_mtime_ns, path.read_bytes()) == (before.st_mode, before.st_mtime_ns, content)
    assert [file.name for file in tmp_path.iterdir()] == ["other.sqlite"]


def test_newer_schema_is_refused(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    with sqlite3.connect(gallery.path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(GalleryError, match="newer version"):
        gallery.names()


FIRST_SCHEMA = """
CREATE TABLE face_model (id TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, folded TEXT NOT NULL UNIQUE);
CREATE TABLE photos (
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    embedding BLOB NOT NULL,
    UNIQUE (person, embedding)
);
PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_schema_is_upgraded(tmp_path):
    row = draw_embeddings(1)[0]
    row /= np.linalg.norm(row)
    with sqlite3.connect(tmp_path / "old.sqlite") as connection:
        connection.executescript(FIRST_SCHEMA)
        connection.execute("INSERT INTO face_model VALUES (?, 512)", (MODEL,))
        connection.execute("INSERT INTO people VALUES (1, 'Ada', 'ada')")
        connection.execute("INSERT INTO photos VALUES (1, 'a.jpg', ?)", (row.tobytes(),))
    old = Gallery(tmp_path / "old.sqlite")
    np.testing.assert_allclose(old.embedding("Ada"), row, atol=1e-6)
    old.add_alias("Ada", "Countess")
    assert old.names_and_aliases() == {"Ada": "Ada", "Countess": "Ada"}
    assert old.cover("Ada") is None


def test_a_file_of_the_second_schema_is_upgraded(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    with sqlite3.connect(gallery.path) as connection:
        for column in ("notes", "consent", "consent_date", "consent_until", "word"):
            connection.execute(f"ALTER TABLE people DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 2")
    assert gallery.person("Ada") == Person("Ada", 1)
    assert gallery.edit("Ada", notes="a poet's daughter").details.notes == "a poet's daughter"


def test_a_file_of_the_third_schema_is_upgraded(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL, details={"consent": "form 7", "consent_until": "2999-01-01"})
    with sqlite3.connect(gallery.path) as connection:
        connection.execute("ALTER TABLE people DROP COLUMN word")
        connection.execute("PRAGMA user_version = 3")
    assert gallery.person("Ada").details == Details("", "form 7", "", "2999-01-01")
    assert gallery.edit("Ada", word="a woman").details == Details("", "form 7", "", "2999-01-01", "a woman")


FOURTH_SCHEMA = """
CREATE TABLE face_model (id TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE people (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, folded TEXT NOT NULL UNIQUE, notes TEXT NOT NULL DEFAULT '',
    consent TEXT NOT NULL DEFAULT '', consent_date TEXT NOT NULL DEFAULT '', consent_until TEXT NOT NULL DEFAULT '',
    word TEXT NOT NULL DEFAULT ''
);
CREATE TABLE photos (
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE, label TEXT NOT NULL, embedding BLOB NOT NULL,
    quality REAL NOT NULL DEFAULT 1, crop BLOB, UNIQUE (person, embedding)
);
CREATE TABLE aliases (
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE, alias TEXT NOT NULL, folded TEXT NOT NULL UNIQUE
);
PRAGMA user_version = 4;
"""


def test_a_file_of_the_fourth_schema_loses_nobody_and_hides_nobody(tmp_path):
    names = ["Ada", "A\u200bda", "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u0639\u0644\u06cc\u0631\u0636\u0627"]
    rows = draw_embeddings(len(names))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(FOURTH_SCHEMA)
        connection.execute("INSERT INTO face_model VALUES (?, 512)", (MODEL,))
        for number, (name, row) in enumerate(zip(names, rows, strict=True), 7):
            folded = name.casefold()
            connection.execute("INSERT INTO people (id, name, folded) VALUES (?, ?, ?)", (number, name, folded))
            connection.execute("INSERT INTO photos VALUES (?, 'a.jpg', ?, 1, NULL)", (number, row.tobytes()))
        connection.execute("INSERT INTO aliases VALUES (7, 'a\u202eda', 'a\u202eda')")
        connection.commit()
    old = Gallery(path)
    now = ["Ada", "A<U+200B>da", names[2], f"{names[3]} (2)"]
    for name, row in zip(now, rows, strict=True):
        np.testing.assert_allclose(old.embedding(name), row, atol=1e-6)
    assert old.person("Ada").aliases == ("a<U+202E>da",)
    np.testing.assert_allclose(old.embedding(names[3]), rows[2], atol=1e-6)  # spelled without its joiner
    assert old.forget("A<U+200B>da").clean and old.forget(now[3]).clean
    assert sorted(old.names()) == sorted([now[0], now[2]])
    assert old.means()[1].shape == (2, 512)


@pytest.mark.parametrize("kind", HIDING)
def test_no_text_hides_anything(gallery, kind):
    hiding = HIDING[kind]
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    for field in ("notes", "consent"):
        with pytest.raises(GalleryError, match=rf"{field} holds U\+[0-9A-F]+, which cannot be seen"):
            gallery.edit("Ada", **{field: f"met in\nParis {hiding}"})
    with pytest.raises(GalleryError, match="word must be"):
        gallery.edit("Ada", word=f"a woman {hiding}")
    with pytest.raises(GalleryError, match="cannot be seen"):
        gallery.add_alias("Ada", f"Countess {hiding}")
    assert gallery.person("Ada").aliases == () and gallery.person("Ada").details == Details()


def test_texts_of_several_lines_and_scripts_stay_as_they_are(gallery):
    notes = "met in Paris,\r\n\tthen \u0639\u0644\u06cc\u200c\u0631\u0636\u0627 \u2764\ufe0f"
    gallery.enroll("Ada", draw_embeddings(1), MODEL, details={"notes": notes, "consent": "form 7\nby post"})
    assert gallery.person("Ada").details == Details(notes, "form 7\nby post")


def test_labels_and_what_was_let_in_before_are_written_out(gallery):
    rows = draw_embeddings(2)
    gallery.enroll("Ada", rows[:1], MODEL, photos=["gpj.\u202ea\n.jpg"])
    assert [photo.label for photo in gallery.photos("Ada")] == ["gpj.<U+202E>a<U+000A>.jpg"]
    with contextlib.closing(sqlite3.connect(gallery.path)) as connection:
        connection.execute("UPDATE people SET notes = ?, consent = ?", ("a\u200bb\nc", "\u202e" * 10_000))
        connection.execute("UPDATE photos SET label = ?", ("x\u200b.jpg",))
        connection.commit()
    details = gallery.person("Ada").details
    assert details.notes == "a<U+200B>b\nc" and details.consent.startswith("<U+202E><U+202E>")
    assert [photo.label for photo in gallery.photos("Ada")] == ["x<U+200B>.jpg"]
    gallery.edit("Ada", consent="form 7")  # the rest can be changed, and is kept as it is shown
    assert gallery.person("Ada").details == Details("a<U+200B>b\nc", "form 7")
    assert gallery.forget("Ada").clean


def test_a_word_for_a_person(gallery, capsys):
    where = str(gallery.path)
    gallery.enroll("Ada", draw_embeddings(1), MODEL, details={"consent": "form 7"})
    gallery_verbs.edit("Ada", word="countess of Lovelace", gallery=where)
    assert "consent form 7; notes: none; in words: a countess of Lovelace" in capsys.readouterr().out
    gallery_verbs.list_people(where)
    assert "in words: countess of Lovelace" in capsys.readouterr().out
    gallery.enroll("Lady", draw_embeddings(1, seed=1), MODEL, details={"word": "a lady"})
    assert gallery.merge("Lady", "Ada").details.word == "countess of Lovelace"
    assert gallery.forget("Ada").clean and b"countess" not in gallery.path.read_bytes()


def test_better_photos_weigh_more_and_the_best_is_the_cover(gallery):
    rows = np.eye(2, 512, dtype=np.float32)
    gallery.enroll("Ada", rows, MODEL, qualities=[3, 1], crops=[b"best", b"other"])
    np.testing.assert_allclose(gallery.embedding("Ada")[:2], np.array([3, 1]) / np.sqrt(10), atol=1e-6)
    np.testing.assert_array_equal(gallery.embeddings("Ada"), rows)
    assert gallery.cover("Ada") == b"best"
    with pytest.raises(GalleryError, match="one quality above 0"):
        gallery.enroll("Ada", rows, MODEL, qualities=[1, 0])


def test_an_alias_is_nobody_elses_name(gallery):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    gallery.enroll("Grace", draw_embeddings(1, seed=1), MODEL)
    gallery.add_alias("Ada", "Countess")
    np.testing.assert_array_equal(gallery.embedding("COUNTESS"), gallery.embedding("Ada"))
    for refused in (
        lambda: gallery.add_alias("Grace", "countess"),
        lambda: gallery.add_alias("Grace", "ada"),
        lambda: gallery.rename("Grace", "Countess"),
        lambda: gallery.enroll("Countess", draw_embeddings(1), MODEL),
    ):
        with pytest.raises(GalleryError, match="alias"):
            refused()
    gallery.forget("Ada")
    assert gallery.names_and_aliases() == {"Grace": "Grace"}
    assert b"ountess" not in gallery.path.read_bytes()


def test_a_removed_alias_leaves_no_bytes(gallery, capsys):
    gallery.enroll("Ada", draw_embeddings(1), MODEL)
    gallery_verbs.alias("Ada", "Countess of L", gallery=str(gallery.path))
    gallery_verbs.list_people(str(gallery.path))
    assert "1 photo, also called Countess of L" in capsys.readouterr().out
    with pytest.raises(GalleryError, match="no alias of 'Ada'"):
        gallery_verbs.alias("Ada", "Duchess", remove=True, gallery=str(gallery.path))
    gallery_verbs.alias("Ada", "COUNTESS of L", remove=True, gallery=str(gallery.path))
    assert "not called anything else" in capsys.readouterr().out
    assert b"ountess" not in gallery.path.read_bytes()


def test_merge_joins_photos_and_keeps_the_name_as_an_alias(gallery):
    rows = draw_embeddings(3)
    gallery.enroll("Ada", rows[:2], MODEL)
    gallery.enroll("Countess", rows[1:], MODEL)
    gallery.add_alias("Countess", "Lady L")
    gallery_verbs.merge("Countess", "Ada", str(gallery.path))
    assert [(person.name, person.photos) for person in gallery.people()] == [("Ada", 3)]
    assert gallery.names_and_aliases() == {"Ada": "Ada", "Countess": "Ada", "Lady L": "Ada"}
    with pytest.raises(GalleryError, match="the same person already"):
        gallery.merge("Countess", "Ada")


def test_an_expired_consent_is_refused_until_it_is_renewed(gallery, capsys):
    where, today = str(gallery.path), datetime.date.today()
    yesterday = (today - datetime.timedelta(days=1)).isoformat()
    gallery.enroll("Ada", draw_embeddings(1), MODEL, details={"consent": "form 7", "consent_until": yesterday})
    for query in (gallery.embedding, gallery.embeddings):
        with pytest.raises(ConsentExpired, match=f"the consent of 'Ada' ended on {yesterday}: renew it"):
            query("ADA")
    gallery_verbs.list_people(where)
    assert f"consent EXPIRED on {yesterday}" in capsys.readouterr().out
    gallery_verbs.edit("Ada", consent_until=today.isoformat(), gallery=where)  # the last day counts
    assert gallery.embedding("Ada").shape == (512,)
    gallery_verbs.edit("Ada", consent_until="", notes="born in 1815", gallery=where)
    assert gallery.person("Ada").details == Details("born in 1815", "form 7")
    gallery_verbs.list_people(where)
    assert "consent form 7\n" in capsys.readouterr().out
    with pytest.raises(IdClipError, match="nothing to change"):
        gallery_verbs.edit("Ada", gallery=where)


@pytest.mark.parametrize(
    "bad",
    [
        {"consent_until": "31.12.2026"},
        {"consent_date": "20261231"},
        {"consent_date": "2026-02-30"},
        {"consent_date": "2026-02-02", "consent_until": "2026-02-01"},
        {"notes": "x" * 10_001},
        {"word": "x" * 61},
        {"word": "a [TOK]"},
        {"word": "a\nwoman"},
    ],
)
def test_bad_details_change_nothing(gallery, bad):
    with pytest.raises(GalleryError):
        gallery.enroll("Ada", draw_embeddings(1), MODEL, details=bad)
    assert gallery.names() == []


def test_joined_people_keep_the_earlier_end_of_consent(gallery):
    for name, details in {"Ada": {"notes": "a", "consent_until": "2999-01-01"}, "Lady": {"consent": "form 7"}}.items():
        gallery.enroll(name, draw_embeddings(1, seed=len(name)), MODEL, details=details)
    gallery.edit("Lady", notes="b", consent_until="2998-01-01")
    assert gallery.merge("Lady", "Ada").details == Details("a\nb", "form 7", "", "2998-01-01")


def test_threads_enroll_at_once(gallery):
    rows = draw_embeddings(8)
    threads = [threading.Thread(target=gallery.enroll, args=(f"Person {i}", rows[i], MODEL)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gallery.names()) == 8


def test_default_path_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_gallery() == tmp_path / "open_clip_idplugin" / "gallery.sqlite"


LANDMARKS = np.array([[20, 24], [44, 24], [32, 36], [24, 46], [40, 46]], np.float32)


class NamedFileEngine:
    """Stands in for a face engine: 'finds' a face in every picture except those without colour."""

    model_id = MODEL
    embedding_size = 512

    def the_face(self, picture: np.ndarray, policy: str = "largest") -> Face:
        if picture.max() == 0:
            raise IdClipError("no face was found")
        embedding = draw_embeddings(1, seed=int(picture[0, 0, 0]))[0]
        embedding /= np.linalg.norm(embedding)
        return Face(np.array([8, 8, 56, 56], "f4"), LANDMARKS, 0.9, np.array(picture), embedding)


@pytest.fixture
def photos(tmp_path) -> dict[str, str]:
    paths = {}
    for name, shade in {"one": 10, "two": 20, "black": 0}.items():
        paths[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (64, 64), (shade, shade, shade)).save(paths[name])
    return paths


def test_enroll_goes_on_after_bad_photos(gallery, photos, capsys):
    sources = [photos["one"], photos["black"], "missing.jpg", photos["two"]]
    gallery_verbs.enroll_photos(gallery, "Ada", sources, NamedFileEngine())
    printed = capsys.readouterr().out
    assert "black.png: left out, no face was found" in printed
    assert "missing.jpg: left out, there is no such file" in printed
    assert "2 of 4 photos used" in printed
    assert gallery.people()[0].photos == 2


def test_enroll_keeps_a_picture_of_the_face_unless_refused(gallery, photos):
    gallery_verbs.enroll_photos(gallery, "Ada", [photos["one"]], NamedFileEngine())
    gallery_verbs.enroll_photos(gallery, "Grace", [photos["two"]], NamedFileEngine(), crops=False)
    assert Image.open(io.BytesIO(gallery.cover("Ada"))).size == (64, 64)
    assert gallery.cover("Grace") is None


def test_the_same_face_under_two_names_is_said(gallery, photos, capsys):
    def enroll(name: str, photo: str, **options: float) -> str:
        gallery_verbs.enroll_photos(gallery, name, [photos[photo]], NamedFileEngine(), **options)
        return capsys.readouterr().out

    assert "Warning" not in enroll("Ada", "one")
    assert "Warning" not in enroll("Grace", "two")
    gallery.add_alias("Ada", "Countess")
    warning = enroll("Lady L", "one")
    assert "'Lady L' look like 'Ada' (cosine 1.00)" in warning
    assert 'idclip merge "Lady L" "Ada"' in warning
    assert "Grace" not in warning
    gallery.merge("Lady L", "Ada")
    assert "Warning" not in enroll("ada", "one")  # one's own photos are no likeness
    assert "Warning" not in enroll("Third", "one", same_face=1.1)
    gallery.edit("Ada", consent_until="2001-01-01")
    gallery.forget("Third")
    assert "Warning" not in enroll("Fourth", "one")  # an expired consent covers no comparison


def test_enroll_without_a_usable_photo(gallery, photos):
    with pytest.raises(IdClipError, match="nobody was enrolled"):
        gallery_verbs.enroll_photos(gallery, "Ada", [photos["black"]], NamedFileEngine())
    assert not gallery.path.exists()
    with pytest.raises(IdClipError, match="no photo was given"):
        gallery_verbs.enroll("Ada")


def test_verbs_print_names_and_no_embeddings(gallery, capsys):
    gallery.enroll("Ada", draw_embeddings(2), MODEL)
    where = str(gallery.path)
    gallery_verbs.list_people(where)
    gallery_verbs.rename("ada", "Ada Lovelace", where)
    gallery_verbs.forget("ada lovelace", where)
    gallery_verbs.list_people(where)
    printed = capsys.readouterr().out
    assert "Ada  2 photos" in printed.replace("   ", " ")
    assert "erased" in printed
    assert "Nobody is enrolled" in printed
    assert not any(len(word) > 6 and word.lstrip("-").replace(".", "").isdigit() for word in printed.split())
    assert Path(where).exists()
