"""The training command with broken files and wrong values: one sentence, as the last line on stderr."""

import pytest
from test_training_run import logging_as_before, train, world  # noqa: F401

pytestmark = pytest.mark.host

FILES = ("--train-data", "--pretrained", "--resume", "--id-val-data", "--id-cache-images", "--logs", "--aug-cfg")
BROKEN = ("missing", "garbage", "folder")


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def ended(world, tmp_path, capsys):  # noqa: F811
    """A function that trains with these words, and asserts on its end: 0, one sentence, or 1 where the host said why."""

    def run(*words):
        try:
            code = train(world, "run", *words, logs=tmp_path / "logs")
        except SystemExit as end:  # of argparse, which has a sentence of its own
            code = end.code
        said = capsys.readouterr().err.splitlines()
        assert code in (0, 1) or (
            code == 2 and (said[-1].startswith("python -m training_patches: ") or ": error: " in said[-1])
        )

    return run


@pytest.mark.parametrize("flag", FILES)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_sentence(ended, broken, flag, kind):
    locked = ("--lock-image", "--lock-text") if flag == "--id-cache-images" else ()
    ended(flag, str(broken / kind), *locked)


@pytest.mark.parametrize(
    "words",
    [
        ("--batch-size", "0"),
        ("--batch-size", "-1"),
        ("--epochs", "-1"),
        ("--accum-freq", "0"),
        ("--workers", "-1"),
        ("--seed", "-1"),
        ("--lr", "nan"),
        ("--warmup", "-1"),
        ("--save-frequency", "-1"),
        ("--device", "nonsense"),
        ("--model", "nonsense"),
        ("--opt", "nonsense"),
        ("--lr-scheduler", "nonsense"),
        ("--force-image-size", "0"),
        ("--image-mean", "0.5", "0.5"),
        ("--report-to", "nonsense"),
        ("--grad-clip-norm", "-1"),
        ("--id-group-size", "x"),
    ],
    ids="".join,
)
def test_a_wrong_value_is_one_sentence(ended, words):
    ended(*words)
