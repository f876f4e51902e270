"""The one encoder of queries: unit rows, each distinct text once, ensembles, any batch size."""

import numpy as np
import pytest
import torch

from open_clip_idplugin.errors import IdClipError

pytestmark = pytest.mark.host

TEXTS = ["a dog", "[TOK] runs", "a dog", "a man with [TOK] on the beach", "[TOK] runs"]


@pytest.fixture(scope="module")
def loaded(tiny_identity_models):
    from open_clip_idplugin import load_model

    torch.manual_seed(0)
    return load_model("IdCLIP-ViT-tiny")


@pytest.fixture
def entries(faces):
    return [None, faces[0], None, faces[1], faces[2]]


def test_unit_rows_whatever_the_batch_size(loaded, entries):
    from open_clip_idplugin import QueryEncoder

    vectors = QueryEncoder(loaded).encode(TEXTS, faces=entries)
    assert vectors.shape == (5, 24) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[1], vectors[4])  # the same words about another person
    for batch_size in (1, 2):
        small = QueryEncoder(loaded, batch_size=batch_size).encode(TEXTS, faces=entries)
        np.testing.assert_allclose(small, vectors, atol=1e-5)


def test_rows_are_the_models_own(loaded, entries):
    from open_clip_idplugin import QueryEncoder

    vectors = QueryEncoder(loaded).encode(TEXTS, faces=entries)
    with torch.no_grad():
        expected = loaded.model.encode_text(loaded.tokenizer(TEXTS, faces=entries), normalize=True)
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)


def test_each_distinct_text_is_encoded_once(loaded, faces, monkeypatch):
    from open_clip_idplugin import QueryEncoder

    rows = []
    encode = loaded.model.encode_text
    monkeypatch.setattr(loaded.model, "encode_text", lambda text: rows.append(len(text)) or encode(text))
    QueryEncoder(loaded, batch_size=2).encode(["a dog", "a cat", "a dog"] * 5)
    assert rows == [2]
    rows.clear()
    QueryEncoder(loaded).encode(["[TOK] runs"] * 4, faces=faces[[0, 1, 0, 0]])
    assert rows == [2]


def test_one_face_for_all_texts(loaded, faces):
    from open_clip_idplugin import QueryEncoder

    encoder = QueryEncoder(loaded)
    one = encoder.encode(["[TOK] runs", "a [TOK]"], faces=faces[0].numpy())
    np.testing.assert_allclose(one, encoder.encode(["[TOK] runs", "a [TOK]"], faces=[faces[0]] * 2), atol=1e-6)


def test_ensembles_are_means_before_normalising(loaded, faces):
    from open_clip_idplugin import QueryEncoder

    groups = [["[TOK]", "an image with [TOK]"], ["a dog"], ["[TOK]", "[TOK] in the image", "[TOK]"]]
    vectors = QueryEncoder(loaded, batch_size=2).encode_ensemble(groups, faces=[faces[0], None, faces[1]])
    with torch.no_grad():
        for row, (group, face) in enumerate(zip(groups, [faces[0], None, faces[1]], strict=True)):
            features = loaded.model.encode_text(loaded.tokenizer(group, faces=[face] * len(group)))
            expected = torch.nn.functional.normalize(features.mean(dim=0), dim=0)
            np.testing.assert_allclose(vectors[row], expected.numpy(), atol=1e-5)


def test_images(loaded):
    from open_clip_idplugin import QueryEncoder

    images = torch.randn(5, 3, 32, 32)
    vectors = QueryEncoder(loaded).encode_images(images.split(2), progress="images")
    with torch.no_grad():
        np.testing.assert_allclose(vectors, loaded.model.encode_image(images, normalize=True).numpy(), atol=1e-5)


def test_nothing_gives_no_rows(loaded):
    from open_clip_idplugin import QueryEncoder

    encoder = QueryEncoder(loaded)
    assert encoder.encode([]).shape == encoder.encode_images([]).shape == encoder.encode_ensemble([]).shape == (0, 24)


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16", "amp_bf16"])
def test_other_precisions(tiny_identity_models, faces, precision):
    from open_clip_idplugin import QueryEncoder, load_model

    rows = []
    for each in ("fp32", precision):
        torch.manual_seed(0)
        encoder = QueryEncoder(load_model("IdCLIP-ViT-tiny", precision=each))
        text = encoder.encode(["[TOK] runs"], faces=faces[0])
        torch.manual_seed(1)
        rows.append((text, encoder.encode_images([torch.randn(2, 3, 32, 32)])))
    for low, exact in zip(rows[1], rows[0], strict=True):
        assert low.dtype == np.float32 and (low * exact).sum(axis=1).min() > 0.999


def test_a_plain_model_takes_plain_texts_only(tiny_identity_models, faces):
    from open_clip_idplugin import QueryEncoder, load_model

    encoder = QueryEncoder(load_model("plain-ViT-tiny"))
    assert encoder.encode(["a dog"]).shape == (1, 24)
    with pytest.raises(IdClipError, match="plain-ViT-tiny takes no faces"):
        encoder.encode(["[TOK] runs"], faces=faces[0])


def test_refusals(loaded, faces):
    from open_clip_idplugin import QueryEncoder

    with pytest.raises(IdClipError, match="at least 1"):
        QueryEncoder(loaded, batch_size=0)
    encoder = QueryEncoder(loaded)
    with pytest.raises(IdClipError, match="list of strings"):
        encoder.encode("a dog")
    with pytest.raises(IdClipError, match="group 1 of the ensemble"):
        encoder.encode_ensemble([["a dog"], []])
    with pytest.raises(IdClipError, match=r"no \[TOK\]"):
        encoder.encode_ensemble([["a dog"]], faces=[faces[0]])
    with pytest.raises(IdClipError, match="2 entries for 1 texts"):
        encoder.encode(["[TOK]"], faces=faces[:2])
