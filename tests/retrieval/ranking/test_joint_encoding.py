"""Texts of several threads in one forward pass: who is encoded with whom, order, errors, and the vectors of single requests."""

import threading
from collections import deque

import numpy as np
import pytest
import torch

from open_clip_idplugin.errors import IdClipError

SECONDS = 30  # a test that hangs fails


@pytest.fixture(scope="module")
def loaded(tiny_identity_models):
    from open_clip_idplugin import load_model

    torch.manual_seed(0)
    return load_model("IdCLIP-ViT-tiny")


class Gate:
    """Stands before the model: holds every pass until it is let through, and knows how many texts each had."""

    def __init__(self, monkeypatch, model):
        self.sizes, self._reached, self._open = [], threading.Semaphore(0), threading.Semaphore(0)
        encode = model.encode_text

        def held(text):
            self.sizes.append(len(text))
            self._reached.release()
            assert self._open.acquire(timeout=SECONDS)
            return encode(text)

        monkeypatch.setattr(model, "encode_text", held)

    def wait(self):
        """Until a pass is at the gate."""
        assert self._reached.acquire(timeout=SECONDS)

    def let(self, passes):
        for _ in range(passes):
            self._open.release()


class Caller(threading.Thread):
    """Encodes in a thread of its own."""

    def __init__(self, encoder, texts, faces=None):
        super().__init__(daemon=True)
        self.encoder, self.texts, self.faces = encoder, texts, faces
        self.vectors = self.error = None
        self.start()

    def run(self):
        try:
            self.vectors = self.encoder.encode(self.texts, faces=self.faces)
        except Exception as error:
            self.error = error

    def result(self):
        self.join(SECONDS)
        assert not self.is_alive()
        return self.error if self.error is not None else self.vectors


class Queue(deque):
    """Those who wait; tells when somebody has joined them."""

    def __init__(self):
        super().__init__()
        self.joined = threading.Semaphore(0)

    def append(self, turn):
        super().append(turn)
        self.joined.release()


def queued(encoder, *calls):
    """Callers that wait in this order."""
    encoder._waiting = Queue()
    callers = []
    for texts, faces in calls:
        callers.append(Caller(encoder, texts, faces))
        assert encoder._waiting.joined.acquire(timeout=SECONDS)
    return callers


def test_who_comes_first_is_encoded_alone_and_the_rest_together(loaded, faces, monkeypatch):
    from open_clip_idplugin import QueryEncoder
    from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

    calls = [
        (["a dog"], None),
        (["[TOK] runs"], [faces[0]]),
        (["a long text about a cat and its many friends", "a cat"], None),
        (["[TOK] and [TOK:2]"], [faces[1:3]]),
        (["a dog"], None),
        (["[TOK] runs"], [faces[2]]),
    ]
    expected = [QueryEncoder(loaded).encode(texts, faces=people) for texts, people in calls]
    gate = Gate(monkeypatch, loaded.model)
    encoder = JointEncoder(loaded)
    first = Caller(encoder, *calls[0])
    gate.wait()
    callers = [first, *queued(encoder, *calls[1:])]
    gate.let(2)
    for caller, vectors in zip(callers, expected, strict=True):
        np.testing.assert_allclose(caller.result(), vectors, atol=2e-6)
    assert gate.sizes == [1, 6]  # one row a text: all who came meanwhile


def test_a_pass_takes_no_more_texts_than_allowed_and_nobody_is_left(loaded, monkeypatch):
    from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

    gate = Gate(monkeypatch, loaded.model)
    encoder = JointEncoder(loaded, most_texts=4)
    first = Caller(encoder, ["a"])
    gate.wait()
    waiting = [["b", "c"], ["d", "e"], ["f"], [f"g{number}" for number in range(6)], ["h"]]
    callers = queued(encoder, *((texts, None) for texts in waiting))
    gate.let(10)
    assert [len(caller.result()) for caller in [first, *callers]] == [1, 2, 2, 1, 6, 1]
    assert gate.sizes == [1, 4, 1, 6, 1]  # in the order of coming; a request of six is not split
    assert len(encoder.encode(["free again"])) == 1


def test_an_error_stays_with_its_request(loaded, faces, monkeypatch):
    from open_clip_idplugin import QueryEncoder
    from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

    expected = QueryEncoder(loaded).encode(["a dog", "[TOK] runs"], faces=[None, faces[0]])
    gate = Gate(monkeypatch, loaded.model)
    encoder = JointEncoder(loaded)
    first = Caller(encoder, ["[TOK] without a face"])
    # The first fails before it reaches the model, so that another one holds the gate.
    assert "[TOK]" in str(first.result())
    holder = Caller(encoder, ["first"])
    gate.wait()
    good, bad, person = queued(
        encoder, (["a dog"], None), (["[TOK] and [TOK:3]"], [faces[1]]), (["[TOK] runs"], [faces[0]])
    )
    gate.let(3)
    np.testing.assert_allclose(good.result(), expected[:1], atol=2e-6)
    np.testing.assert_allclose(person.result(), expected[1:], atol=2e-6)
    assert isinstance(bad.result(), IdClipError) and "[TOK:3]" in str(bad.result())
    assert len(holder.result()) == 1


def test_a_model_that_fails_fails_for_everybody_and_works_again(loaded, monkeypatch):
    from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

    encoder = JointEncoder(loaded)
    with monkeypatch.context() as patched:

        def broken(text):
            raise RuntimeError("out of memory")

        patched.setattr(loaded.model, "encode_text", broken)
        for caller in [Caller(encoder, [str(number)]) for number in range(8)]:
            assert isinstance(caller.result(), RuntimeError)
    assert len(encoder.encode(["a dog"])) == 1


def test_ensembles_of_several_threads(loaded, faces):
    from open_clip_idplugin import QueryEncoder
    from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

    groups = [["a photo of [TOK]", "[TOK] in a picture"], ["[TOK]"]]
    expected = QueryEncoder(loaded).encode_ensemble(groups, faces=[faces[0], faces[1]])
    encoder = JointEncoder(loaded)
    found = [None] * 8

    def ask(number):
        found[number] = encoder.encode_ensemble(groups, faces=[faces[0], faces[1]])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_a_plain_model(tiny_identity_models):
    from open_clip_idplugin import load_model
    from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

    encoder = JointEncoder(load_model("plain-ViT-tiny"))
    assert [len(Caller(encoder, ["a dog"] * count).result()) for count in (1, 3)] == [1, 3]
