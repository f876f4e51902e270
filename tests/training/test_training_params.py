import math

import pytest

from open_clip_idplugin.errors import IdClipError
from training_patches import params, presets
from training_patches.__main__ import main
from training_patches.params import IdentityOptions

pytestmark = pytest.mark.host


def parse(*arguments):
    from open_clip_train.params import parse_args

    return params.parse_args(arguments, parse_args)


def test_every_flag_reaches_its_side():
    args, options = parse(
        "--model", "ViT-B-32", "--lr", "1e-3", "--id-caption", "in_place", "--id-val-data", "v.tar", "--id-save-best",
        "--wd", "0.01", "--id-temperature", "0.07",
    )  # fmt: skip
    assert (args.model, args.lr, args.wd) == ("ViT-B-32", 1e-3, 0.01)
    assert options == IdentityOptions(caption="in_place", temperature="0.07", val_data="v.tar", save_best="t2i_sum")
    assert args.id_caption == "in_place"  # so that the host writes it into params.txt
    assert math.isclose(math.exp(options.frozen_log_scale), 1 / 0.07)
    assert options.changed_flags() == ["--id-caption", "--id-temperature", "--id-val-data", "--id-save-best"]


def test_without_our_flags_nothing_changes():
    from open_clip_train.params import parse_args

    arguments = ["--model", "RN50", "--batch-size", "7"]
    args, options = parse(*arguments)
    host = vars(parse_args(arguments))
    assert {name: value for name, value in vars(args).items() if name in host} == host
    assert not options.changed_flags() and options.frozen_log_scale is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--id-caption", "somewhere"], "--id-caption is 'somewhere'"),
        (["--id-face-dropout", "2"], "--id-face-dropout is 2.0"),
        (["--id-face-noise", "-1"], "--id-face-noise is -1.0"),
        (["--id-temperature", "hot"], "--id-temperature is 'hot'"),
        (["--id-temperature", "0"], "--id-temperature is '0'"),
        (["--id-temperature", "nan"], "--id-temperature is 'nan'"),
        (["--id-val-configuration", "conf9"], "--id-val-configuration is 'conf9'"),
        (["--id-val-stride", "0"], "--id-val-stride is 0"),
        (["--id-setup", "entities"], "--id-setup is 'entities'; there is no setup 'entities'"),
        (["--id-setup", "with_entities,"], "there is no setup ''"),
        (["--id-setup", "with_entities=1,with_entities=2"], "the setup with_entities comes twice"),
        (["--id-setup", "with_entities=0"], "the weight of with_entities must be a number above 0, not '0'"),
        (["--id-setup", "only_entities=x"], "not 'x'"),
        (["--id-setup", "only_entities=inf"], "not 'inf'"),
        (
            ["--id-entity-loss", "bce"],
            "--id-entity-loss has a meaning only together with --id-setup with only_entities",
        ),
        (["--id-setup", "only_entities", "--id-entity-loss", "mse"], "--id-entity-loss is 'mse'"),
        (["--id-setup", "coco_original", "--id-face-noise", "1"], "together with an --id-setup that shows faces"),
        (["--id-setup", "coco_original", "--id-face-dropout", "0.1"], "together with --id-setup with with_entities"),
        (["--id-false-negatives", "drop"], "--id-false-negatives is 'drop'"),
        (["--id-batch-groups", "person"], "--id-batch-groups is 'person'"),
        (["--id-group-size", "3"], "--id-group-size has a meaning only together with --id-batch-groups"),
        (["--id-batch-groups", "scene", "--id-group-size", "1"], "--id-group-size is 1"),
        (["--id-batch-groups", "scene", "--id-group-share", "0"], "--id-group-share is 0.0"),
        (["--id-batch-groups", "scene", "--id-group-buffer", "1"], "--id-group-buffer is 1"),
        (["--id-lr-image", "0"], "--id-lr-image is 0.0"),
        (["--id-lr-text", "-1"], "--id-lr-text is -1.0"),
        (["--id-cache-dtype", "float32"], "--id-cache-dtype has a meaning only together with --id-cache-images"),
        (["--id-cache-images", "c", "--id-cache-dtype", "int8"], "--id-cache-dtype is 'int8'"),
        (["--id-save-best"], "--id-val-data"),
        (
            ["--id-preset", "papers"],
            "--id-preset is 'papers'; it must be one of paper, scenes, unseen-people, none",
        ),
        (["--id-save-best", "--id-val-data", "v.tar", "--logs", "none"], "--logs"),
    ],
)
def test_a_value_that_cannot_be_meant_is_one_sentence_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0]
    with pytest.raises(IdClipError):
        parse(*arguments)


def test_a_flag_that_neither_side_knows_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--id-captoin", "fixed")
    assert stopped.value.code == 2 and "--id-captoin" in capsys.readouterr().err


def test_help_shows_the_host_s_flags_and_ours(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--", "--help"])  # as behind torchrun's own flags
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--grad-checkpointing" in text and "--id-caption" in text and "(default: multi)" in text


def test_setups_have_weights_in_their_order():
    _, options = parse("--id-setup", "with_entities, only_entities=0.1,coco_original=0.5")
    assert list(options.setups.items()) == [("with_entities", 1.0), ("only_entities", 0.1), ("coco_original", 0.5)]
    assert options.labelled and not IdentityOptions().labelled and not IdentityOptions(setup="coco_original").labelled
    assert IdentityOptions(false_negatives="mask").labelled


IDCLIP = ("--model", "IdCLIP-ViT-B-32")


def test_a_preset_sets_flags_of_both_sides_and_given_flags_win():
    args, options = parse(*IDCLIP, "--id-preset", "paper", "--lr", "1e-3", "--id-caption", "multi")
    assert (args.lr, args.wd, args.batch_size, args.lr_scheduler, args.beta2) == (1e-3, 0.01, 32, "const", 0.999)
    assert args.lock_image and args.lock_text and args.id_preset == "paper"
    assert (options.caption, options.temperature, options.model) == ("multi", "0.07", {"adaptor_layers": 1})
    plain, _ = parse(*IDCLIP, "--lr", "1e-3")
    assert not plain.lock_image and plain.id_preset is None


def test_a_tower_with_a_learning_rate_is_not_locked_by_a_preset():
    args, options = parse(*IDCLIP, "--id-preset=paper", "--id-lr-text=1e-6")
    assert args.lock_image and not args.lock_text and options.lr_text == 1e-6


def test_a_part_of_a_preset_goes_with_the_flag_it_belongs_to():
    args, options = parse(*IDCLIP, "--id-preset", "unseen-people")
    assert (args.lr, options.lr_image, options.lr_text) == (5e-5, 1.5e-5, 5e-6) and options.face_noise == 1
    assert (options.batch_groups, options.group_size) == ("scene", 5) and not args.lock_image and not args.lock_text
    args, options = parse(*IDCLIP, "--id-preset", "unseen-people", "--lock-image", "--id-batch-groups", "none")
    assert args.lock_image and options.lr_image is None and options.batch_groups == "none" and options.group_size == 4
    args, options = parse(*IDCLIP, "--id-preset", "unseen-people", "--lock-text")
    assert args.lock_text and options.lr_text is None and options.lr_image == 1.5e-5
    _, options = parse(*IDCLIP, "--id-preset", "unseen-people", "--id-setup", "coco_original")
    assert options.face_noise == 0 and list(options.setups) == ["coco_original"]
    args, _ = parse(*IDCLIP, "--id-preset", "scenes")
    assert args.lock_image and args.lock_text


@pytest.mark.parametrize("spelled", [["--lr", "1e-3"], ["--lr=1e-3"], ["--lr", "1", "--lr", "1e-3"]])
def test_rates_of_towers_in_a_preset_are_shares_of_the_learning_rate(spelled):
    args, options = parse(*IDCLIP, "--id-preset", "unseen-people", *spelled)
    assert (args.lr, options.lr_image, options.lr_text) == (1e-3, 3e-4, 1e-4)
    _, options = parse(*IDCLIP, "--id-preset", "unseen-people", *spelled, "--id-lr-text", "7e-5")
    assert (options.lr_image, options.lr_text) == (3e-4, 7e-5)


def test_a_learning_rate_that_is_no_number_is_refused_by_the_host_s_own_parser(capsys):
    with pytest.raises(SystemExit):
        parse(*IDCLIP, "--id-preset", "unseen-people", "--lr", "fast")
    assert "argument --lr: invalid float value: 'fast'" in capsys.readouterr().err


def test_the_default_preset_is_for_idclip_models_that_train_on_shards_and_name_none():
    shards = ("--train-data", "a/{00..09}.tar")
    args, options = parse(*IDCLIP, *shards)
    assert args.id_preset == presets.DEFAULT and options == parse(*IDCLIP, *shards, "--id-preset", presets.DEFAULT)[1]
    assert parse(*IDCLIP, *shards, "--dataset-type", "webdataset")[1].preset == presets.DEFAULT
    assert parse(*IDCLIP, *shards, "--id-preset", "none")[1].changed_flags() == []
    for other in ((), ("--train-data", "a.csv"), (*shards, "--dataset-type", "csv")):
        assert parse(*IDCLIP, *other)[1].changed_flags() == []
    assert parse("--model", "ViT-B-32", *shards)[1].changed_flags() == []


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_understood_and_is_a_recipe(name):
    args, options = parse(*IDCLIP, "--id-preset", name)
    assert args.lr and options.changed_flags()[0] == "--id-preset"
