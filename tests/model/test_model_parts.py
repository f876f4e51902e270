"""What a model config can add to the towers: variants of the adaptor, deep and text prompts, LoRA, and all together."""

import copy
import io
import itertools

import pytest
import torch

from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.weight_keys import OWN_PARTS

pytestmark = pytest.mark.host

TINY = "IdCLIP-ViT-tiny"
VITS = {TINY: 32, "IdCLIP-ViT-tiny-avg": 32, "IdCLIP-ViT-timm-tiny": 160, "IdCLIP-ViT-timm-tiny-avg": 160,
        "IdCLIP-ViT-timm-tiny-sigmoid": 160, "IdCLIP-ViT-miniature": 96}  # fmt: skip
TEXT_TOWERS = [TINY, "IdCLIP-ViT-tiny-avg", "IdCLIP-RN-tiny", "IdCLIP-ViT-timm-tiny-sigmoid"]
EVERYTHING = {
    "visual_prompts": 2, "visual_prompts_deep": True, "text_prompts": 5, "lora_image_blocks": "all",
    "lora_text_blocks": "last:1", "lora_rank": 3, "lora_targets": "both", "adaptor_layers": 2, "adaptor_bias": True,
    "adaptor_norm": True, "adaptor_residual": True, "token_norm": "learned",
}  # fmt: skip


@pytest.fixture(scope="module")
def create(tiny_identity_models):
    import open_clip

    def make(name=TINY, seed=0, pretrained=None, precision="fp32", **identity_cfg):
        torch.manual_seed(seed)
        return open_clip.create_model(name, pretrained=pretrained, precision=precision, identity_cfg=identity_cfg)

    return make


@pytest.fixture(scope="module")
def tokenizer(tiny_identity_models):
    import open_clip

    return open_clip.get_tokenizer(TINY)


def images_for(name: str, count: int = 2) -> torch.Tensor:
    size = (VITS | {"IdCLIP-RN-tiny": 32})[name]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def blocks_of(tower):
    return tower.trunk.blocks if hasattr(tower, "trunk") else tower.transformer.resblocks


def stir(model, parts=OWN_PARTS):
    """Move the weights of some parts away from their initial values, as training would."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if model.part_of(name) in parts:
                parameter.add_(torch.randn(parameter.shape, generator=generator).mul_(0.05))
    return model.eval()


ADAPTORS = [
    {"adaptor_layers": layers, "adaptor_bias": bias, "adaptor_norm": norm, "adaptor_residual": residual,
     "tokens_per_identity": count, "adaptor_hidden": 512 - 64 * count}
    for layers, bias, norm, residual, count in itertools.product(
        (1, 2), (False, True), (False, True), (False, True), (1, 2, 3, 4))
]  # fmt: skip


@pytest.mark.parametrize("token_norm", ["free", "initial", "fixed", "learned"])
def test_every_adaptor_starts_with_tokens_of_ordinary_length(tiny_identity_models, faces, token_norm):
    from open_clip_idplugin.adaptor import IdentityAdaptor

    for settings in ADAPTORS:
        torch.manual_seed(0)
        adaptor = IdentityAdaptor(IdentityConfig(**settings, token_norm=token_norm), 128)
        adaptor.start_at(torch.tensor(0.7))
        tokens = adaptor(faces)
        assert tokens.shape == (3, settings["tokens_per_identity"], 128)
        lengths = tokens.norm(dim=-1)
        if token_norm in ("fixed", "learned"):
            torch.testing.assert_close(lengths, torch.full_like(lengths, 0.7))
        else:
            expected = {"free": 0.02 * 128**0.5, "initial": 0.7}[token_norm]
            assert lengths.mean().item() == pytest.approx(expected, rel=0.25), settings
        (tokens * torch.arange(1, 129)).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in adaptor.parameters())
        assert (adaptor.token_scale is not None) == (token_norm == "learned")


def test_the_shortcut_is_linear_and_starts_silent(tiny_identity_models, faces):
    from open_clip_idplugin.adaptor import IdentityAdaptor

    plain, adaptor = (IdentityAdaptor(IdentityConfig(adaptor_residual=shortcut), 32) for shortcut in (False, True))
    adaptor.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(adaptor(faces), plain(faces))
    with torch.no_grad():
        adaptor.shortcut.weight.normal_()
    torch.testing.assert_close(adaptor(faces)[:, 0], plain(faces)[:, 0] + faces @ adaptor.shortcut.weight.T)


@pytest.mark.parametrize("token_norm", ["initial", "fixed", "learned"])
def test_plain_weights_say_how_long_an_ordinary_token_is(create, plain_weights, faces, tmp_path, token_norm):
    plain, _ = plain_weights(TINY)
    state = {key: value * 5 if key == "token_embedding.weight" else value for key, value in plain.state_dict().items()}
    torch.save(state, tmp_path / "longer.pt")
    ordinary = state["token_embedding.weight"].norm(dim=-1).mean().item()
    model = create(pretrained=str(tmp_path / "longer.pt"), token_norm=token_norm)
    assert model.adaptor(faces).norm(dim=-1).mean().item() == pytest.approx(ordinary, rel=0.25)
    trained = stir(model).state_dict()
    again = create(token_norm=token_norm)
    again.load_state_dict(trained)  # a trained adaptor keeps its lengths, whatever the embedding
    assert torch.equal(again.adaptor(faces), model.adaptor(faces))


def test_a_learned_or_fixed_length_survives_a_batch_without_faces(create, tokenizer):
    for token_norm in ("fixed", "learned"):
        model = create(token_norm=token_norm, text_prompts=2).train()
        model.encode_text(tokenizer(["a dog", "a cat"])).sum().backward()
        grads = {name: parameter.grad for name, parameter in model.text.named_parameters()}
        assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
        assert grads["transformer.prompts.tokens"].any() and not grads["adaptor.output.weight"].any()


@pytest.mark.parametrize("name", VITS)
def test_deep_prompts_are_new_in_every_block(create, name):
    model = create(name, visual_prompts=3, visual_prompts_deep=True).eval()
    model.lock_image_tower()
    tower, blocks = model.visual, blocks_of(model.visual)
    assert tower.prompts.tokens.shape[:2] == (len(blocks), 3)
    entering = []
    for block in blocks:
        block.register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0]))
    features = model.encode_image(images_for(name))
    assert len({tokens.shape[1] for tokens in entering}) == 1
    for number in range(1, len(blocks)):
        expected = tower.prompts.tokens[number].expand(2, -1, -1)
        assert torch.equal(entering[number][:, -3:], expected) and not torch.equal(
            entering[number - 1][:, -3:], expected
        )
    (features * torch.arange(features.shape[1])).sum().backward()
    assert tower.prompts.tokens.grad.flatten(1).any(dim=1).all()  # every block's own
    assert [n for n, p in tower.named_parameters() if p.grad is not None] == ["prompts.tokens"]


@torch.no_grad()
def test_deep_prompts_by_hand(create):
    model = create(visual_prompts=2, visual_prompts_deep=True).eval()
    tower, images = model.visual, images_for(TINY)
    hidden = tower._embeds(images)
    first, second = tower.transformer.resblocks
    hidden = torch.cat([_bare(first, hidden)[:, :-2], tower.prompts.tokens[1].expand(2, -1, -1)], dim=1)
    expected = tower.ln_post(_bare(second, hidden)[:, 0]) @ tower.proj
    torch.testing.assert_close(model.encode_image(images), expected)


def _bare(block, hidden):
    return type(block).forward(block, hidden)  # without hooks


@pytest.mark.parametrize("count", [1, 5, 50])
@torch.no_grad()
def test_any_number_of_prompts(create, count):
    for name in (TINY, "IdCLIP-ViT-tiny-avg", "IdCLIP-ViT-timm-tiny", "IdCLIP-ViT-timm-tiny-sigmoid"):
        shallow = create(name, visual_prompts=count).eval()
        deep = create(name, visual_prompts=count, visual_prompts_deep=True).eval()
        images = images_for(name, 1)
        assert shallow.visual.prompts.tokens.ndim == 2 and deep.visual.prompts.tokens.shape[1] == count
        deep.visual.prompts.tokens[0] = shallow.visual.prompts.tokens
        assert not torch.equal(shallow.encode_image(images), deep.encode_image(images))
        for model in (shallow, deep):
            assert model.visual.forward_intermediates(images)["image_features"].isfinite().all()


@torch.no_grad()
def test_text_prompts_by_hand(create, tokenizer, faces):
    """They stand in front without positions, a causal tower sees them, and pooling reads EOT n places later."""
    model = stir(create(text_prompts=5))
    tower, text = model.text, tokenizer(["a [TOK] runs"], faces=faces[0])
    vectors = tower.token_embedding(text.tokens)
    vectors[0, 2] = model.adaptor(faces[:1])[0, 0]
    hidden = torch.cat([tower.transformer.prompts.tokens[None], vectors + tower.positional_embedding], dim=1)
    mask = torch.full((82, 82), float("-inf")).triu(1)
    for block in tower.transformer.resblocks:
        hidden = block(hidden, attn_mask=mask)
    end = 5 + text.tokens[0].tolist().index(49407)
    expected = tower.ln_final(hidden[:, end]) @ tower.text_projection
    torch.testing.assert_close(model.encode_text(text), expected)
    lengths = []
    tower.transformer.resblocks[0].register_forward_pre_hook(lambda _m, inputs: lengths.append(inputs[0].shape[1]))
    cut = model.encode_text(text)
    tower.cut_at_eot = False
    torch.testing.assert_close(cut, model.encode_text(text), rtol=1e-4, atol=1e-6)
    assert lengths == [5 + 5, 5 + 77]


@pytest.mark.parametrize("name", TEXT_TOWERS)
def test_text_prompts_in_every_text_tower(create, plain_weights, faces, name):
    import open_clip

    _, path = plain_weights(name)
    model, plain = create(name, pretrained=str(path), text_prompts=5), create(name, pretrained=str(path))
    model.lock_text_tower()
    text = open_clip.get_tokenizer(name)(["[TOK] runs", "a dog"], faces=[faces[0], None])
    features = model.eval().encode_text(text)
    assert not torch.allclose(features, plain.eval().encode_text(text))
    features[1].sum().backward()
    assert model.text.transformer.prompts.tokens.grad.any(dim=1).all()
    with torch.no_grad():
        result = model.text.forward_intermediates(text, output_fmt="NLC")
    assert {layer.shape[1] for layer in result["text_intermediates"]} == {text.shape[1]}
    torch.testing.assert_close(result["text_features"], features, rtol=1e-4, atol=1e-6)


def text_cfg_of(name, **changes):
    import open_clip

    return open_clip.get_model_config(name)["text_cfg"] | changes


@torch.no_grad()
def test_a_pad_mask_allows_the_cut_of_a_tower_that_looks_both_ways(tiny_identity_models, tokenizer, faces):
    import open_clip

    text_cfg = text_cfg_of(TINY, no_causal_mask=True)
    if not hasattr(open_clip.create_model(TINY, text_cfg=text_cfg).text, "use_pad_mask"):
        pytest.skip("open_clip 2 has no pad mask")
    lengths = []
    for identity_cfg in ({}, {"text_prompts": 3}):
        model = open_clip.create_model(TINY, text_cfg=text_cfg, identity_cfg=identity_cfg).eval()
        text = tokenizer(["a dog", "[TOK] runs on the beach"], faces=[None, faces[0]])
        assert not model.text.cut_is_exact
        model.text.use_pad_mask = True  # the constructor takes it, a model config does not
        assert model.text.cut_is_exact
        model.text.transformer.register_forward_pre_hook(lambda _m, inputs: lengths.append(inputs[0].shape[1]))
        cut = model.encode_text(text)
        model.text.cut_at_eot = False
        torch.testing.assert_close(cut, model.encode_text(text), rtol=1e-4, atol=1e-6)
    assert lengths == [7, 77] * 2
    model.text.pool_type = "last"
    assert not model.text.cut_is_exact


def _fields(kind):
    import dataclasses

    return dataclasses.fields(kind)


LORAS = [(name, "both") for name in VITS] + [(name, x) for name in list(VITS)[:3:2] for x in ("attention", "mlp")]


@pytest.mark.parametrize(("name", "targets"), LORAS)
@torch.no_grad()
def test_lora_starts_silent_learns_and_merges(create, plain_weights, faces, name, targets):
    import open_clip

    lora = {"lora_image_blocks": "last:1", "lora_text_blocks": "all", "lora_rank": 2, "lora_targets": targets}
    model, plain = create(name, **lora).eval(), create(name).eval()
    for module in model.modules():
        if isinstance(getattr(module, "gamma", None), torch.nn.Parameter):
            module.gamma.fill_(1)  # of a fresh LayerScale it is almost 0, which would hide the block
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if ".lora." not in key})
    images = images_for(name)
    text = open_clip.get_tokenizer(name)(["[TOK] runs", "a dog"], faces=[faces[0], None])
    for one, other in zip(model(images, text)[:2], plain(images, text)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    stir(model, ("image_lora", "text_lora"))
    learned = model(images, text)
    assert not torch.allclose(learned[0], plain(images, text)[0], atol=1e-3)
    assert not torch.allclose(learned[1], plain(images, text)[1], atol=1e-3)
    model.merge_lora()
    assert model.state_dict().keys() == plain.state_dict().keys() and model.identity_cfg == plain.identity_cfg
    for one, other in zip(model(images, text)[:2], learned[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.encode_image(images), model.encode_image(images))


def test_lora_updates_only_the_chosen_blocks(create, tokenizer, faces):
    model = create(lora_image_blocks="1", lora_text_blocks="0", lora_rank=4)
    model.lock_image_tower(unlocked_groups=0)
    model.lock_text_tower()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = ["visual.transformer.resblocks.1.attn", "text.transformer.resblocks.0.attn"]
    lora = {f"{x}.{part}lora.{end}" for x in layers for part in ("", "out_proj.") for end in ("down", "up")}
    assert {name for name in trainable if ".lora." in name} == lora
    assert {model.part_of(name) for name in trainable} == {"adaptor", "image_lora", "text_lora", "temperature"}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    text = tokenizer(["[TOK] runs", "a dog"], faces=[faces[0], None])
    for _ in range(2):  # the first step moves `up` away from zero, the second one `down`
        image_features, text_features, scale = model(images_for(TINY), text)
        (scale * image_features @ text_features.T).logsumexp(1).sum().backward()
        optimizer.step()
    assert all(model.get_parameter(name).grad.any() for name in lora)


REFUSED = {
    "prompts of a ResNet": ("IdCLIP-RN-tiny", {"visual_prompts": 5}, "need a ViT image tower, not ModifiedResNet"),
    "deep prompts of a ResNet": (
        "IdCLIP-RN-tiny", {"visual_prompts": 5, "visual_prompts_deep": True}, "need a ViT image tower, not ModifiedResNet",
    ),
    "LoRA in a ResNet": ("IdCLIP-RN-tiny", {"lora_image_blocks": "all"}, "blocks, not ModifiedResNet; set lora_image_blocks"),
    "LoRA in blocks that are not there": (TINY, {"lora_text_blocks": "0,2"}, "this tower has 2 blocks, 0 to 1"),
    "more than there are": (TINY, {"lora_image_blocks": "last:3"}, "this tower has 2 blocks, 0 to 1"),
    "deep without prompts": (TINY, {"visual_prompts_deep": True}, "needs visual_prompts of at least 1"),
    "a rank without blocks": (TINY, {"lora_rank": 4}, "lora_rank needs lora_image_blocks or lora_text_blocks"),
    "three hidden layers": (TINY, {"adaptor_layers": 3}, "adaptor_layers must be a whole number from 1 to 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_tower_cannot_have_is_refused_in_a_sentence(create, case):
    name, settings, message = REFUSED[case]
    with pytest.raises(IdClipError, match=message):
        create(name, **settings)


def test_a_timm_tower_without_tokens_is_refused(tiny_identity_models):
    import open_clip

    vision_cfg = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    open_clip.create_model(TINY, vision_cfg=vision_cfg, identity_cfg={"text_prompts": 5, "lora_text_blocks": "all"})
    for settings in ({"visual_prompts": 5}, {"lora_image_blocks": "all"}):
        with pytest.raises(IdClipError, match="not ResNet; set"):
            open_clip.create_model(TINY, vision_cfg=vision_cfg, identity_cfg=settings)


def test_blocks_of_another_make_are_refused(tiny_identity_models):
    import open_clip

    if "qk_norm" not in {field.name for field in _fields(open_clip.CLIPTextCfg)}:
        pytest.skip("open_clip 2 has one kind of block")
    with pytest.raises(IdClipError, match="does not know the layers of CustomResidualAttentionBlock"):
        open_clip.create_model(TINY, text_cfg=text_cfg_of(TINY, qk_norm=True), identity_cfg={"lora_text_blocks": "0"})


@pytest.mark.parametrize("name", [TINY, "IdCLIP-ViT-timm-tiny-sigmoid"])
def test_everything_together_is_saved_and_loads_by_name(create, faces, tmp_path, name):
    import open_clip

    trained = stir(create(name, **EVERYTHING))
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "epoch_1.pt")
    model = create(name, seed=1, pretrained=str(tmp_path / "epoch_1.pt")).eval()
    assert model.identity_cfg == trained.identity_cfg
    assert model.identity_cfg.lora_text_blocks == "1"  # 'last:1' of two blocks
    text = open_clip.get_tokenizer(name)(["[TOK] runs", "a dog"], faces=[faces[0], None])
    images = images_for(name)
    with torch.no_grad():
        assert all(torch.equal(*pair) for pair in zip(model(images, text), trained(images, text), strict=True))
    state = trained.state_dict()
    for broken in ("visual.prompts.tokens", next(key for key in state if key.endswith("lora.up"))):
        wrong = {key: value[..., :-1] if key == broken else value for key, value in state.items()}
        with pytest.raises(RuntimeError, match="size mismatch"):
            create(name).load_state_dict(wrong)
    del state[next(key for key in state if key.endswith("lora.up"))]
    with pytest.raises(RuntimeError, match="Missing key"):
        create(name, **EVERYTHING).load_state_dict(state)


@pytest.mark.parametrize("of", ["IdCLIP-ViT-L-14-CLIPA-336", "IdCLIP-ViT-H-14-CLIPA-336", "IdCLIP-ViT-B-16-sigmoid"])
def test_published_towers_of_other_kinds_take_everything(tiny_identity_models, faces, of):
    """The settings of CLIPA's and SigLIP's configs at a tiny size: no causal mask, another pooling, averaged patches."""
    import open_clip

    config = open_clip.get_model_config(of)
    vision, text = config["vision_cfg"], config["text_cfg"] | {"vocab_size": 99, "width": 32, "heads": 2, "layers": 2}
    if "timm_model_name" in vision:
        vision |= {"timm_model_name": "test_vit3", "image_size": 160}
        config["embed_dim"] = 96
    else:
        vision |= {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    model = open_clip.create_model(
        TINY, embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text, identity_cfg=EVERYTHING
    )
    stir(model).lock_image_tower()
    model.lock_text_tower()
    tokens = torch.randint(5, 90, (2, text["context_length"]), generator=torch.Generator().manual_seed(0))
    slots = torch.zeros_like(tokens)
    slots[0, 3] = 1
    given = IdentityText(tokens, faces[:2, None], slots, torch.arange(2))
    image_features, text_features, scale = model(torch.randn(2, 3, vision["image_size"], vision["image_size"]), given)
    (scale * (image_features @ text_features.T)).logsumexp(1).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {model.part_of(name) for name in grads} == {*OWN_PARTS, "temperature"} and not model.text.cut_is_exact
    assert all(grad is not None and grad.isfinite().all() for name, grad in grads.items() if name != "logit_bias")
    for part in OWN_PARTS:
        assert any(grad.any() for name, grad in grads.items() if model.part_of(name) == part), part


@pytest.mark.parametrize("name", [TINY, "IdCLIP-RN-tiny", "IdCLIP-ViT-timm-tiny", "IdCLIP-ViT-timm-tiny-sigmoid"])
def test_plain_weights_load_into_everything(create, plain_weights, name):
    plain, path = plain_weights(name)
    settings = {k: v for k, v in EVERYTHING.items() if "RN" not in name or not k.startswith(("visual", "lora_image"))}
    model = create(name, pretrained=str(path), **settings)
    for key, value in model.state_dict().items():
        if model.part_of(key) not in OWN_PARTS:
            same = plain.state_dict()
            assert torch.equal(value, same[key] if key in same else same[key.removeprefix("text.")]), key


def test_parts_can_be_added_to_trained_ones(create):
    trained = stir(create(visual_prompts=2))
    model = create(visual_prompts=2, lora_text_blocks="all", text_prompts=5)
    model.load_state_dict(trained.state_dict())
    assert torch.equal(model.visual.prompts.tokens, trained.visual.prompts.tokens)
    assert model.identity_cfg.text_prompts == 5 and model.identity_cfg.lora_text_blocks == "0-1"


@pytest.mark.parametrize("name", [TINY, "IdCLIP-ViT-timm-tiny"])
def test_grad_checkpointing_gives_the_same_gradients(create, tokenizer, faces, name):
    gradients = []
    for checkpointing in (False, True):
        model = stir(create(name, **EVERYTHING)).train()
        model.set_grad_checkpointing(checkpointing)
        model.lock_image_tower()
        model.lock_text_tower()
        image_features, text_features, scale = model(
            images_for(name), tokenizer(["[TOK] runs", "a [TOK]"], faces=faces[:2])
        )
        (scale * (image_features @ text_features.T)).logsumexp(1).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
        assert {n for n, p in model.named_parameters() if p.grad is not None} == set(gradients[-1])
    for key in gradients[0]:
        torch.testing.assert_close(gradients[0][key], gradients[1][key])


@torch.no_grad()
@pytest.mark.parametrize("name", [TINY, "IdCLIP-ViT-timm-tiny"])
def test_copies_are_independent(create, tokenizer, faces, name):
    model = stir(create(name, **EVERYTHING))
    images, text = images_for(name), tokenizer(["[TOK] runs", "a dog"], faces=[faces[0], None])
    expected = model(images, text)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert all(torch.equal(*pair) for pair in zip(copied(images, text), expected, strict=True))
        stir(copied)
        assert not torch.equal(copied.encode_image(images), model.encode_image(images))
        assert all(torch.equal(*pair) for pair in zip(model(images, text), expected, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16", "amp"])
def test_low_precision(create, tokenizer, faces, precision):
    exact = stir(create(**EVERYTHING))
    model = create(precision=precision, **EVERYTHING).eval()
    model.load_state_dict(exact.state_dict())
    text, images = tokenizer(["[TOK] runs", "a [TOK]"], faces=faces[:2]), images_for(TINY)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp"):
        low = images.bfloat16() if "bf16" in precision else images
        found = model.encode_text(text, normalize=True), model.encode_image(low, normalize=True)
        (found[0] @ found[1].T).sum().backward()
    expected = exact.encode_text(text, normalize=True), exact.encode_image(images, normalize=True)
    for one, other in zip(found, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float(), other).min() > 0.99
    own = {n: p.grad for n, p in model.named_parameters() if model.part_of(n) in OWN_PARTS}
    assert all(grad.isfinite().all() and grad.any() for grad in own.values())


@pytest.mark.parametrize("name", [TINY, "IdCLIP-ViT-timm-tiny-sigmoid"])
def test_compiles_without_graph_breaks(create, faces, name):
    import open_clip

    model = stir(create(name, **EVERYTHING)).train()
    model.text.cut_at_eot = False  # the compiled model does not cut, the plain one need not here
    images, text = images_for(name), open_clip.get_tokenizer(name)(["[TOK] runs", "a [TOK]"], faces=faces[:2])
    expected = model(images, text)
    image_features, text_features, scale = torch.compile(model, backend="eager", fullgraph=True)(images, text)[:3]
    torch.testing.assert_close((image_features, text_features), expected[:2], rtol=1e-4, atol=1e-5)
    (scale * (image_features @ text_features.T)).logsumexp(1).sum().backward()
    assert all(p.grad.any() for n, p in model.named_parameters() if model.part_of(n) in OWN_PARTS)
    torch._dynamo.reset()


def test_every_parameter_belongs_to_one_part(create):
    model = create("IdCLIP-ViT-timm-tiny-sigmoid", **EVERYTHING)
    parts = {name: model.part_of(name) for name, _ in model.named_parameters()}
    assert set(parts.values()) == {*OWN_PARTS, "image_tower", "text_tower", "temperature"}
    assert parts["logit_bias"] == parts["logit_scale"] == "temperature"
    assert parts["visual.trunk.blocks.0.attn.qkv.lora.up"] == "image_lora"
    assert (
        parts["visual.trunk.attn_pool.q.weight"] == "image_tower" and parts["text.positional_embedding"] == "text_tower"
    )
    assert model.no_weight_decay() <= set(parts)
    assert {"visual.prompts.tokens", "text.transformer.prompts.tokens"} <= model.no_weight_decay()


def test_the_bias_of_a_sigmoid_loss_is_the_models(create, faces, tiny_identity_models):
    import open_clip
    from open_clip.loss import SigLipLoss

    model = create("IdCLIP-ViT-timm-tiny-sigmoid")
    model.output_dict = True
    text = open_clip.get_tokenizer("IdCLIP-ViT-timm-tiny-sigmoid")(["[TOK] runs", "a dog"], faces=[faces[0], None])
    output = model(images_for("IdCLIP-ViT-timm-tiny-sigmoid"), text)
    assert output["logit_bias"].item() == -10
    loss = SigLipLoss()(**output)
    loss.backward()
    assert model.logit_bias.grad.any() and model.adaptor.output.weight.grad.any() and loss.isfinite()
