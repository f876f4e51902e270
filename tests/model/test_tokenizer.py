"""[TOK] in texts: what the tokenizer makes of it, and what it refuses."""

import pickle

import numpy as np
import pytest
import torch

from open_clip_idplugin.assets import MODEL_CONFIGS
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import IdentityText, identity_key
from open_clip_idplugin.tokenizer import IdentityTokenizer, faces_per_text

pytestmark = pytest.mark.host

TEXTS = ["An image with [TOK]. A man rides a horse.", "[TOK] and [TOK:2] play chess", "a dog"]


@pytest.fixture(scope="module")
def tokenizer(tiny_identity_models):
    import open_clip

    return open_clip.get_tokenizer("IdCLIP-ViT-tiny")


@pytest.fixture(scope="module")
def base(tiny_identity_models):
    import open_clip

    return open_clip.get_tokenizer("ViT-B-32")


def test_plain_texts_are_the_base_tokenizers(tokenizer, base):
    import open_clip

    assert isinstance(tokenizer, IdentityTokenizer) and not isinstance(base, IdentityTokenizer)
    for texts in ("a dog", ["a dog", "two [cats]: [tok]"], ["word " * 200], []):
        assert torch.equal(tokenizer(texts), base(texts))
    assert torch.equal(tokenizer(["a dog"], 20), base(["a dog"], 20))
    assert open_clip.factory.get_tokenizer is open_clip.get_tokenizer


def test_the_rest_is_the_base_tokenizers(tokenizer, base):
    assert tokenizer.context_length == 77 and tokenizer.vocab_size == base.vocab_size
    assert tokenizer.encode("a dog") == base.encode("a dog")
    with pytest.raises(AttributeError):
        _ = tokenizer.no_such_thing


def test_placeholder_becomes_one_ordinary_token(tokenizer, base, faces):
    text = tokenizer(TEXTS[:1], faces=faces[0])
    assert isinstance(text, IdentityText)
    # "person" is the word whose id stands in; everything around it is as if it had been written.
    assert torch.equal(text.tokens, base(["An image with person. A man rides a horse."]))
    assert text.slots.nonzero().tolist() == [[0, 4]] and text.slots[0, 4] == 1
    assert text.tokens.argmax() == 12 and text.tokens.max() == base.eot_token_id  # EOT is still the highest id
    assert torch.equal(text.faces[0, 0], faces[0])


def test_two_people_and_several_tokens(tokenizer, faces):
    several = IdentityTokenizer(tokenizer.base, IdentityConfig(tokens_per_identity=2))
    text = several(TEXTS[1], faces=faces[:2])
    assert text.tokens_per_identity == 2
    assert text.slots[0, :9].tolist() == [0, 1, 2, 0, 3, 4, 0, 0, 0]
    swapped = several("[TOK:2] and [TOK] and [TOK:2]", faces=[faces[:2]])
    assert swapped.slots[0, :10].tolist() == [0, 3, 4, 0, 1, 2, 0, 3, 4, 0]


def test_mixed_batch(tokenizer, base, faces):
    text = tokenizer(TEXTS, faces=[faces[0], faces[1:], None])
    assert text.faces.shape == (3, 2, 512)
    assert torch.equal(text.tokens[2:], base(TEXTS[2:])) and not text.slots[2].any()
    assert not text.faces[0, 1].any() and not text.faces[2].any()
    assert text.identity_ids.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", ["one", "rows", "stacked", "list", "numpy", "floats"])
def test_forms_of_faces(tokenizer, faces, kind):
    face = faces[0]
    forms = {
        "one": face,
        "rows": torch.stack([face, face]),
        "stacked": torch.stack([face, face])[:, None],
        "list": [face, face[None]],
        "numpy": face.double().numpy(),
        "floats": face.tolist(),
    }
    text = tokenizer(["[TOK] runs", "a photo of [TOK:1]"], faces=forms[kind])
    assert text.faces.shape == (2, 1, 512) and text.faces.dtype == torch.float32
    assert torch.equal(text.faces[1, 0], face)


def test_a_row_of_zeros_is_no_face(tokenizer, faces):
    padded = torch.stack([faces[:2], torch.stack([faces[2], torch.zeros(512)])])
    text = tokenizer(["[TOK] and [TOK:2]", "[TOK] runs"], faces=padded)
    assert text.faces.shape == (2, 2, 512)
    with pytest.raises(IdClipError, match=r"holds \[TOK\]"):
        tokenizer("[TOK] runs", faces=torch.zeros(512))


def test_identity_ids(tokenizer, faces):
    text = tokenizer(["[TOK] runs", "a dog"], faces=[faces[0], None], identity_ids=["n000129", "n000130"])
    assert text.identity_ids.tolist() == [identity_key("n000129"), identity_key("n000130")]
    plain = tokenizer(["a dog"], identity_ids=["n000129"])
    assert isinstance(plain, IdentityText) and plain.faces.shape == (1, 0, 512)
    with pytest.raises(IdClipError, match="list of 2 names"):
        tokenizer(["[TOK]", "[TOK]"], faces=faces[0], identity_ids=["n000129"])


REFUSED = {
    "no face": (["[TOK] runs"], None, r"holds \[TOK\], but has 0 face"),
    "second face missing": (["[TOK] and [TOK:2]"], 1, r"holds \[TOK:2\], but has 1 face"),
    "no placeholder": (["a dog"], 1, r"has a face, but no \[TOK\]"),
    "more faces than placeholders": (["[TOK] runs"], 2, r"2 faces, but names only 1; write \[TOK:2\]"),
    "placeholder counted from 0": (["[TOK:0] runs"], 1, r"counted from \[TOK:1\]"),
    "not a text": ([5], 1, "must be a string"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tokenizer, faces, case):
    texts, count, message = REFUSED[case]
    with pytest.raises(IdClipError, match=message):
        tokenizer(texts, faces=None if count is None else [faces[:count]])


def test_wrong_embeddings_are_refused(tokenizer, faces):
    with pytest.raises(IdClipError, match=r"shape \[1, 128\], but this model takes embeddings of 512"):
        tokenizer("[TOK] runs", faces=faces[0, :128])
    with pytest.raises(IdClipError, match="2 entries for 1 texts"):
        tokenizer(["[TOK] runs"], faces=faces[:2])
    with pytest.raises(IdClipError, match="not finite"):
        tokenizer("[TOK] runs", faces=torch.full((512,), float("nan")))
    with pytest.raises(IdClipError, match="array of numbers"):
        tokenizer("[TOK] runs", faces=["a face"])
    with pytest.raises(IdClipError, match="of shape"):
        tokenizer("[TOK] runs", faces=torch.zeros(1, 1, 1, 512))


def test_long_texts_lose_their_tail_and_keep_eot(tokenizer, base, faces):
    text = tokenizer("[TOK] " + "word " * 200, faces=faces[0])
    assert torch.equal(text.tokens, base("person " + "word " * 200))
    assert text.tokens[0, -1] == base.eot_token_id and text.slots[0, 1] == 1


@pytest.mark.parametrize("words", [75, 200])
def test_a_placeholder_that_would_be_cut_off_is_refused(tokenizer, faces, words):
    with pytest.raises(IdClipError, match=r"too long.*last placeholder"):
        tokenizer("word " * words + "[TOK]", faces=faces[0])
    assert tokenizer("word " * 74 + "[TOK]", faces=faces[0]).slots[0, 75] == 1


def test_pickles_into_spawned_workers(tokenizer, faces):
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copied(TEXTS[:1], faces=faces[0]).tokens, tokenizer(TEXTS[:1], faces=faces[0]).tokens)
    assert copied.identity_cfg == tokenizer.identity_cfg


def test_faces_per_text():
    none, one = faces_per_text([None, np.ones((1, 4))], 2, face_dim=4)
    assert none.shape == (0, 4) and one.dtype == np.float32
    assert [len(entry) for entry in faces_per_text(None, 3, 4)] == [0, 0, 0]


@pytest.fixture(scope="module")
def hub_tokenizer(tiny_identity_models, tmp_path_factory):
    """open_clip's wrapper of a BERT tokenizer with a vocabulary of whole words."""
    from open_clip.tokenizer import HFTokenizer
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] an image with person . a man rides horse and play chess dog word"
    (folder / "vocab.txt").write_text("\n".join(words.split()))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)

    def make(**settings):
        return HFTokenizer(str(folder), context_length=16, **settings)

    return make


@pytest.fixture(scope="module")
def sentence_piece_tokenizer(tiny_identity_models, tmp_path_factory):
    """open_clip's wrapper of a tokenizer as SigLIP has it: pieces that begin with a space, </s> as end and padding."""
    from open_clip.tokenizer import HFTokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("pieces")
    words = ["an", "image", "with", "person", "a", "man", "rides", "horse", "and", "play", "chess", "dog", "word"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -9.0)] + [(f"\u2581{word}", -1.0) for word in words]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=16, clean="canonicalize")


def test_sentence_pieces_frame_and_truncate_as_before(sentence_piece_tokenizer, faces):
    base = sentence_piece_tokenizer
    tokenizer = IdentityTokenizer(base, IdentityConfig(tokens_per_identity=1))
    for text in ("An image with [TOK]. A man rides a horse", "[TOK] and [TOK:2], play chess", "[TOK] " + "word " * 30):
        written = text.replace("[TOK]", "person").replace("[TOK:2]", "person")
        made = tokenizer(text, faces=[faces[:2] if ":2" in text else faces[0]])
        assert torch.equal(made.tokens, base(written))
        assert (made.tokens[made.slots > 0] == base.tokenizer.convert_tokens_to_ids("\u2581person")).all()
    assert torch.equal(tokenizer("a dog"), base("a dog"))


def test_a_clipa_model_of_a_hub_tokenizer(hub_tokenizer, faces, tmp_path):
    """As CLIPA's: a BERT tokenizer without its end token, a tower that looks both ways and pools at the last place."""
    import json

    import open_clip

    import open_clip_idplugin

    config = json.loads((MODEL_CONFIGS / "IdCLIP-ViT-L-14-CLIPA-336.json").read_text())
    config["vision_cfg"] |= {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    config["text_cfg"] |= {"vocab_size": 30, "width": 32, "heads": 2, "layers": 1,
                           "hf_tokenizer_name": hub_tokenizer().tokenizer.name_or_path}  # fmt: skip
    path = tmp_path / "IdCLIP-ViT-CLIPA-small.json"
    path.write_text(json.dumps(config))
    name = open_clip_idplugin.add_identity_model(path)
    tokenizer, model = open_clip.get_tokenizer(name), open_clip.create_model(name).eval()
    assert isinstance(tokenizer, IdentityTokenizer) and tokenizer.base.strip_sep_token
    text = tokenizer(["an image with [TOK].", "a dog"], faces=[faces[0], None])
    assert text.shape == (2, 32) and not model.text.cut_is_exact
    lengths = []
    model.text.transformer.register_forward_pre_hook(lambda _m, inputs: lengths.append(inputs[0].shape[1]))
    with torch.no_grad():
        features = model.encode_text(text)
        torch.testing.assert_close(features[1:], model.encode_text(tokenizer(["a dog"])))
    assert lengths == [32, 32] and features.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"strip_sep_token": True}])
def test_hub_tokenizers_frame_and_truncate_as_before(hub_tokenizer, faces, settings):
    base = hub_tokenizer(**settings)
    tokenizer = IdentityTokenizer(base, IdentityConfig())
    for text in (*TEXTS[:2], "[TOK] " + "word " * 30):
        written = text.replace("[TOK]", "person").replace("[TOK:2]", "person")
        made = tokenizer(text, faces=[faces[:2] if ":2" in text else faces[0]])
        assert torch.equal(made.tokens, base(written))
        assert (made.tokens[made.slots > 0] == base.tokenizer.convert_tokens_to_ids("person")).all()
    assert torch.equal(tokenizer("a dog"), base("a dog"))
    with pytest.raises(IdClipError, match="too long"):
        tokenizer("word " * 30 + "[TOK]", faces=faces[0])


def test_hub_tokenizers_with_the_class_token_last(hub_tokenizer, faces):
    import inspect

    from open_clip.tokenizer import HFTokenizer

    if "tokenizer_mode" not in inspect.signature(HFTokenizer).parameters:
        pytest.skip("open_clip 2 has no such mode")
    base = hub_tokenizer(tokenizer_mode="clips", bos_token="[CLS]", eos_token="[SEP]")
    made = IdentityTokenizer(base, IdentityConfig())("a man and [TOK]", faces=faces[0])
    assert torch.equal(made.tokens, base("a man and person")) and made.slots[0, 4] == 1


def test_unknown_tokenizers_take_plain_texts_only(faces):
    class Other:
        context_length = 4

        def __call__(self, texts, context_length=None):
            return torch.ones(len(texts), 4).long()

    tokenizer = IdentityTokenizer(Other(), IdentityConfig())
    assert tokenizer(["a dog"]).shape == (1, 4)
    with pytest.raises(IdClipError, match="not supported with a Other"):
        tokenizer("[TOK] runs", faces=faces[0])


def test_relative_vocabularies_are_the_packages_own(tiny_identity_models, tmp_path, monkeypatch):
    import gzip
    import json

    import open_clip

    import open_clip_idplugin
    from open_clip_idplugin import assets

    monkeypatch.setattr(assets, "WEIGHTS", tmp_path)
    with gzip.open(tmp_path / "small.txt.gz", "wt") as file:
        file.write("#version\nd o\ndo g</w>")
    config = json.loads((MODEL_CONFIGS / "IdCLIP-ViT-B-32.json").read_text())
    config["text_cfg"] |= {"context_length": 10, "tokenizer_kwargs": {"bpe_path": "small.txt.gz"}}
    path = tmp_path / "IdCLIP-ViT-small-vocabulary.json"
    path.write_text(json.dumps(config))
    name = open_clip_idplugin.add_identity_model(path)
    assert open_clip.get_tokenizer(name)("dog").tolist() == [[514, 513, 515] + [0] * 7]
    (tmp_path / "small.txt.gz").unlink()
    with pytest.raises(IdClipError, match=r"small\.txt\.gz is not among the weights"):
        open_clip.get_tokenizer(name)


def test_unknown_models_are_the_hosts_business(tiny_identity_models):
    import open_clip

    original = open_clip.get_tokenizer.__wrapped__
    results = []
    for function in (original, open_clip.get_tokenizer):
        try:
            results.append(type(function("no-such-model")))
        except AssertionError as error:  # open_clip 2 asserts; open_clip 3 gives its default
            results.append(str(error))
    assert results[0] == results[1]
