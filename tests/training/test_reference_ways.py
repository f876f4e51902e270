"""What is done as the reference implementation does it, held against literal transcriptions of its rules; off by default."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import regex
import torch
from evaluation_fixtures import FACE_LENGTH, BagOfWords, small_set, unit, word_vector
from training_fixtures import FACE_DIM, make_sample, small_world, write_shards

from open_clip_idplugin import prompts
from open_clip_idplugin.config import STORED, IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.evaluation_set import people_of
from open_clip_idplugin.evaluation.protocols import (
    ARTICLES,
    FIRST_FACE,
    HIDDEN_TOKEN,
    Settings,
    encode_queries,
    general_queries,
    run,
)
from open_clip_idplugin.queries.person_as import why_no_token

# The pattern by which the reference's tokenizer (OpenAI's, with [TOK] as one more special token) takes a text apart.
REFERENCE_PATTERN = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|\[TOK\]|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
TEXTS = (
    "An image with [TOK]. A man runs", "A man ([TOK]) runs", "A man ([TOK] Ada) runs", "A man (Ada [TOK]) runs",
    "[TOK]. A man ([TOK]) runs", "[TOK][TOK] run", "He said:[TOK]", "a_[TOK]", "é[TOK]", "5[TOK]", "it's[TOK]",
    "'[TOK]", "\u201c[TOK]\u201d", "[[TOK]]", "- [TOK]",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_placeholders_are_seen_where_the_reference_s_tokenizer_sees_them(text):
    tokens = REFERENCE_PATTERN.findall(text.lower())
    read = prompts.as_reference_reads(text)
    assert len(prompts.placeholder_numbers(read)) == tokens.count("[tok]")
    assert read.lower() == text.lower()  # nothing else changes


def reference_article(text):
    """Its four replacements."""
    for old, new in ((" a [E]", " [E]"), ("A [E]", "[E]"), (" an [E]", " [E]"), ("An [E]", "[E]")):
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    "caption",
    [
        "The man runs",
        "A man runs",
        "a man runs",
        "An adult runs",
        "an adult",
        "Near the lady",
        "With a boy.",
        "with an adult",
    ],
)
@pytest.mark.parametrize("template", [6, 9, 10])
def test_articles_before_a_person_stay_or_go_as_in_the_reference(caption, template):
    before, keyword, after = prompts.split_at_keyword(caption)
    middle = prompts.GENERAL_TEMPLATES[template].replace("[KEYWORD]", keyword)
    literal = middle.replace("[BEFORE]", before.strip()).replace("[AFTER]", after.strip()).replace("[ENTITY]", "[E]")
    expected = " ".join(reference_article(literal).replace("[E]", "[ENTITY]").split())
    got = prompts.general_text(caption, template, reference_articles=True)
    assert got.replace(" .", ".") == expected.replace(" .", ".")
    assert prompts.general_text("The man runs", 6) == "[ENTITY] runs"  # ours
    assert prompts.general_text("The man runs", 6, True) == "The [ENTITY] runs"


def test_all_eleven_texts_keep_the_same_draw():
    for caption in ("The man runs", "Two people eat"):
        ours = prompts.general_texts(caption, random.Random(3))
        theirs = prompts.general_texts(caption, random.Random(3), True)
        assert [text.replace("The ", "") for text in theirs] == [text.replace("The ", "") for text in ours]


def test_hidden_tokens_are_asked_without_a_face():
    evaluation_set, images = small_set()
    settings = Settings(("conf1",), templates="0,7", as_reference=(HIDDEN_TOKEN,))
    queries = general_queries(evaluation_set, "conf1", settings)
    hidden = [text for text in queries.texts if "[tok]" in text]
    assert hidden == ["A man ([tok]) runs on the beach", "A woman ([tok]) with a dog"]  # once, whoever is meant
    shown = np.array(["[TOK]" in text for text in queries.texts])
    assert ((queries.face_of_text >= 0) == shown).all()
    features = encode_queries(queries, evaluation_set, BagOfWords())
    row = queries.texts.index("A man ([tok]) runs on the beach")
    words = sum(word_vector(word) for word in ["A", "man", "tok", "runs", "on", "the", "beach"])
    np.testing.assert_allclose(features[row], unit(words), rtol=1e-5)
    ours = run(evaluation_set, images, BagOfWords(), replace(settings, as_reference=())).metrics["conf1"]
    theirs = run(evaluation_set, images, BagOfWords(), settings).metrics["conf1"]
    assert theirs["t2i_R@1"] < ours["t2i_R@1"]  # a text without a face cannot say who is meant


def test_an_entity_is_asked_for_by_the_face_of_its_first_image():
    evaluation_set, _ = small_set()
    faces = unit(np.random.default_rng(1).standard_normal(evaluation_set.faces.shape))
    turned = replace(evaluation_set, faces=faces).take([8, 7, 6, 5, 4, 3, 2, 1, 0])
    identities, images, first = people_of(turned, first_face=True)
    assert identities == ["n0", "n1", "n2"] and [turned.keys[image] for image in images] == [
        "100_n0",
        "100_n1",
        "100_n2",
    ]
    np.testing.assert_allclose(first, faces[:3], rtol=1e-6)  # those with the lowest keys
    _, images, first = people_of(replace(turned, in_order=True), first_face=True)
    assert [turned.keys[image] for image in images] == ["102_n0", "102_n1", "102_n2"]  # those of the set's order
    np.testing.assert_allclose(first, faces[6:], rtol=1e-6)
    _, _, means = people_of(turned)
    np.testing.assert_allclose(means, unit(faces.reshape(3, 3, -1).mean(axis=0)), rtol=1e-5)
    encoder = BagOfWords()
    encoder.encode_ensemble = lambda groups, faces=None: np.asarray(faces)
    asked = run(turned, unit(faces[::-1]), encoder, Settings(("conf1",), ("entity",), as_reference=(FIRST_FACE,)))
    assert asked.metrics["conf1"]["entity_R@1_kmin"] == 1  # every query is one of its own images


def test_an_adaptor_that_wants_them_gets_the_lengths_that_the_data_have():
    evaluation_set, _ = small_set()
    lengths = np.arange(1, 10, dtype=np.float32)
    stored = replace(evaluation_set, face_lengths=lengths)
    np.testing.assert_allclose(np.linalg.norm(stored.query_faces, axis=1), lengths, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(stored.take([4, 2]).query_faces, axis=1), [5, 3], rtol=1e-6)
    queries = general_queries(stored, "conf1", Settings(("conf1",), templates=2))
    features = encode_queries(queries, stored, BagOfWords())
    row = queries.texts.index("[TOK]. A man runs on the beach")
    words = sum(word_vector(word) for word in ["A", "man", "runs", "on", "the", "beach"])
    expected = unit(words + FACE_LENGTH * stored.query_faces[queries.face_of_text[row]])
    np.testing.assert_allclose(features[row], expected, rtol=1e-4)
    _, _, means = people_of(stored)
    np.testing.assert_allclose(means[0], stored.query_faces[[0, 3, 6]].mean(axis=0), rtol=1e-5)
    _, _, first = people_of(stored, first_face=True)
    np.testing.assert_allclose(first[1], stored.query_faces[1], rtol=1e-6)


def test_unknown_ways_are_refused():
    with pytest.raises(IdClipError, match="as_reference 'everything'; choose from first_face, hidden_token, articles"):
        Settings(as_reference=("everything",))
    assert Settings(as_reference=(ARTICLES,)).as_reference == (ARTICLES,) and Settings().as_reference == ()


def test_unit_vectors_make_no_token_for_an_adaptor_that_takes_stored_lengths():
    config = IdentityConfig(face_length=STORED)
    loaded = SimpleNamespace(
        model=SimpleNamespace(identity_cfg=config), name="IdCLIP-x", adaptor_loaded=True, face_model=None
    )
    assert "face_length stored" in why_no_token(loaded) and why_no_token(loaded, unit_faces=False) is None


def test_validation_and_shards_keep_the_lengths(tmp_path):
    from training_patches.validation import _read
    from webdataset_tools.evaluation_data import load_evaluation_set

    samples = small_world(people=2, scenes=2)
    write_shards(tmp_path / "val", samples, shards=1)
    lengths = sorted(float(np.linalg.norm(sample.face)) for sample in samples)
    kept = load_evaluation_set(tmp_path / "val", keep_lengths=True).face_lengths
    np.testing.assert_allclose(sorted(kept), lengths, rtol=1e-6)
    np.testing.assert_allclose(sorted(_read(str(tmp_path / "val"), 1, True).face_lengths), lengths, rtol=1e-6)
    assert _read(str(tmp_path / "val"), 1, False).face_lengths is None


def test_training_reads_captions_and_faces_as_the_reference_does():
    from test_training_data import RecordingTokenizer, WordTokenizer, to_tensor

    from training_patches.pairs import Decoder, PairMaker

    sample = make_sample(1, 2)
    sample = replace(sample, record=replace(sample.record, captions=("A dog (man) runs.",)))

    def texts_and_lengths(**settings):
        config = IdentityConfig(face_dim=FACE_DIM, face_length=settings.pop("face_length", "unit"))
        tokenizer = RecordingTokenizer(WordTokenizer(), config)
        make = PairMaker(Decoder(to_tensor), tokenizer, "in_place", **settings)
        rows = [make(sample, epoch, 0)[1] for epoch in range(12)]
        return tokenizer.texts, [float(row.faces.norm()) for row in rows]

    ours, _ = texts_and_lengths()
    theirs, lengths = texts_and_lengths(hidden_token=True)
    assert set(ours) == {"A dog (man [TOK]) runs.", "A dog ([TOK] man) runs.", "A dog ([TOK]) runs."}
    assert [text.replace("([TOK]", "([tok]") for text in ours] == theirs
    assert [length > 0 for length in lengths] == ["[TOK]" in text for text in theirs]
    stored = float(np.linalg.norm(sample.face))
    assert texts_and_lengths()[1] == pytest.approx([stored] * 12)  # the adaptor makes them unit vectors
    assert texts_and_lengths(face_noise=1.0)[1] == pytest.approx([1.0] * 12)
    assert texts_and_lengths(face_noise=1.0, face_length=STORED)[1] == pytest.approx([stored] * 12)


@pytest.mark.host
def test_the_adaptor_itself_and_what_its_weights_tell(tiny_identity_models):
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("IdCLIP-ViT-tiny", identity_cfg={"face_length": STORED}).eval()
    faces = torch.randn(2, 512)
    with torch.no_grad():  # without biases an adaptor is linear in the length
        assert torch.allclose(model.adaptor(3 * faces), 3 * model.adaptor(faces), atol=1e-5)
    other = open_clip.create_model("IdCLIP-ViT-tiny", identity_cfg={})
    with torch.no_grad():
        assert torch.allclose(other.adaptor(3 * faces), other.adaptor(faces), atol=1e-6)
    other.load_state_dict(model.state_dict())  # told from the weights
    assert other.identity_cfg.face_length == STORED


@pytest.mark.host
def test_flags_of_training():
    from test_training_params import parse

    _, options = parse(
        "--model", "IdCLIP-ViT-B-32", "--id-hidden-token", "--id-caption", "in_place", "--id-face-length", "stored"
    )
    assert options.hidden_token and options.model == {"face_length": STORED}
    with pytest.raises(IdClipError, match="--id-hidden-token has a meaning only together with --id-caption in_place"):
        parse("--model", "IdCLIP-ViT-B-32", "--id-hidden-token")
