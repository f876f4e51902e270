import math

import pytest

from open_clip_idplugin.errors import IdClipError
from training_patches import params
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
    assert options == IdentityOptions("in_place", 0.0, "0.07", "v.tar", save_best="t2i_sum")
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
        (["--id-temperature", "hot"], "--id-temperature is 'hot'"),
        (["--id-temperature", "0"], "--id-temperature is '0'"),
        (["--id-temperature", "nan"], "--id-temperature is 'nan'"),
        (["--id-val-configuration", "conf9"], "--id-val-configuration is 'conf9'"),
        (["--id-val-stride", "0"], "--id-val-stride is 0"),
        (["--id-save-best"], "--id-val-data"),
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
