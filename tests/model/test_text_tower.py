"""The text tower: identity tokens, pooling at EOT, the cut, and plain texts as in open_clip."""

import open_clip
import pytest
import torch

from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.tokenizer import IdentityTokenizer

pytestmark = pytest.mark.host

PLAIN = ["a dog", "a man rides a horse on the beach", "word " * 100, ""]


@pytest.fixture(scope="module")
def model(tiny_identity_models):
    import open_clip

    torch.manual_seed(0)
    return open_clip.create_model("IdCLIP-ViT-tiny").eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_identity_models):
    import open_clip

    return open_clip.get_tokenizer("IdCLIP-ViT-tiny")


def embedded(model, tokens, rows):
    """Text features computed by hand, with the rows of `rows` (position -> vector) as token embeddings. One text."""
    tower = model.text
    vectors = tower.token_embedding(tokens[0]).clone()
    for position, vector in rows.items():
        vectors[position] = vector
    hidden = (vectors + tower.positional_embedding)[None]
    hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask))
    end = tokens[0].tolist().index(49407)
    return hidden[:, end] @ tower.text_projection


@torch.no_grad()
def test_the_identity_token_replaces_the_token_embedding(model, tokenizer, faces):
    text = tokenizer(["[TOK] and [TOK:2] play chess"], faces=[faces[:2]])
    first, second = model.adaptor(faces[:2])[:, 0]
    expected = embedded(model, text.tokens, {1: first, 3: second})
    torch.testing.assert_close(model.encode_text(text), expected)
    plain = model.encode_text(text.tokens)
    assert not torch.allclose(plain, expected)


@torch.no_grad()
def test_several_tokens_an_identity(tiny_identity_models, tokenizer, faces):
    import open_clip

    model = open_clip.create_model("IdCLIP-ViT-tiny", identity_cfg={"tokens_per_identity": 2}).eval()
    text = IdentityTokenizer(tokenizer.base, model.identity_cfg)(["a [TOK] runs"], faces=faces[0])
    one, two = model.adaptor(faces[:1])[0]
    torch.testing.assert_close(model.encode_text(text), embedded(model, text.tokens, {2: one, 3: two}))
    with pytest.raises(IdClipError, match=r"tokenized with 1 token\(s\) an identity, but this model has 2"):
        model.encode_text(tokenizer(["a [TOK] runs"], faces=faces[0]))


@torch.no_grad()
def test_order_of_faces_matters_and_padding_does_not(model, tokenizer, faces):
    text = "[TOK] and [TOK:2]"
    one = model.encode_text(tokenizer([text], faces=[faces[:2]]))
    other = model.encode_text(tokenizer([text], faces=[faces[:2].flip(0)]))
    assert not torch.allclose(one, other)
    mixed = model.encode_text(tokenizer(["a dog", text, "a [TOK]"], faces=[None, faces[:2], faces[2]]))
    torch.testing.assert_close(mixed[1:2], one)
    torch.testing.assert_close(mixed[:1], model.encode_text(tokenizer(["a dog"])))


@torch.no_grad()
def test_the_callers_tensors_are_not_written_to(model, tokenizer, faces):
    text = tokenizer(["[TOK] runs"], faces=faces[0])
    before = [tensor.clone() for tensor in (text.tokens, text.faces, text.slots)]
    first = model.encode_text(text)
    assert all(torch.equal(*pair) for pair in zip(before, (text.tokens, text.faces, text.slots), strict=True))
    assert torch.equal(model.encode_text(text), first)  # gradient accumulation encodes the same batch twice


@torch.no_grad()
def test_pooling_does_not_depend_on_the_id_at_the_placeholder(model, tokenizer, faces):
    text = tokenizer(["[TOK] runs"], faces=faces[0])
    odd = IdentityText(text.tokens.masked_fill(text.slots > 0, 60000), text.faces, text.slots, text.identity_ids)
    assert torch.equal(model.encode_text(odd), model.encode_text(text))


@torch.no_grad()
def test_any_length_of_a_face_embedding_gives_the_same_query(model, tokenizer, faces):
    one, other = (model.encode_text(tokenizer(["[TOK] runs"], faces=scale * faces[0])) for scale in (1, 20))
    torch.testing.assert_close(one, other)


def test_wrong_embedding_size(model, tokenizer, faces):
    text = tokenizer(["[TOK] runs"], faces=faces[0])
    wrong = IdentityText(text.tokens, text.faces[..., :128], text.slots, text.identity_ids)
    with pytest.raises(IdClipError, match="have 128 numbers, but this model takes 512"):
        model.encode_text(wrong)


@torch.no_grad()
def test_the_cut_is_exact(model, tokenizer, faces):
    short = tokenizer(["a dog", "a man rides a horse", "[TOK] runs"], faces=[None, None, faces[0]])
    lengths = []
    handle = model.text.transformer.register_forward_pre_hook(
        lambda _module, inputs: lengths.append(inputs[0].shape[1])
    )
    try:
        cut = model.encode_text(short)
        model.text.cut_at_eot = False
        whole = model.encode_text(short)
    finally:
        model.text.cut_at_eot = True
        handle.remove()
    assert lengths == [7, 77]
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_full_rows_are_not_cut(model, tokenizer):
    model.text.cut_at_eot = False
    expected = model.encode_text(tokenizer(PLAIN))
    model.text.cut_at_eot = True
    torch.testing.assert_close(model.encode_text(tokenizer(PLAIN)), expected, rtol=1e-4, atol=1e-6)
    if hasattr(open_clip, "create_task"):
        return  # the attention of open_clip's main takes no batch without rows
    assert model.encode_text(tokenizer([])).shape == (0, 24)


@torch.no_grad()
def test_towers_that_look_behind_eot_are_not_cut(tiny_identity_models, plain_weights, tokenizer, faces):
    import open_clip

    plain, path = plain_weights("IdCLIP-ViT-tiny-avg")  # not causal, pools at the last position, as CLIPA does
    model = open_clip.create_model("IdCLIP-ViT-tiny-avg", pretrained=str(path)).eval()
    assert not model.text.cut_is_exact and torch.equal(
        model.encode_text(tokenizer(PLAIN)), plain.encode_text(tokenizer(PLAIN))
    )
    assert model.encode_text(tokenizer(["[TOK] runs"], faces=faces[0])).shape == (1, 24)


def test_intermediates_keep_all_positions(model, tokenizer, faces):
    text = tokenizer(["[TOK] runs"], faces=faces[0])
    for given in (text, tokenizer(["a dog"])):
        result = model.text.forward_intermediates(given, output_fmt="NLC")
        assert [layer.shape for layer in result["text_intermediates"]] == [(1, 77, 32)] * 2
    features = model.forward_intermediates(text=text, text_output_fmt="NLC")["text_features"]
    torch.testing.assert_close(features, model.encode_text(text, normalize=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", ["plain tensor", "no faces", "nobody in the batch"])
def test_a_training_batch_without_any_face_keeps_the_adaptor_in_the_graph(tiny_identity_models, tokenizer, faces, make):
    import open_clip

    model = open_clip.create_model("IdCLIP-ViT-tiny").train()
    plain = tokenizer(["a dog", "a cat"])
    nothing = torch.zeros_like(plain)
    text = {
        "plain tensor": plain,
        "no faces": IdentityText(plain, torch.zeros(2, 0, 512), nothing, nothing[:, 0] - 1),
        "nobody in the batch": IdentityText(plain, torch.zeros(2, 2, 512), nothing, nothing[:, 0] - 1),
    }[make]
    model.encode_text(text).sum().backward()
    assert all(not parameter.grad.any() for parameter in model.adaptor.parameters())
    assert model.text.token_embedding.weight.grad.any()
    model.eval()
    with torch.no_grad():
        expected = model.encode_text(plain)
    assert torch.equal(model.train().encode_text(text), expected)


def test_the_adaptor_is_not_run_when_nothing_needs_it(model, tokenizer):
    runs = []
    handle = model.adaptor.register_forward_hook(lambda *_: runs.append(1))
    model.encode_text(tokenizer(["a dog"]))
    with torch.no_grad():
        model.train().encode_text(tokenizer(["a dog"]))
    model.eval()
    handle.remove()
    assert not runs


def test_gradients_reach_the_adaptor_through_the_placeholder_only(model, tokenizer, faces):
    text = tokenizer(["[TOK] runs", "a dog"], faces=[faces[0], None])
    model.encode_text(text)[0].sum().backward()
    assert all(parameter.grad.any() for parameter in model.adaptor.parameters())
    model.zero_grad()
    model.encode_text(text)[1].sum().backward()
    assert all(not parameter.grad.any() for parameter in model.adaptor.parameters())
    model.zero_grad()


def test_initial_tokens_are_as_long_as_ordinary_ones(tiny_identity_models, faces):
    from open_clip_idplugin.adaptor import IdentityAdaptor

    torch.manual_seed(0)
    for config in (IdentityConfig(), IdentityConfig(adaptor_layers=2, tokens_per_identity=3, face_dim=128)):
        tokens = IdentityAdaptor(config, width=768)(faces[:, : config.face_dim])
        assert tokens.shape == (3, config.tokens_per_identity, 768)
        assert 0.015 < tokens.std() < 0.025  # a fresh token embedding has 0.02


def test_adaptor_has_the_papers_layers(tiny_identity_models):
    from open_clip_idplugin.adaptor import IdentityAdaptor

    shapes = {name: tuple(p.shape) for name, p in IdentityAdaptor(IdentityConfig(), 512).named_parameters()}
    assert shapes == {"hidden.0.weight": (768, 512), "output.weight": (512, 768)}
    deep = IdentityAdaptor(IdentityConfig(adaptor_layers=2, adaptor_bias=True, tokens_per_identity=2), 512)
    assert {name: tuple(p.shape) for name, p in deep.named_parameters() if "bias" not in name} == {
        "hidden.0.weight": (768, 512),
        "hidden.1.weight": (768, 768),
        "output.weight": (1024, 768),
    }
    assert deep.output.bias.shape == (1024,)


def test_hugging_face_towers_are_refused_before_they_are_built(tiny_identity_models):
    import open_clip

    text_cfg = {
        "hf_model_name": "xlm-roberta-base",
        "hf_tokenizer_name": "xlm-roberta-base",
        "hf_pooler_type": "mean_pooler",
    }
    for given in (text_cfg, open_clip.CLIPTextCfg(**text_cfg)):  # fetching it would be another error here
        with pytest.raises(IdClipError, match="own text tower, not the Hugging Face model 'xlm-roberta-base'"):
            open_clip.create_model("IdCLIP-ViT-tiny", text_cfg=given)


def test_towers_of_another_make_are_refused():
    from open_clip_idplugin.text_tower import promote_text_tower

    with pytest.raises(IdClipError, match="open_clip's own text tower, not Linear"):
        promote_text_tower(torch.nn.Linear(1, 1), IdentityConfig())
