"""A gallery while others change it: every answer is the right person's, or a sentence that nobody is called so."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from open_clip_idplugin.gallery import Gallery, GalleryError, store
from open_clip_idplugin.gallery.erasure import Secrets, count_left
from open_clip_idplugin.gallery.errors import GalleryBusy
from open_clip_idplugin.gallery.likeness import find_likenesses
from open_clip_idplugin.retrieval.ranking.query_people import People

MODEL, SIZE = "insightface:test", 8
VECTORS = dict(zip(("Alice", "Bob", "Carol", "Dora", "Eve"), np.eye(SIZE, dtype=np.float32)))


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    gallery = Gallery(tmp_path / "gallery.sqlite")
    gallery.enroll("Carol", VECTORS["Carol"], MODEL)
    return gallery


def enroll(gallery, name):
    return gallery.enroll(name, VECTORS[name], MODEL, details={"word": f"the one called {name}"})


def replace_alice(gallery):
    """Erase Alice; Bob is the next to be enrolled."""
    gallery.forget("Alice")
    enroll(gallery, "Bob")


@contextlib.contextmanager
def between_statements(monkeypatch, work):
    """Run `work` in another thread as soon as a reader has found the person of a name."""
    found, threads = store.find_person, []

    def find_and_wait(connection, name):
        person = found(connection, name)
        if not threads:
            threads.append(threading.Thread(target=work))
            threads[0].start()
            threads[0].join(0.3)
        return person

    monkeypatch.setattr(store, "find_person", find_and_wait)
    yield
    threads[0].join()


READERS = {
    "person": lambda gallery: gallery.person("Alice").name == "Alice",
    "embedding": lambda gallery: np.array_equal(gallery.embedding("Alice"), VECTORS["Alice"]),
    "embeddings": lambda gallery: np.array_equal(gallery.embeddings("Alice"), VECTORS["Alice"][None]),
    "cover": lambda gallery: gallery.cover("Alice") is None,
    "photos": lambda gallery: np.array_equal(gallery.photos("Alice")[0].embedding, VECTORS["Alice"]),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_sees_one_state(gallery, monkeypatch, reader):
    enroll(gallery, "Alice")
    with between_statements(monkeypatch, lambda: replace_alice(gallery)):
        assert READERS[reader](gallery)
    assert gallery.names() == ["Bob", "Carol"]


def test_a_request_sees_one_state_from_name_to_vector(gallery, monkeypatch):
    enroll(gallery, "Alice")
    with between_statements(monkeypatch, lambda: replace_alice(gallery)):
        asked = People(gallery).asked_for(["Alice", "Carol"])
    np.testing.assert_array_equal(asked.embeddings((), ["Alice", "Carol"]), [VECTORS["Alice"], VECTORS["Carol"]])
    assert (asked.word("Alice"), asked.face_model, asked.face_size) == ("the one called Alice", MODEL, SIZE)
    with pytest.raises(GalleryError, match="nobody named 'Alice'"):
        People(gallery).asked_for(["Alice"])


def test_a_block_that_reads_one_state_sees_nothing_newer_and_cannot_write(gallery):
    enroll(gallery, "Alice")
    with ThreadPoolExecutor(1) as other:
        with gallery.one_state():
            names = gallery.names()
            replacing = other.submit(replace_alice, gallery)
            time.sleep(0.2)
            assert not replacing.done() and gallery.names() == names == ["Alice", "Carol"]
            with pytest.raises(RuntimeError, match="block that reads"):
                gallery.add_alias("Alice", "Ally")
        replacing.result()
    assert gallery.names() == ["Bob", "Carol"] and "Ally" not in gallery.names_and_aliases()
    with pytest.raises(RuntimeError), gallery.at_once():
        gallery.forget("Bob")  # it commits: half of a transaction would stay
    assert gallery.names() == ["Bob", "Carol"]


def test_an_id_is_never_given_twice(gallery):
    with contextlib.closing(sqlite3.connect(gallery.path)) as connection:
        ids = []
        for name in ("Alice", "Bob", "Alice"):
            enroll(gallery, name)
            ids += connection.execute("SELECT id FROM people WHERE name = ?", (name,)).fetchone()
            gallery.forget(name)
    assert ids == sorted(set(ids)) and len(ids) == 3


def test_readers_and_writers_in_threads(gallery):
    """People come, go and change names while others ask for them by name, and compare faces with everybody's."""
    enroll(gallery, "Eve")
    people, counts, end = People(gallery), Counter(), time.monotonic() + 3

    def change(first, second):
        while time.monotonic() < end:
            with contextlib.suppress(GalleryBusy):
                enroll(gallery, first)
                time.sleep(0.03)  # so that others find somebody
                gallery.forget(first)
                enroll(gallery, second)
                time.sleep(0.03)
                gallery.rename(second, f"{second} of before")
                gallery.forget(f"{second} of before")
                counts["changed"] += 1

    def ask(name):
        while time.monotonic() < end:
            try:
                asked = people.asked_for([name])
            except GalleryError as error:
                assert f"nobody named '{name}'" in str(error)
                counts["nobody"] += 1
                continue
            np.testing.assert_array_equal(asked.embeddings((), [name])[0], VECTORS[name])
            assert asked.word(name) == f"the one called {name}"
            counts["right" if name != "Eve" else "stayed"] += 1

    def look():
        while time.monotonic() < end:
            for name, row in zip(*gallery.means(), strict=True):
                np.testing.assert_array_equal(row, VECTORS[name.partition(" ")[0]])
            assert all(person.photos == 1 for person in gallery.people())
            assert {found.name.partition(" ")[0] for found in find_likenesses(gallery, "x", VECTORS["Bob"])} <= {"Bob"}
            gallery.embedding("Eve")  # who stays
            counts["looked"] += 1

    with ThreadPoolExecutor(7) as threads:
        work = [threads.submit(change, "Alice", "Bob"), threads.submit(change, "Dora", "Carol")]
        work += [threads.submit(ask, name) for name in ("Alice", "Bob", "Dora", "Eve")] + [threads.submit(look)]
        for done in work:
            done.result()
    assert min(counts[what] for what in ("changed", "nobody", "right", "stayed", "looked")) > 0, counts


def test_searching_the_bytes_leaves_other_threads_their_locks(gallery):
    """POSIX takes all of a process's locks from a file when it closes any handle of it."""
    enroll(gallery, "Alice")
    try_to_write = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0); "
        'c.execute(\'INSERT INTO aliases VALUES (1, "x", "x")\'); c.commit()'
    )
    with gallery.one_state():
        gallery.names()
        assert (count_left([gallery.path], Secrets((os.urandom(64),), ()), Secrets((), ()))) == (0, 0)
        tried = subprocess.run(
            [sys.executable, "-c", try_to_write, os.fspath(gallery.path)], capture_output=True, text=True, check=False
        )
    assert "database is locked" in tried.stderr
