"""The training command itself, in this process: open_clip_train's main with our rows, on tiny shards."""

import json
import logging
import math
import shutil

import open_clip
import open_clip_train.main
import pytest
import torch
from training_fixtures import MODEL, PLAIN_MODEL, add_models, make_sample, small_world, write_shards

from open_clip_idplugin import host_patches
from open_clip_idplugin.checkpoints import load_model
from training_patches.__main__ import main
from training_patches.host_rows import TrainingRun, rows

pytestmark = pytest.mark.host

PAPER = ("--lock-image", "--lock-text")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    add_models(folder)
    write_shards(folder / "train", small_world(), shards=2)
    write_shards(folder / "val", small_world(first_person=50, people=3, scenes=4), shards=1)
    return folder


@pytest.fixture(autouse=True, scope="module")
def logging_as_before():
    """The host's setup_logging adds handlers to the root logger and sets the level of every logger there is."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    levels = [logger.level for logger in loggers]
    handlers = list(logging.root.handlers)
    yield
    for handler in set(logging.root.handlers) - set(handlers):
        logging.root.removeHandler(handler)
        handler.close()
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)


def train(world, name, *arguments, model=MODEL, epochs=1, logs=None):
    command = [
        "--model", model, "--train-data", f"{world}/train/{{00000..00001}}.tar", "--dataset-type", "webdataset",
        "--device", "cpu", "--precision", "fp32", "--workers", "0", "--batch-size", "8", "--epochs", str(epochs),
        "--lr", "0.01", "--warmup", "1", "--logs", str(logs or world / "logs"), "--name", name,
        "--log-every-n-steps", "1", *arguments,
    ]  # fmt: skip
    return main(command)


def checkpoint(world, name, epoch=1, file=None):
    path = world / "logs" / name / (file or f"checkpoints/epoch_{epoch}.pt")
    return torch.load(path, weights_only=True)


def weights(world, name, **which):
    return checkpoint(world, name, **which)["state_dict"]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def results(world, name):
    lines = (world / "logs" / name / "checkpoints" / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def paper_run(world):
    """Two epochs of the paper's regime, validated."""
    validation = ("--id-val-data", str(world / "val" / "00000.tar"), "--id-save-best", "t2i_R@1")
    arguments = (*PAPER, *validation, "--report-to", "tensorboard", "--accum-freq", "2", "--id-caption", "in_place")
    assert train(world, "paper", *arguments, epochs=2) == 0
    return arguments


def test_the_paper_s_regime_trains_adaptor_prompts_and_scale_only(world, paper_run):
    first, second = weights(world, "paper", epoch=1), weights(world, "paper", epoch=2)
    assert changed(first, second) == {
        "text.adaptor.hidden.0.weight", "text.adaptor.output.weight", "visual.prompts.tokens", "logit_scale",
    }  # fmt: skip
    assert len(checkpoint(world, "paper")["optimizer"]["state"]) == 4


def test_validation_is_logged_by_the_host_and_the_best_is_kept(world, paper_run):
    lines = results(world, "paper")
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(
        0 <= line["t2i_R@1"] <= line["t2i_R@50"] == 1 and "entity_R@1" in line and "mAP@10" in line for line in lines
    )
    best = checkpoint(world, "paper", file="checkpoints/best.pt")
    values = [line["t2i_R@1"] for line in lines]
    assert best["value"] == max(values) and best["epoch"] == 1 + values.index(max(values))
    assert not changed(best["state_dict"], weights(world, "paper", epoch=best["epoch"]))
    assert "id_caption: in_place" in (world / "logs" / "paper" / "params.txt").read_text()
    assert list((world / "logs" / "paper" / "tensorboard").iterdir())
    loaded = load_model(MODEL, str(world / "logs" / "paper" / "checkpoints" / "best.pt"))
    assert not changed(best["state_dict"], loaded.model.state_dict())


def test_validation_is_the_evaluation_of_the_command_line(world, paper_run):
    from open_clip_idplugin.evaluation.protocols import Settings
    from webdataset_tools.evaluate import evaluate_shards

    loaded = load_model(MODEL, str(world / "logs" / "paper" / "checkpoints" / "epoch_2.pt"))
    settings = Settings(("conf1",), templates="0", image_to_text=False)
    theirs = evaluate_shards(str(world / "val" / "00000.tar"), loaded, settings).results.metrics["conf1"]
    ours = results(world, "paper")[1]
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-6)


def test_a_resumed_run_ends_as_an_unbroken_one(world, paper_run):
    start = world / "logs" / "paper" / "checkpoints" / "epoch_1.pt"
    assert train(world, "resumed", *paper_run, "--resume", str(start), epochs=2) == 0
    for name, value in weights(world, "resumed", epoch=2).items():
        torch.testing.assert_close(value, weights(world, "paper", epoch=2)[name], msg=name)


def test_resume_latest_goes_on_and_remembers_the_best(world, paper_run):
    folder = world / "logs" / "paper"
    best = checkpoint(world, "paper", file="checkpoints/best.pt")
    best["value"] = 2.0  # nothing can exceed it
    torch.save(best, folder / "checkpoints" / "best.pt")
    assert train(world, "paper", *paper_run, epochs=2) == 1  # the host does not overwrite an experiment
    assert train(world, "paper", *paper_run, "--resume", "latest", epochs=3) == 0
    assert [line["epoch"] for line in results(world, "paper")] == [1, 2, 3]
    assert checkpoint(world, "paper", file="checkpoints/best.pt")["value"] == 2.0


def test_resume_latest_does_not_go_on_from_the_best_weights(world, paper_run):
    folder = world / "logs" / "alone" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(world / "logs" / "paper" / "checkpoints" / "best.pt", folder)
    assert train(world, "alone", *PAPER, "--resume", "latest") == 0
    assert checkpoint(world, "alone")["epoch"] == 1


def test_the_temperature_can_be_frozen(world):
    assert train(world, "fixed", *PAPER, "--id-temperature", "0.07", "--id-face-dropout", "0.5") == 0
    assert weights(world, "fixed")["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))
    assert train(world, "kept", *PAPER, "--id-temperature", "checkpoint") == 0
    assert weights(world, "kept")["logit_scale"].item() == pytest.approx(
        math.log(1 / 0.07)
    )  # open_clip's initial value
    assert len(checkpoint(world, "kept")["optimizer"]["state"]) == 3


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16", "pure_bf16"])
def test_full_training_in_half_precision_with_checkpointing(world, precision):
    name = f"full-{precision}"
    validation = ("--id-val-data", str(world / "val"), "--id-val-stride", "2", "--id-val-templates", "0,6")
    assert train(world, name, *validation, "--grad-checkpointing", "--precision", precision) == 0
    assert results(world, name)[0]["epoch"] == 1
    trained = weights(world, name)
    assert all(torch.isfinite(value).all() for value in trained.values())
    torch.manual_seed(0)  # as the host does before it creates the model
    fresh = open_clip.create_model(MODEL, precision=precision).state_dict()
    assert changed(fresh, trained) >= {
        "visual.conv1.weight",
        "text.token_embedding.weight",
        "text.adaptor.output.weight",
    }


def test_the_host_s_own_validation_still_runs(world):
    arguments = ("--val-data", str(world / "val" / "00000.tar"), "--val-num-samples", "12")
    assert train(world, "both", *arguments, "--id-val-data", str(world / "val")) == 0
    (line,) = results(world, "both")
    assert "clip_val_loss" in line and "t2i_sum" in line and line["num_samples"] == 12


def test_evaluation_alone_needs_no_training_data(world, paper_run):
    start = world / "logs" / "paper" / "checkpoints" / "epoch_2.pt"
    command = ["--model", MODEL, "--device", "cpu", "--precision", "fp32", "--workers", "0", "--resume", str(start)]
    command += ["--id-val-data", str(world / "val"), "--logs", str(world / "logs"), "--name", "evaluated"]
    assert main(command) == 0
    ours, theirs = results(world, "evaluated")[0], results(world, "paper")[1]
    assert ours["t2i_sum"] == pytest.approx(theirs["t2i_sum"])


def test_a_folder_of_shards_and_loader_processes(world):
    assert train(world, "folder", "--train-data", str(world / "train"), "--workers", "2", "--batch-size", "4") == 0
    assert changed(weights(world, "folder"), weights(world, "fixed"))


def test_a_plain_model_trains_as_with_the_host(world):
    assert train(world, "plain", model=PLAIN_MODEL) == 0
    synthetic = ("--dataset-type", "synthetic", "--train-num-samples", "8")
    assert train(world, "plain-synthetic", *synthetic, model=PLAIN_MODEL) == 0
    command = [*_synthetic_command(world), "--name", "host-synthetic"]
    open_clip_train.main.main(command)
    assert not changed(weights(world, "plain-synthetic"), weights(world, "host-synthetic"))


def _synthetic_command(world):
    return [
        "--model", PLAIN_MODEL, "--dataset-type", "synthetic", "--train-num-samples", "8", "--device", "cpu",
        "--precision", "fp32", "--workers", "0", "--batch-size", "8", "--epochs", "1", "--lr", "0.01", "--warmup", "1", "--logs",
        str(world / "logs"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", PLAIN_MODEL, "--id-caption", "fixed"), "--id-caption is for models that take faces"),
        (("--workers", "3"), "2 training shards cannot feed 3 workers"),
        (("--train-data", "missing/00000.tar"), "there is no shard missing/00000.tar"),
        (("--id-val-data", "missing.tar"), "there is no shard missing.tar"),
        (("--id-val-data", "{world}/val", "--id-val-templates", "11"), "11"),
        (("--id-val-data", "{world}/val", "--id-save-best", "accuracy"), "--id-save-best is 'accuracy'"),
    ],
)
def test_what_cannot_train_is_one_sentence_and_leaves_the_host_as_it_was(world, tmp_path, capsys, arguments, words):
    host = {row.targets[0]: host_patches._original(row.targets[0]) for row in rows(TrainingRun())}
    arguments = [argument.format(world=world) for argument in arguments]
    assert train(world, "refused", *arguments, logs=tmp_path) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("python -m training_patches: ") and words in line
    assert all(host_patches._original(target) is original for target, original in host.items())
    assert not any(host_patches.is_applied(row) for row in rows(TrainingRun()) if row.replacement is not None)


def test_bad_data_in_a_worker_is_one_sentence(world, tmp_path, capsys):
    write_shards(tmp_path, [make_sample(image, 1) for image in range(2)], shards=1)
    write_shards(tmp_path / "bad", [make_sample(9, 1, face_dim=5)], shards=1)
    (tmp_path / "bad" / "00000.tar").rename(tmp_path / "00001.tar")
    shards = ("--train-data", f"{tmp_path}/{{00000..00001}}.tar", "--train-num-samples", "8", "--workers", "2")
    assert train(world, "worker", *shards, logs=tmp_path) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("python -m training_patches: a data worker found no usable sample")
