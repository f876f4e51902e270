"""The tiny CLIP of the miniature world: tower, vocabulary, shipped weights, and what they know."""

import gzip
import importlib
import random

import numpy as np
import pytest
import torch

from open_clip_idplugin.assets import shipped

MODEL = "IdCLIP-ViT-miniature"
NAMES = ("Leonie Verstein Brenskifield", "Ada Baresku", "Yusuf Werinski")


@pytest.fixture(scope="module")
def host():
    open_clip = importlib.import_module("open_clip")
    importlib.import_module("open_clip_idplugin")
    return open_clip


@pytest.fixture(scope="module")
def model(host):
    return host.create_model(MODEL, pretrained="miniature").eval()


@pytest.fixture(scope="module")
def tokenizer(host):
    return host.get_tokenizer(MODEL)


@pytest.mark.host
def test_shipped_weights_load_through_the_host(host, model):
    model_, _, preprocess = host.create_model_and_transforms(
        MODEL, pretrained=str(shipped("miniature_clip.safetensors"))
    )
    same = torch.randn(2, 3, 96, 96)
    assert torch.equal(model.encode_image(same), model_.eval().encode_image(same))
    size = preprocess.transforms[0].size
    assert size == 96 or tuple(size) == (96, 96)
    assert shipped("miniature_clip.safetensors").stat().st_size + shipped("miniature_bpe.txt.gz").stat().st_size < 4.8e6


@pytest.mark.host
def test_vocabulary_is_the_models(model, tokenizer):
    assert tokenizer.vocab_size == model.text.token_embedding.num_embeddings
    tokens = tokenizer("A man in a red shirt holding a cup in the kitchen.")
    assert tokens.argmax(-1) < 20, "common words should be one token each"
    assert tokenizer.decode(tokens[0, 1 : int(tokens.argmax(-1))].tolist()).strip() == (
        "a man in a red shirt holding a cup in the kitchen ."
    )


@pytest.mark.host
def test_visual_prompts_reach_the_class_token(host):
    prompted = host.create_model(MODEL, pretrained="miniature", identity_cfg={"visual_prompts": 5}).eval()
    plain = host.create_model(MODEL, pretrained="miniature").eval()
    images = torch.randn(2, 3, 96, 96)
    features = prompted.encode_image(images)
    assert not torch.allclose(features, plain.encode_image(images))
    features.sum().backward()
    assert prompted.visual.prompts.tokens.grad.abs().sum() > 0


@pytest.mark.host
def test_tower_has_no_running_statistics(model):
    images = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        before = model.encode_image(images)
        model.train()
        in_training, alone = model.encode_image(images), model.encode_image(images[:1])
        model.eval()
    assert torch.equal(before, in_training)
    assert torch.allclose(before[:1], alone, atol=1e-4)
    assert not list(model.visual.buffers())


def test_batch_norm_folds_into_the_trunk():
    timm = importlib.import_module("timm")
    importlib.import_module("open_clip_idplugin.hosts.miniature_tower")
    batch_norm = importlib.import_module("webdataset_tools.miniature.clip_batch_norm")
    tower = timm.create_model("miniature_hybrid_vit")
    names = list(tower.state_dict())
    batch_norm.add_batch_norm(tower)
    images = torch.randn(4, 3, 96, 96)
    with torch.no_grad():
        for _ in range(3):
            tower.train()(images)  # moves the running statistics
        wanted = tower.eval()(images)
        batch_norm.fold_batch_norm(tower)
        assert list(tower.state_dict()) == names
        assert torch.allclose(tower.train()(images), wanted, atol=1e-4)


def test_longest_texts_fit_the_context(model, tokenizer):
    captions = importlib.import_module("webdataset_tools.miniature.captions")
    scenes = importlib.import_module("webdataset_tools.miniature.scenes")
    prompts = importlib.import_module("open_clip_idplugin.prompts")
    longest = 0
    for seed in range(150):
        scene = scenes.sample_scene(seed)
        for caption in captions.scene_captions(scene, "mf"[seed % 2], np.random.default_rng(seed)):
            for text in prompts.general_texts(caption, random.Random(seed)):
                for configuration in ("names", "conf4", "conf6", "conf2"):
                    written = prompts.expand(text, configuration, NAMES[seed % len(NAMES)])
                    pieces = written.split(prompts.PLACEHOLDER)
                    longest = max(longest, sum(len(tokenizer.encode(piece)) for piece in pieces) + len(pieces) - 1 + 2)
    assert longest <= model.text.context_length


def test_merges_are_learned_and_read_by_the_host(tmp_path):
    bpe = importlib.import_module("webdataset_tools.miniature.bpe")
    texts = ["low low low low low", "lower lower", "newest newest newest newest newest newest", "widest widest widest"]
    merges = bpe.learn_merges(texts, bpe.BYTE_SYMBOLS + bpe.SPECIAL_TOKENS + 4)
    # es 9, st</w> 9 -> e s first (alphabetical), then est</w>; l o and o w</w> ... counted by hand.
    assert merges == [("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w")]
    bpe.write_merges(tmp_path / "first.gz", merges)
    bpe.write_merges(tmp_path / "second.gz", list(merges))
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()
    assert gzip.decompress((tmp_path / "first.gz").read_bytes()).count(b"\n") == len(merges)
    simple = importlib.import_module("open_clip.tokenizer").SimpleTokenizer(str(tmp_path / "first.gz"))
    assert simple.vocab_size == bpe.vocabulary_size(merges)
    assert [simple.decoder[token] for token in simple.encode("widest")] == ["w", "i", "d", "est</w>"]


def test_a_small_corpus_gives_fewer_merges():
    bpe = importlib.import_module("webdataset_tools.miniature.bpe")
    assert bpe.learn_merges(["a b", "ab"], 1000) == []
    assert bpe.learn_merges(["ab ab"], 1000) == [("a", "b</w>")]


def test_word_groups_become_labels():
    groups = importlib.import_module("webdataset_tools.miniature.clip_samples")
    assert groups.groups_of("A red, red Shirt") == {"red", "shirt", "red shirt"}
    texts = [["red hat", "blue hat"]] * 40 + [["green hat"]] * 60
    chosen = groups.choose_groups(texts, 3)
    assert chosen == ["green", "green hat", "blue"], "a group of all pictures teaches nothing"
    targets = groups.group_targets(texts, chosen)
    assert targets.shape == (100, 3)
    assert targets[0].tolist() == [False, False, True]
    assert targets[99].tolist() == [True, True, False]


def test_pretraining_pictures_repeat_and_share_scenes():
    pictures = importlib.import_module("webdataset_tools.miniature.clip_samples")
    first, again = pictures.draw_picture(4), pictures.draw_picture(4)
    assert np.array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert first[0].shape == (96, 96, 3)
    other = pictures.draw_picture(5)
    assert other[2] == first[2], "two pictures a scene"
    assert not np.array_equal(other[0], first[0])


def test_shipped_model_finds_scenes_by_caption(model, tokenizer):
    """Captions find their scene among others."""
    scenes = importlib.import_module("webdataset_tools.miniature.scenes")
    people = importlib.import_module("webdataset_tools.miniature.people")
    captions = importlib.import_module("webdataset_tools.miniature.captions")
    pretraining = importlib.import_module("webdataset_tools.miniature.clip_pretraining")
    pictures = importlib.import_module("webdataset_tools.miniature.clip_samples")
    shown, said = [], []
    for seed in range(60):
        scene = scenes.sample_scene(400_000_000 + seed, stratum="plain")
        person = people.sample_person(seed, "val")
        shown.append(pictures.halved(scenes.draw_scene(scene, person).picture))
        said.append(captions.scene_captions(scene, person.gender, np.random.default_rng(seed))[0])
    images = pretraining.encode_pictures(model.visual, np.stack(shown))
    with torch.no_grad():
        texts = model.encode_text(tokenizer(said), normalize=True)
    found = (texts @ images.T).argmax(1) == torch.arange(60)
    assert found.float().mean() > 0.6
