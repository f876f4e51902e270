"""IdentityConfig: JSON in, checked values out."""

import pytest

from open_clip_idplugin.config import IdentityConfig
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
