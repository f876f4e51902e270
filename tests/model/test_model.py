"""IdCLIP in open_clip's factory: what it shares with the plain model, prompts, locking, precision, copying."""

import copy
import io

import open_clip
import pytest
import torch

from open_clip_idplugin.errors import IdClipError

pytestmark = pytest.mark.host

# Tiny model -> size of its images.
TOWERS = {"IdCLIP-ViT-tiny": 32, "IdCLIP-RN-tiny": 32, "IdCLIP-ViT-timm-tiny": 160, "IdCLIP-ViT-tiny-quickgelu": 32}
PROMPTABLE = {"IdCLIP-ViT-tiny": 32, "IdCLIP-ViT-tiny-avg": 32, "IdCLIP-ViT-timm-tiny": 160,
              "IdCLIP-ViT-timm-tiny-avg": 160, "IdCLIP-ViT-miniature": 96}  # fmt: skip
TEXTS = ["a dog", "a man rides a horse on the beach", "word " * 100]


@pytest.fixture(scope="module")
def tokenizer(tiny_identity_models):
    import open_clip

    return open_clip.get_tokenizer("IdCLIP-ViT-tiny")


@pytest.fixture(scope="module")
def create(tiny_identity_models):
    import open_clip

    def make(name="IdCLIP-ViT-tiny", seed=0, **settings):
        torch.manual_seed(seed)
        return open_clip.create_model(name, **settings)

    return make


def images_for(name: str, count: int = 3, dtype=torch.float32) -> torch.Tensor:
    size = (TOWERS | PROMPTABLE)[name]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "pure_bf16"])
@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_without_faces_and_prompts_features_are_the_plain_models(
    create, tiny_identity_models, plain_weights, tokenizer, name, precision
):
    import open_clip

    _, path = plain_weights(name)
    plain = open_clip.create_model(tiny_identity_models[name], pretrained=str(path), precision=precision).eval()
    model = create(name, pretrained=str(path), precision=precision).eval()
    images = images_for(name, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    assert torch.equal(model.encode_image(images), plain.encode_image(images))
    tokens = tokenizer(TEXTS[:2])
    rounding = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 5e-2, "atol": 5e-2}
    torch.testing.assert_close(model.encode_text(tokens), plain.encode_text(tokens), **rounding)
    model.text.cut_at_eot = False
    assert torch.equal(model.encode_text(tokenizer(TEXTS)), plain.encode_text(tokenizer(TEXTS)))
    ours, theirs = model(images, tokens), plain(images, tokens)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@torch.no_grad()
def test_an_image_index_of_the_plain_model_answers_identity_queries(create, plain_weights, tokenizer, faces):
    plain, path = plain_weights("IdCLIP-ViT-tiny")
    model = create(pretrained=str(path)).eval()
    model.lock_image_tower()
    model.lock_text_tower()
    train_adaptor(model, tokenizer, faces)
    images = images_for("IdCLIP-ViT-tiny", count=20)
    index = torch.nn.functional.normalize(plain.encode_image(images), dim=-1)
    query = model.encode_text(tokenizer(["[TOK] runs", "a [TOK] rides"], faces=faces[:2]), normalize=True)
    own_index = model.encode_image(images, normalize=True)
    assert torch.equal(query @ index.T, query @ own_index.T)
    assert (query @ index.T).argsort(dim=1).tolist() == (query @ own_index.T).argsort(dim=1).tolist()


def train_adaptor(model, tokenizer, faces, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    with torch.enable_grad():
        for _ in range(steps):
            model.encode_text(tokenizer(["[TOK] runs"], faces=faces[0])).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def test_same_seed_same_towers(create, tiny_identity_models):
    import open_clip

    model = create()
    torch.manual_seed(0)
    plain = open_clip.create_model(tiny_identity_models["IdCLIP-ViT-tiny"], force_custom_text=True)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", PROMPTABLE)
@torch.no_grad()
def test_prompts_change_image_features_and_only_those(create, name):
    model, prompted = create(name).eval(), create(name, identity_cfg={"visual_prompts": 3}).eval()
    prompted.load_state_dict(model.state_dict())
    images = images_for(name)
    assert prompted.state_dict()["visual.prompts.tokens"].shape[0] == 3
    assert not torch.equal(prompted.encode_image(images), model.encode_image(images))
    tokens = torch.tensor([[1, 5, 9, 0, 0]])
    assert torch.equal(prompted.encode_text(tokens), model.encode_text(tokens))


@pytest.mark.parametrize("name", PROMPTABLE)
def test_prompts_get_gradients_and_bias_no_average(create, name):
    """The features are those of a sequence with n more tokens, pooled without them."""
    model = create(name, identity_cfg={"visual_prompts": 3}).eval()
    model.lock_image_tower()
    tower = model.visual
    seen = []
    block = tower.trunk.blocks[0] if hasattr(tower, "trunk") else tower.transformer.resblocks[0]
    handle = block.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    features = model.encode_image(images_for(name))
    handle.remove()
    without = create(name)
    handle_block = (
        without.visual.trunk.blocks[0] if hasattr(tower, "trunk") else without.visual.transformer.resblocks[0]
    )
    handle = handle_block.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    without.encode_image(images_for(name))
    handle.remove()
    assert seen[0] == seen[1] + 3
    features.sum().backward()
    assert tower.prompts.tokens.grad.any()
    assert [n for n, p in tower.named_parameters() if p.grad is not None] == ["prompts.tokens"]


@torch.no_grad()
def test_average_pooling_leaves_the_prompts_out(create):
    model = create("IdCLIP-ViT-tiny-avg", identity_cfg={"visual_prompts": 3}).eval()
    tower = model.visual
    images = images_for("IdCLIP-ViT-tiny-avg")
    hidden = tower.transformer(tower._embeds(images))
    assert hidden.shape[1] == 1 + 16 + 3
    expected = tower.ln_post(hidden[:, 1:17].mean(dim=1)) @ tower.proj
    torch.testing.assert_close(model.encode_image(images), expected)


@pytest.mark.parametrize("name", ["IdCLIP-ViT-tiny", "IdCLIP-ViT-timm-tiny"])
def test_patch_dropout_never_drops_a_prompt(create, name):
    model = create(name, force_patch_dropout=0.5, identity_cfg={"visual_prompts": 3}).train()
    tower = model.visual
    block = tower.trunk.blocks[0] if hasattr(tower, "trunk") else tower.transformer.resblocks[0]
    seen = []
    block.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    model.encode_image(images_for(name))
    patches = 16 if name == "IdCLIP-ViT-tiny" else 100
    assert seen == [1 + patches // 2 + 3]


@pytest.mark.parametrize("name", PROMPTABLE)
@torch.no_grad()
def test_intermediates_hold_patches_only(create, name):
    model = create(name, identity_cfg={"visual_prompts": 3}).eval()
    images = images_for(name, count=1)
    grid = {"IdCLIP-ViT-timm-tiny": 10, "IdCLIP-ViT-timm-tiny-avg": 10, "IdCLIP-ViT-miniature": 6}.get(name, 4)
    for settings in ({}, {"normalize_intermediates": True}):
        result = model.visual.forward_intermediates(images, **settings)
        assert {maps.shape[2:] for maps in result["image_intermediates"]} == {(grid, grid)}
    torch.testing.assert_close(result["image_features"], model.visual(images), rtol=1e-4, atol=1e-5)
    flat = model.visual.forward_intermediates(images, output_fmt="NLC")["image_intermediates"][-1]
    normalized = model.visual.forward_intermediates(images, normalize_intermediates=True)["image_intermediates"][-1]
    assert flat.shape[1] == grid**2 and normalized.isfinite().all()


def test_prompts_need_a_vit(create):
    with pytest.raises(IdClipError, match="need a ViT image tower, not ModifiedResNet"):
        create("IdCLIP-RN-tiny", identity_cfg={"visual_prompts": 3})


@pytest.mark.parametrize("name", ["IdCLIP-ViT-tiny", "IdCLIP-RN-tiny", "IdCLIP-ViT-timm-tiny", "IdCLIP-ViT-miniature"])
@pytest.mark.parametrize("prompts", [0, 2])
def test_both_towers_locked_is_the_papers_regime(create, name, prompts):
    if name == "IdCLIP-RN-tiny" and prompts:
        pytest.skip("a ResNet takes no prompts")
    model = create(name, identity_cfg={"visual_prompts": prompts, "adaptor_bias": True})
    model.lock_image_tower(unlocked_groups=0, freeze_bn_stats=True)
    model.lock_text_tower(unlocked_layers=0, freeze_layer_norm=False)  # what open_clip_train passes by default
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = {n for n, _ in model.named_parameters() if n.startswith(("text.adaptor.", "visual.prompts."))}
    assert trainable == expected | {"logit_scale"}
    images = images_for(name, count=2)
    assert model.train().encode_image(images).requires_grad is bool(prompts)


@torch.no_grad()
@pytest.mark.parametrize("sync", [False, True], ids=["as built", "with --use-bn-sync"])
@pytest.mark.parametrize("freeze_bn_stats", [False, True])
def test_statistics_of_a_locked_tower_stay(create, freeze_bn_stats, sync):
    model = create("IdCLIP-RN-tiny")
    images = images_for("IdCLIP-RN-tiny", count=4)

    def moved() -> set[str]:
        before = {name: value.clone() for name, value in model.visual.named_buffers()}
        assert model.train().training and model.visual.training
        model.encode_image(images + 1)
        return {name for name, value in model.visual.named_buffers() if not torch.equal(value, before[name])}

    keys = set(model.state_dict())
    assert moved() == {name for name, _ in model.visual.named_buffers()} != set()
    features = model.eval().encode_image(images)
    model.lock_image_tower(unlocked_groups=0, freeze_bn_stats=freeze_bn_stats)
    if sync:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert not any(module.training for module in model.train().modules() if "BatchNorm" in type(module).__name__)
    else:
        assert moved() == set()
        assert torch.equal(model.train().encode_image(images), features)
        assert torch.equal(model.eval().encode_image(images), features)
    assert set(model.state_dict()) == keys


def test_unlocking_groups_from_the_end(create):
    model = create(identity_cfg={"visual_prompts": 2})
    model.lock_text_tower(unlocked_layers=2)
    trainable = {n for n, p in model.text.named_parameters() if p.requires_grad and not n.startswith("adaptor")}
    assert trainable == {"text_projection", "ln_final.weight", "ln_final.bias"} | {
        f"transformer.resblocks.1.{n}" for n, _ in model.text.transformer.resblocks[1].named_parameters()
    }
    model.lock_text_tower(unlocked_layers=99)
    assert all(p.requires_grad for p in model.text.parameters())
    model.lock_image_tower(unlocked_groups=1)
    assert {n for n, p in model.visual.named_parameters() if p.requires_grad} == {"proj", "prompts.tokens"}


@pytest.mark.parametrize("name", ["IdCLIP-ViT-tiny", "IdCLIP-ViT-timm-tiny"])
def test_grad_checkpointing_gives_the_same_gradients(create, tokenizer, faces, name):
    gradients = []
    for checkpointing in (False, True):
        model = create(name, identity_cfg={"visual_prompts": 2}).train()
        model.set_grad_checkpointing(checkpointing)
        text = tokenizer(["[TOK] runs", "a [TOK]"], faces=faces[:2])
        image_features, text_features, scale = model(images_for(name, count=2), text)
        (scale * (image_features @ text_features.T)).logsumexp(1).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() >= {"visual.prompts.tokens", "text.adaptor.output.weight"}
    for name_ in gradients[0]:
        torch.testing.assert_close(gradients[0][name_], gradients[1][name_])


def test_no_weight_decay_names_exist(create):
    for name in ("IdCLIP-ViT-tiny", "IdCLIP-RN-tiny", "IdCLIP-ViT-timm-tiny"):
        prompts = 0 if "RN" in name else 2
        model = create(name, identity_cfg={"visual_prompts": prompts})
        names = model.no_weight_decay()
        assert names <= {n for n, _ in model.named_parameters()}
        assert "text.positional_embedding" in names and ("visual.prompts.tokens" in names) == bool(prompts)


@torch.no_grad()
@pytest.mark.parametrize("name", ["IdCLIP-ViT-tiny", "IdCLIP-ViT-timm-tiny"])
def test_copies_are_independent(create, tokenizer, faces, name):
    model = create(name, identity_cfg={"visual_prompts": 2}).eval()
    images, text = images_for(name), tokenizer(["[TOK] runs"], faces=faces[0])
    expected = model(images, text)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert all(torch.equal(*pair) for pair in zip(copied(images, text), expected, strict=True))
        copied.visual.prompts.tokens.add_(1)
        copied.adaptor.output.weight.mul_(3)
        assert not torch.equal(copied.encode_image(images), model.encode_image(images))
        assert not torch.equal(copied.encode_text(text), model.encode_text(text))
        assert all(torch.equal(*pair) for pair in zip(model(images, text), expected, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16", "amp"])
def test_low_precision_with_faces_and_prompts(create, tokenizer, faces, precision):
    exact = create(identity_cfg={"visual_prompts": 2}).eval()
    model = create(precision=precision, identity_cfg={"visual_prompts": 2}).eval()
    text = tokenizer(["[TOK] runs", "a [TOK]"], faces=faces[:2])
    images = images_for("IdCLIP-ViT-tiny", count=2)
    expected = exact.encode_text(text, normalize=True), exact.encode_image(images, normalize=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp"):
        low = images.bfloat16() if "bf16" in precision else images
        found = model.encode_text(text, normalize=True), model.encode_image(low, normalize=True)
        (found[0] @ found[1].T).sum().backward()
    for one, other in zip(found, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float(), other).min() > 0.999
    assert model.adaptor.output.weight.grad.isfinite().all() and model.visual.prompts.tokens.grad.any()


def test_compiles_without_graph_breaks(create, tokenizer, faces):
    """With the host's dynamo backend; no code is generated, so that the test stays short."""
    model = create(identity_cfg={"visual_prompts": 2}).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = images_for("IdCLIP-ViT-tiny", count=2)
    for text in (tokenizer(["[TOK] runs", "a [TOK]"], faces=faces[:2]), tokenizer(["a dog", "a cat"])):
        for one, other in zip(compiled(images, text), model(images, text), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    text = tokenizer(["[TOK] runs", "a [TOK]"], faces=faces[:2])
    compiled.train()(images, text)[1].sum().backward()
    assert model.adaptor.output.weight.grad.any()
    torch._dynamo.reset()


def test_factory_doors(tiny_identity_models):
    import open_clip

    import open_clip_idplugin

    model, train, evaluate = open_clip.create_model_and_transforms("IdCLIP-ViT-tiny", output_dict=True)
    assert type(model) is open_clip_idplugin.IdCLIP and isinstance(model, open_clip.CustomTextCLIP)
    assert model.output_dict and train is not evaluate
    assert open_clip.get_model_config("IdCLIP-ViT-tiny")["identity_cfg"] == {}
    with pytest.raises(RuntimeError, match=r"[Rr]equired"):
        open_clip.create_model_from_pretrained("IdCLIP-ViT-tiny")
    with pytest.raises(IdClipError, match="no key 'prompts'"):
        open_clip.create_model("IdCLIP-ViT-tiny", identity_cfg={"prompts": 5})
    built = open_clip.create_model("IdCLIP-ViT-tiny", identity_cfg={"face_dim": 128, "adaptor_hidden": 64})
    assert built.adaptor.hidden[0].weight.shape == (64, 128) and built.identity_cfg.visual_prompts == 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_is_not_bound_to_one_length(create, tokenizer):
    model = create().eval()
    traced = torch.jit.trace_module(model, {"encode_text": tokenizer(["a dog", "a cat"])})
    for texts in (["a dog", "a cat"], ["a man rides a horse on the beach", "word " * 100]):
        torch.testing.assert_close(traced.encode_text(tokenizer(texts)), model.encode_text(tokenizer(texts)))


def test_a_model_folder_of_open_clip_3(create, tokenizer, faces, tmp_path):
    import json

    import open_clip

    if not hasattr(open_clip.factory, "LOCAL_DIR_PREFIX"):
        pytest.skip("open_clip 2 has no local-dir: names")
    model = create(identity_cfg={"visual_prompts": 2}).eval()
    config = open_clip.get_model_config("IdCLIP-ViT-tiny") | {"identity_cfg": {"visual_prompts": 2}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    name = f"local-dir:{tmp_path}"
    loaded, text = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)("[TOK] runs", faces=faces[0])
    assert torch.equal(loaded.encode_text(text), model.encode_text(text))
    assert torch.equal(loaded.visual.prompts.tokens, model.visual.prompts.tokens)


def test_pooling_at_a_named_eos_token(create, tokenizer, faces):
    import dataclasses

    import open_clip

    if "eos_id" not in {field.name for field in dataclasses.fields(open_clip.CLIPTextCfg)}:
        pytest.skip("open_clip 2 pools at the highest id only")
    text_cfg = open_clip.get_model_config("IdCLIP-ViT-tiny")["text_cfg"] | {"pool_type": "eos", "eos_id": 49407}
    usual, named = create().eval(), create(text_cfg=text_cfg).eval()
    assert named.text.cut_is_exact
    text = tokenizer(["[TOK] runs", "a [TOK] on the beach"], faces=faces[:2])
    assert torch.equal(named.encode_text(text), usual.encode_text(text))
    assert torch.equal(named.encode_text(text.tokens), usual.encode_text(text.tokens))


@pytest.mark.skipif(hasattr(open_clip, "create_task"), reason="open_clip's main has no model that TorchScript compiles")
@torch.no_grad()
def test_torchscript_compiles_the_plain_model_on_the_same_weights(create, tokenizer):
    """As programs do that know open_clip alone and ask for jit=True; the model itself stays as it is."""
    model = create().eval()
    scripted = torch.jit.script(model)
    images, tokens = images_for("IdCLIP-ViT-tiny"), tokenizer(TEXTS)
    assert torch.equal(scripted.encode_image(images), model.encode_image(images))
    torch.testing.assert_close(scripted.encode_text(tokens), model.encode_text(tokens), rtol=1e-4, atol=1e-5)
    faces = torch.nn.functional.normalize(torch.ones(1, 512), dim=-1)
    assert model.encode_text(tokenizer(["[TOK] runs"], faces=faces)).isfinite().all()
    assert next(scripted.parameters()).data_ptr() == next(model.parameters()).data_ptr()


@pytest.mark.parametrize("part", ["visual_prompts", "text_prompts"])
def test_torchscript_of_towers_that_are_not_plain_is_refused(create, part):
    with pytest.raises(IdClipError, match=f"an IdCLIP with {part} cannot be compiled by TorchScript: say jit=False"):
        torch.jit.script(create(identity_cfg={part: 2}))
