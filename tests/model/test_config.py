"""IdentityConfig: JSON in, checked values out."""

from dataclasses import fields

import pytest

from open_clip_idplugin.config import IdentityConfig, blocks_text, chosen_blocks, parse_setting
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.weight_keys import config_of_weights


def test_defaults_are_the_papers_adaptor():
    config = IdentityConfig.from_dict({})
    assert (config.face_dim, config.adaptor_hidden, config.adaptor_layers) == (512, 768, 1)
    assert (config.adaptor_bias, config.tokens_per_identity, config.visual_prompts) == (False, 1, 0)


def test_round_trip():
    config = IdentityConfig(visual_prompts=5, adaptor_layers=2, adaptor_bias=True, tokens_per_identity=3)
    assert IdentityConfig.from_dict(config.to_dict()) == config
    assert IdentityConfig.from_dict(config) is config


def test_unknown_key_is_refused_with_the_allowed_ones():
    with pytest.raises(IdClipError, match=r"'visual_prompt'.*allowed: face_dim, .*visual_prompts"):
        IdentityConfig.from_dict({"visual_prompt": 5})


@pytest.mark.parametrize(
    "settings",
    [
        {"face_dim": 0},
        {"adaptor_layers": 3},
        {"visual_prompts": -1},
        {"visual_prompts": 2.0},
        {"tokens_per_identity": True},
        {"adaptor_bias": 1},
        {"adaptor_norm": "yes"},
        {"token_norm": "unit"},
        {"text_prompts": -1},
        {"visual_prompts_deep": True},
        {"lora_image_blocks": "first"},
        {"lora_text_blocks": "3-1"},
        {"lora_text_blocks": 3},
        {"lora_rank": 4},
        {"lora_targets": "mlp"},
        {"lora_rank": 0, "lora_text_blocks": "all"},
    ],
)
def test_bad_values_are_refused_by_name(settings):
    with pytest.raises(IdClipError, match=next(iter(settings))):
        IdentityConfig.from_dict(settings)


def test_not_a_dictionary():
    with pytest.raises(IdClipError, match="dictionary"):
        IdentityConfig.from_dict([5])


def test_shapes_of_weights_tell_the_config():
    shapes = {
        "text.token_embedding.weight": (100, 32),
        "text.adaptor.hidden.0.weight": (64, 128),
        "text.adaptor.hidden.0.bias": (64,),
        "text.adaptor.hidden.1.weight": (64, 64),
        "text.adaptor.output.weight": (96, 64),
        "text.adaptor.output.bias": (96,),
        "visual.prompts.tokens": (5, 48),
    }
    assert config_of_weights(shapes, IdentityConfig()) == IdentityConfig(128, 64, 2, True, 3, 5)
    shapes |= {
        "visual.prompts.tokens": (2, 5, 48),
        "text.transformer.prompts.tokens": (4, 32),
        "text.transformer.resblocks.3.attn.out_proj.lora.down": (6, 32),
        "visual.trunk.blocks.11.mlp.fc1.lora.down": (6, 48),
    }
    told = config_of_weights(shapes, IdentityConfig())
    assert (told.visual_prompts, told.visual_prompts_deep, told.text_prompts) == (5, True, 4)
    assert (told.lora_image_blocks, told.lora_text_blocks, told.lora_rank, told.lora_targets) == ("11", "3", 6, "both")
    for key in [key for key in shapes if ".lora." in key]:
        del shapes[key]
    assert not config_of_weights(shapes, told).has_lora and config_of_weights(shapes, told, complete=False).has_lora
    del shapes["visual.prompts.tokens"]
    assert config_of_weights(shapes, IdentityConfig(visual_prompts=2)).visual_prompts == 0


def test_plain_or_senseless_shapes_tell_nothing():
    base = IdentityConfig(visual_prompts=2)
    assert config_of_weights({"visual.conv1.weight": (1, 2)}, base) == base
    odd = {
        "text.token_embedding.weight": (100, 32),
        "text.adaptor.hidden.0.weight": (64, 128),
        "text.adaptor.output.weight": (33, 64),
    }
    assert config_of_weights(odd, IdentityConfig()) == IdentityConfig()


def test_every_setting_has_a_help_and_can_be_written_on_a_command_line():
    for field in fields(IdentityConfig):
        assert field.metadata["help"]
        assert parse_setting(field.name, str(field.default)) == field.default
    assert parse_setting("adaptor_bias", "yes") is True and parse_setting("lora_image_blocks", "last:2") == "last:2"
    for name, text in {
        "visual_prompts": "five",
        "adaptor_bias": "maybe",
        "token_norm": "x",
        "lora_text_blocks": "",
    }.items():
        with pytest.raises(IdClipError, match=f"identity_cfg: {name} must be"):
            parse_setting(name, text)
    with pytest.raises(IdClipError, match="no key 'prompts'"):
        parse_setting("prompts", "5")


def test_override_checks_like_a_config():
    base = IdentityConfig(adaptor_layers=2)
    assert base.override({"visual_prompts": 5}) == IdentityConfig(adaptor_layers=2, visual_prompts=5)
    assert base.override({}) == base
    for changes in ({"prompts": 5}, {"adaptor_layers": 3}):
        with pytest.raises(IdClipError, match=next(iter(changes))):
            base.override(changes)


def test_what_changes_image_features():
    assert not IdentityConfig(text_prompts=5, lora_text_blocks="all").changes_image_features
    assert IdentityConfig(visual_prompts=1).changes_image_features
    assert IdentityConfig(lora_image_blocks="0").changes_image_features


def test_choices_of_blocks():
    for text, expected in {"none": [], "all": [0, 1, 2, 3], "last:2": [2, 3], "0, 2-3": [0, 2, 3], "3": [3]}.items():
        assert chosen_blocks("lora_text_blocks", text, 4) == expected
        assert chosen_blocks("lora_text_blocks", blocks_text(expected), 4) == expected
    assert blocks_text([7, 5, 6, 0]) == "0,5-7"
    for text in ("last:5", "4", "1-4"):
        with pytest.raises(IdClipError, match="this tower has 4 blocks, 0 to 3"):
            chosen_blocks("lora_text_blocks", text, 4)
