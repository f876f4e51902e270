"""The reference implementation's Lightning checkpoints: they load, mean the same as there, and nothing in them runs."""

import collections
import itertools
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from weight_file_fixtures import Touch

from open_clip_idplugin.checkpoints.loading import load_model, read_weights
from open_clip_idplugin.config import STORED
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.weight_files import ARCHIVE, LIGHTNING, kind_of, load_tensors, weight_shapes
from training_patches.checkpoints import require_tensors_only

pytestmark = pytest.mark.host

NAME = "IdCLIP-ViT-tiny"
FACE_DIM, HIDDEN = 512, 40


class Reference(torch.nn.Module):
    """The reference's modules under its names (facts of github.com/mesnico/IdCLIP, written anew), around a plain CLIP."""

    def __init__(self, clip, layers=1, bias=False, visual_prompts=2, text_prompts=3):
        super().__init__()
        self.clip_model = clip
        image_width, width = clip.visual.conv1.out_channels, clip.token_embedding.embedding_dim
        if visual_prompts:
            clip.visual.shallow_visual_prompt_tokens = torch.nn.Parameter(torch.randn(1, visual_prompts, image_width))
        if text_prompts:
            clip.shallow_text_prompt_tokens = torch.nn.Parameter(torch.randn(1, text_prompts, width))
        self.translator_model = torch.nn.Module()
        sizes = [FACE_DIM] + [HIDDEN] * layers
        self.translator_model.linears = torch.nn.ModuleList(
            torch.nn.Linear(before, after, bias=bias) for before, after in itertools.pairwise(sizes)
        )
        self.translator_model.out = torch.nn.Linear(HIDDEN, width, bias=bias)
        self.loss_fn = torch.nn.Module()
        self.loss_fn.logit_scale = torch.nn.Parameter(torch.tensor(2.66))
        self.visual_prompts, self.text_prompts = visual_prompts, text_prompts

    def image_features(self, images):
        tower = self.clip_model.visual
        x = tower.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1) + tower.positional_embedding
        if self.visual_prompts:
            x = torch.cat([x, tower.shallow_visual_prompt_tokens.expand(len(x), -1, -1)], dim=1)
        x = tower.transformer(tower.ln_pre(x))
        return tower.ln_post(x[:, 0]) @ tower.proj

    def text_features(self, tokens, place, face):
        """tokens [1, L]; place: of the person's token; face [1, D] as the data have it."""
        clip = self.clip_model
        for layer in self.translator_model.linears:
            face = F.relu(layer(face))
        x = clip.token_embedding(tokens).clone()
        x[:, place] = self.translator_model.out(face)
        x = x + clip.positional_embedding
        if self.text_prompts:
            x = torch.cat([clip.shallow_text_prompt_tokens, x], dim=1)
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        x = clip.ln_final(clip.transformer(x, attn_mask=mask))
        return x[:, int(tokens.argmax()) + self.text_prompts] @ clip.text_projection

    def lightning(self, path, **more):
        """Write what Lightning's trainer does beside the weights, and `more`."""
        optimizer = torch.optim.AdamW(self.translator_model.parameters(), lr=5e-5)
        sum(parameter.sum() for parameter in self.translator_model.parameters()).backward()
        optimizer.step()
        best = {"monitor": "val_contrastive_sum_epoch", "best_model_score": torch.tensor(3.2), "best_k_models": {}}
        content = {
            "epoch": 4,
            "global_step": 1234,
            "pytorch-lightning_version": "2.1.3",
            "state_dict": self.state_dict(),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 5}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_contrastive_sum_epoch'}": best},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            **more,
        }
        torch.save(content, path)
        return path


@pytest.fixture
def reference(tiny_identity_models):
    """A function: settings -> a Reference with random weights."""
    import open_clip

    def make(**settings):
        torch.manual_seed(2)
        return Reference(open_clip.create_model(tiny_identity_models[NAME]).eval(), **settings)

    return make


@pytest.mark.parametrize(
    "settings",
    [{}, {"layers": 2, "text_prompts": 0}, {"bias": True, "visual_prompts": 0}],
    ids=["prompts", "two layers", "bias"],
)
@torch.no_grad()
def test_features_are_those_of_the_reference(reference, tmp_path, settings):
    import open_clip

    made = reference(**settings)
    with torch.enable_grad():
        path = made.lightning(tmp_path / "best-contrastive-sum-epoch=4.ckpt")
    assert kind_of(path) == LIGHTNING
    loaded = load_model(NAME, str(path))
    config = loaded.model.identity_cfg
    assert (config.adaptor_hidden, config.adaptor_layers, config.face_length) == (
        HIDDEN,
        settings.get("layers", 1),
        STORED,
    )
    assert loaded.adaptor_loaded and config.adaptor_bias == settings.get("bias", False)
    images, face = torch.randn(3, 3, 32, 32), 21 * F.normalize(torch.randn(1, FACE_DIM), dim=-1)
    text = loaded.tokenizer(["An image with [TOK]. A dog."], faces=face)
    place = int(text.slots.argmax())
    expected = made.image_features(images), made.text_features(text.tokens, place, face)
    for model in (loaded.model, open_clip.create_model(NAME, pretrained=str(path)).eval()):
        assert torch.allclose(model.encode_image(images), expected[0], atol=1e-5)
        assert torch.allclose(model.encode_text(text), expected[1], atol=1e-5)
    unit = made.text_features(text.tokens, place, F.normalize(face, dim=-1))
    assert not torch.allclose(unit, expected[1], atol=1e-2)  # the length matters


def test_the_state_dict_alone_has_the_same_names(reference, tmp_path):
    made = reference()
    made.lightning(tmp_path / "whole.ckpt")
    torch.save(made.state_dict(), tmp_path / "alone.pt")
    alone, whole = read_weights(tmp_path / "alone.pt"), read_weights(tmp_path / "whole.ckpt")
    assert alone.keys() == whole.keys() and all(torch.equal(alone[key], whole[key]) for key in alone)
    assert set(alone) == set(load_model(NAME, str(tmp_path / "alone.pt")).model.state_dict())
    shapes = weight_shapes(tmp_path / "whole.ckpt")
    assert shapes == {key: tuple(value.shape) for key, value in load_tensors(tmp_path / "whole.ckpt").items()}
    assert shapes["visual.prompts.tokens"] == (2, made.clip_model.visual.conv1.out_channels)
    assert not any("loss_fn" in key or "clip_model" in key for key in shapes)


def test_a_baseline_s_checkpoint_is_plain_clip(reference, tmp_path):
    made = reference(visual_prompts=0, text_prompts=0)
    del made.translator_model
    made.translator_model = torch.nn.Linear(1, 1)  # for the optimizer alone
    path = made.lightning(tmp_path / "base.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {key: value for key, value in content["state_dict"].items() if "translator" not in key}
    torch.save(content, path)
    loaded = load_model(NAME, str(path))
    assert not loaded.adaptor_loaded and loaded.model.identity_cfg.face_length == "unit"
    assert torch.equal(loaded.model.visual.conv1.weight, made.clip_model.visual.conv1.weight)


def test_hyper_parameters_of_any_class_are_passed_over_and_nothing_runs(reference, tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    strange = types.ModuleType("strange_configs")  # as omegaconf: a class that the reading side may not have
    exec("class Node(dict):\n    pass", strange.__dict__)
    strange.Node.__module__ = "strange_configs"
    monkeypatch.setitem(sys.modules, "strange_configs", strange)
    more = {
        "hyper_parameters": strange.Node(lr=5e-5, clip_model=[strange.Node(), {1, 2}, collections.Counter("aa")]),
        "touch": Touch(mark),
        "dtype": torch.float32,
        "size": torch.zeros(3).shape,
    }
    path = reference().lightning(tmp_path / "strange.ckpt", **more)
    monkeypatch.delitem(sys.modules, "strange_configs")
    plain = reference().lightning(tmp_path / "plain.ckpt")
    theirs, ours = load_tensors(path), load_tensors(plain)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in ours)
    assert load_model(NAME, str(path)).adaptor_loaded and not mark.exists()
    assert "strange_configs" not in sys.modules


def test_the_mark_is_made_where_such_a_file_is_loaded_carelessly(reference, tmp_path):
    """Else the test above would show nothing."""
    path = reference().lightning(tmp_path / "strange.ckpt", touch=Touch(tmp_path / "mark"))
    torch.load(path, weights_only=False)
    assert (tmp_path / "mark").exists()


def test_what_is_no_whole_lightning_file_is_refused_in_a_sentence(reference, tmp_path):
    torch.save({"pytorch-lightning_version": "2", "state_dict": [1]}, tmp_path / "none.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "note": "no version key"}, tmp_path / "other.pt")
    assert kind_of(tmp_path / "other.pt") == ARCHIVE
    for read in (load_tensors, weight_shapes, lambda path: load_model(NAME, str(path))):
        with pytest.raises(IdClipError, match=r"none\.ckpt is a Lightning checkpoint whose weights cannot be read"):
            read(tmp_path / "none.ckpt")
    whole = reference(layers=2).lightning(tmp_path / "deep.ckpt")
    content = torch.load(whole, weights_only=True)
    content["state_dict"]["clip_model.unheard_of"] = torch.zeros(1)
    torch.save(content, whole)
    with pytest.raises(IdClipError, match=r"does not fit the model IdCLIP-ViT-tiny.*unheard_of"):
        load_model(NAME, str(whole))


def test_training_starts_from_such_a_file_and_does_not_resume_it(reference, tmp_path):
    path = reference().lightning(tmp_path / "best.ckpt")
    require_tensors_only(types.SimpleNamespace(pretrained=str(path), resume=None))
    with pytest.raises(IdClipError, match="start from it with --pretrained"):
        require_tensors_only(types.SimpleNamespace(pretrained=None, resume=str(path)))
