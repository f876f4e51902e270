"""The training command itself, in this process: open_clip_train's main with our rows, on tiny shards."""

import json
import math
import shutil
from dataclasses import replace

import open_clip
import open_clip_train.main
import pytest
import torch
from host_abilities import needs_host_reader
from training_fixtures import (
    MODEL,
    PLAIN_MODEL,
    logging_as_before,  # noqa: F401 - around all tests of this file
    make_sample,
    small_world,
    variants,
    write_shards,
    write_world,
)
from weight_file_fixtures import openai_archive, pickle_before

from open_clip_idplugin import add_identity_model
from open_clip_idplugin.checkpoints.export import export_folder
from open_clip_idplugin.checkpoints.loading import export_delta, load_model
from open_clip_idplugin.checkpoints.training_facts import facts_beside
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.weight_keys import IMAGE_TOWER, OWN_PARTS, TEXT_TOWER, part_of
from training_patches.__main__ import main
from training_patches.host_rows import offered_loop, rows
from training_patches.presets import DEFAULT
from training_patches.training_run import TrainingRun

PAPER = ("--lock-image", "--lock-text")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture
def plain_weights_of(world, tmp_path):
    """A function: name of a plain model -> a file with random weights of it."""

    def make(name):
        torch.manual_seed(1)
        torch.save(open_clip.create_model(name).state_dict(), tmp_path / "plain.pt")
        return tmp_path / "plain.pt"

    return make


def train(world, name, *arguments, model=MODEL, epochs=1, logs=None):
    command = [
        "--model", model, "--train-data", f"{world}/train/{{00000..00001}}.tar", "--dataset-type", "webdataset",
        "--device", "cpu", "--precision", "fp32", "--workers", "0", "--batch-size", "8", "--epochs", str(epochs),
        "--lr", "0.01", "--warmup", "1", "--logs", str(logs or world / "logs"), "--name", name,
        "--log-every-n-steps", "1", "--id-preset", "none", *arguments,
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


@pytest.mark.host
def test_the_paper_s_regime_trains_adaptor_prompts_and_scale_only(world, paper_run):
    first, second = weights(world, "paper", epoch=1), weights(world, "paper", epoch=2)
    assert changed(first, second) == {
        "text.adaptor.hidden.0.weight", "text.adaptor.output.weight", "visual.prompts.tokens", "logit_scale",
    }  # fmt: skip
    assert len(checkpoint(world, "paper")["optimizer"]["state"]) == 4


@pytest.mark.host
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
    from webdataset_tools.shard_evaluation import evaluate_shards

    loaded = load_model(MODEL, str(world / "logs" / "paper" / "checkpoints" / "epoch_2.pt"))
    settings = Settings(("conf1",), templates="0", image_to_text=False)
    theirs = evaluate_shards(str(world / "val" / "00000.tar"), loaded, settings).results.metrics["conf1"]
    ours = results(world, "paper")[1]
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-6)


@pytest.mark.host
def test_a_resumed_run_ends_as_an_unbroken_one(world, paper_run):
    start = world / "logs" / "paper" / "checkpoints" / "epoch_1.pt"
    assert train(world, "resumed", *paper_run, "--resume", str(start), epochs=2) == 0
    for name, value in weights(world, "resumed", epoch=2).items():
        torch.testing.assert_close(value, weights(world, "paper", epoch=2)[name], msg=name)


@pytest.mark.host
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


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (type(self.mark).touch, (self.mark,))


@pytest.mark.host
@pytest.mark.parametrize("flag", ["--resume", "--pretrained"])
def test_a_foreign_or_tampered_checkpoint_is_one_sentence_and_not_unpickled(world, paper_run, tmp_path, capsys, flag):
    mark, harmful, text, other = (tmp_path / name for name in ("mark", "harmful.pt", "text.pt", "other.pt"))
    torch.save({"epoch": 1, "state_dict": {"x": torch.zeros(1)}, "optimizer": Harmful(mark)}, harmful)
    text.write_text("no weights")
    torch.save({"state_dict": open_clip.create_model("IdCLIP-ViT-miniature").state_dict()}, other)
    torn = tmp_path / "epoch_1.pt"
    whole = (world / "logs" / "paper" / "checkpoints" / "epoch_1.pt").read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    whole_archive = world / "logs" / "paper" / "checkpoints" / "epoch_1.pt"
    for path, words in (
        (harmful, "is not a checkpoint of tensors"),
        (text, "is not a checkpoint of tensors"),
        (torn, "is not a checkpoint of tensors"),
        (openai_archive({}, tmp_path / "script.pt", evil=str(mark)), "is a TorchScript archive"),
        (pickle_before(whole_archive, mark, tmp_path / "polyglot.pt"), "begins as one file and ends as a zip file"),
    ):
        assert train(world, f"foreign-{path.stem}", *PAPER, flag, str(path), logs=tmp_path / "logs") == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert str(path) in line and words in line
    torch.save(torch.load(other, weights_only=True) | {"epoch": 1, "optimizer": {}}, other)
    assert train(world, "foreign", *PAPER, flag, str(other), logs=tmp_path / "logs") == 2
    assert f"{other} does not fit the model {MODEL}: " in capsys.readouterr().err.splitlines()[-1]
    assert not mark.exists()


def test_training_does_not_go_on_from_the_best_weights_or_a_file_of_that_name(world, paper_run, tmp_path, capsys):
    best = world / "logs" / "paper" / "checkpoints" / "best.pt"
    assert train(world, "best", *PAPER, "--resume", str(best), logs=tmp_path) == 2
    assert "holds no state of the optimizer" in capsys.readouterr().err
    assert train(world, "on", *PAPER, "--pretrained", str(best), logs=tmp_path) == 0
    torch.save({"something": 1}, tmp_path / "on" / "checkpoints" / "best.pt")
    flags = ("--resume", "latest", "--id-val-data", str(world / "val"), "--id-save-best")
    assert train(world, "on", *PAPER, *flags, epochs=2, logs=tmp_path) == 2
    assert "best.pt is not a file of the best weights so far" in capsys.readouterr().err


def test_a_run_notes_its_base_face_model_and_recipe(world, tmp_path, capsys):
    for number, face_model in enumerate(("insightface:a/r50", "insightface:b/r50")):
        samples = [with_face_model(sample, face_model) for sample in small_world()]
        write_shards(tmp_path / f"train{number}", samples, shards=2)
    base = tmp_path / "plain.pt"
    torch.save(open_clip.create_model(PLAIN_MODEL).state_dict(), base)
    flags = (*PAPER, "--id-preset", "paper", "--batch-size", "8", "--pretrained", str(base))
    assert train(world, "noted", *flags, "--train-data", str(tmp_path / "train0"), logs=tmp_path) == 0
    trained = tmp_path / "noted" / "checkpoints" / "epoch_1.pt"
    facts = facts_beside(trained)
    assert (facts.model, facts.base, facts.face_model) == (MODEL, str(base), "insightface:a/r50")
    assert facts.recipe["--id-temperature"] == "0.07" and facts.recipe["--lock-image"] is True
    assert facts.recipe["--id-preset"] == "paper" and facts.recipe["--lr"] == 0.01
    assert not [name for name in facts.recipe if "data" in name]
    assert load_model(MODEL, str(trained)).face_model == "insightface:a/r50"
    for flag in ("--resume", "--pretrained"):
        shards = ("--train-data", str(tmp_path / "train1"), flag, str(trained))
        assert train(world, f"on{flag}", *flags, *shards, logs=tmp_path, epochs=2) == 2
        assert "was trained with embeddings of the face model 'insightface:a/r50'" in capsys.readouterr().err
    both = ("--train-data", f"{tmp_path}/train0/00000.tar::{tmp_path}/train1/00000.tar", "--train-num-samples", "8")
    assert train(world, "both-models", *PAPER, *both, logs=tmp_path) == 2
    assert "come from different models" in capsys.readouterr().err


@pytest.mark.host
def test_training_goes_on_from_a_delta_here_or_of_a_hub(world, plain_weights_of, tmp_path, monkeypatch, capsys):
    base = plain_weights_of(PLAIN_MODEL)
    samples = [with_face_model(sample, "insightface:a/r50") for sample in small_world()]
    write_shards(tmp_path / "train", samples, shards=2)
    flags = (*PAPER, "--train-data", str(tmp_path / "train"))
    assert train(world, "first", *flags, "--pretrained", str(base), "--id-text-prompts", "2", logs=tmp_path) == 0
    trained = tmp_path / "first" / "checkpoints" / "epoch_1.pt"
    commit, cached = "a" * 40, tmp_path / "cache" / "models--me--adaptor"
    delta = cached / "snapshots" / commit / "idclip_delta.safetensors"  # as huggingface_hub lays its cache out
    export_delta(MODEL, trained, str(base), delta)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    expected = torch.load(trained, weights_only=True)["state_dict"]
    still = ("--lr", "0", "--wd", "0", "--id-lora-text-blocks", "all")
    for name, given in (("here", delta), ("hub", "hf-hub:me/adaptor")):
        assert train(world, name, *flags, *still, "--pretrained", f"{base}+{given}", logs=tmp_path) == 0
        later = tmp_path / name / "checkpoints" / "epoch_1.pt"
        state = torch.load(later, weights_only=True)["state_dict"]
        assert all(torch.equal(state[key], value) for key, value in expected.items() if key != "logit_scale")
        added = set(state) - set(expected)
        assert added and all(".lora." in key for key in added)  # of the flags, afresh
        assert (facts_beside(later).base, facts_beside(later).face_model) == (str(base), "insightface:a/r50")
        assert export_delta(MODEL, later, facts_beside(later).base, tmp_path / f"{name}.safetensors").face_model
    other = [with_face_model(sample, "insightface:b/r50") for sample in small_world()]
    write_shards(tmp_path / "other", other, shards=2)
    shards = ("--train-data", str(tmp_path / "other"), "--pretrained", f"{base}+hf-hub:me/adaptor")
    assert train(world, "others", *PAPER, *shards, logs=tmp_path) == 2
    assert "was trained with embeddings of the face model 'insightface:a/r50'" in capsys.readouterr().err
    assert train(world, "none", *PAPER, "--pretrained", "hf-hub:me/none", logs=tmp_path) == 2
    assert "hf-hub:me/none is not on this machine" in capsys.readouterr().err.strip().splitlines()[-1]
    wider = (*flags, "--id-tokens-per-identity", "2", "--pretrained", f"{base}+{delta}")
    assert train(world, "wider", *wider, logs=tmp_path) == 2
    assert "does not fit the model" in capsys.readouterr().err


def with_face_model(sample, face_model):
    return replace(sample, record=replace(sample.record, face_model=face_model))


@pytest.mark.host
@pytest.mark.parametrize(
    "flags",
    [
        (*PAPER, "--accum-freq", "2"),
        *variants(
            (
                "--precision",
                "amp_bf16",
                "--id-face-dropout",
                "0.9",
                "--id-text-prompts",
                "2",
                "--id-lora-image-blocks",
                "all",
            ),
            (
                *PAPER,
                "--id-setup",
                "with_entities=1,coco_original=0.5",
                "--id-false-negatives",
                "mask",
                "--precision",
                "bf16",
            ),
        ),
    ],
)
def test_training_compiles_both_towers_without_graph_breaks(world, tmp_path, monkeypatch, flags):
    compiled = []

    def whole_graph(model):  # the host names no backend; an eager one leaves out nothing but code generation
        compiled.append(model)
        return torch_compile(model, backend="eager", fullgraph=True)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", whole_graph)
    more = ("--torchcompile", "--id-val-data", str(world / "val"))
    assert train(world, "compiled", *flags, *more, epochs=2, logs=tmp_path) == 0
    assert len(compiled) == 1 + offered_loop().tasks  # of a task training and evaluation apart
    saved = torch.load(tmp_path / "compiled" / "checkpoints" / "epoch_1.pt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in saved.values()) and "text.adaptor.output.weight" in saved
    torch._dynamo.reset()


def test_the_temperature_can_be_frozen(world):
    assert train(world, "fixed", *PAPER, "--id-temperature", "0.07", "--id-face-dropout", "0.5") == 0
    assert weights(world, "fixed")["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))
    assert train(world, "kept", *PAPER, "--id-temperature", "checkpoint") == 0
    assert weights(world, "kept")["logit_scale"].item() == pytest.approx(
        math.log(1 / 0.07)
    )  # open_clip's initial value
    assert len(checkpoint(world, "kept")["optimizer"]["state"]) == 3


@pytest.mark.host
@pytest.mark.parametrize("precision", [*variants("bf16", "pure_bf16"), "amp_bf16"])
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


@pytest.mark.host
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


@pytest.mark.host
def test_the_default_recipe_trains_the_adaptor_and_the_towers_that_are_not_locked(world):
    everything = {"adaptor", IMAGE_TOWER, TEXT_TOWER}
    for more, parts in (((), everything), (("--lock-image",), everything - {IMAGE_TOWER})):
        name = "-".join(("default", *more))
        assert train(world, name, "--id-preset", DEFAULT, "--id-visual-prompts", "0", *more, epochs=2) == 0
        first, second = weights(world, name, epoch=1), weights(world, name, epoch=2)
        assert {part_of(key) for key in changed(first, second)} == parts
    assert facts_beside(world / "logs" / name / "checkpoints" / "epoch_2.pt").recipe["--id-preset"] == DEFAULT


def test_a_folder_of_shards_and_loader_processes(world, paper_run):
    assert train(world, "folder", "--train-data", str(world / "train"), "--workers", "2", "--batch-size", "4") == 0
    assert changed(weights(world, "folder"), weights(world, "paper"))


@pytest.mark.host
def test_a_plain_model_trains_as_with_the_host(world):
    needs_host_reader()
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


@pytest.mark.host
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", PLAIN_MODEL, "--id-caption", "fixed"), "--id-caption is for models that take faces"),
        (("--workers", "3"), "2 training shards cannot feed 3 workers"),
        (("--accum-freq", "4"), "an epoch of 3 batches has no step of --accum-freq 4 batches"),
        (("--accum-freq", "2"), "--warmup is 1, which is the number of steps of the run"),
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


MIX = "with_entities=1,only_entities=0.1,coco_original=0.5"


def log(world, name):
    return (world / "logs" / name / "out.log").read_text()


@pytest.mark.host
@pytest.mark.parametrize(
    "flags",
    [
        ("--id-setup", MIX, "--id-batch-groups", "scene", "--id-group-size", "3", "--accum-freq", "2"),
        *variants(
            ("--id-setup", MIX, "--id-false-negatives", "mask", "--precision", "amp_bf16"),
            ("--siglip", "--id-setup", MIX, "--id-entity-loss", "bce", "--id-false-negatives", "positive"),
        ),
    ],
)
def test_a_mix_of_setups_trains_and_its_terms_are_logged(world, flags):
    name = f"mix-{len(flags)}-{flags[0]}"
    assert train(world, name, *PAPER, *flags, epochs=2) == 0
    text = log(world, name)
    assert all(f"{setup}_loss: " in text for setup in ("With_entities", "Only_entities", "Coco_original"))
    assert all(torch.isfinite(value).all() for value in weights(world, name, epoch=2).values())
    assert "text.adaptor.output.weight" in changed(weights(world, name, epoch=1), weights(world, name, epoch=2))


@pytest.mark.host
@pytest.mark.parametrize(
    "flags",
    [
        ("--id-setup", "only_entities", "--id-batch-groups", "identity", "--precision", "amp"),
        *variants(
            ("--id-setup", "only_entities", "--id-entity-loss", "bce", "--siglip", "--precision", "amp_bfloat16"),
            ("--id-setup", "with_entities", "--id-false-negatives", "mask", "--id-caption", "fixed", "--local-loss"),
            ("--id-setup", "coco_original", "--id-false-negatives", "positive", "--gather-with-grad"),
            ("--id-setup", "coco_original", "--siglip", "--id-token-norm", "learned"),
        ),
    ],
)
def test_every_setup_trains_alone(world, tmp_path, flags):
    assert train(world, "alone", *PAPER, *flags, epochs=2, logs=tmp_path) == 0
    first, second = (
        torch.load(tmp_path / "alone" / "checkpoints" / f"epoch_{epoch}.pt", weights_only=True)["state_dict"]
        for epoch in (1, 2)
    )
    assert all(value.isfinite().all() for value in second.values())
    moved = changed(first, second)
    assert moved <= {name for name in first if "adaptor" in name or name.startswith(("visual.prompts", "logit"))}
    assert "visual.prompts.tokens" in moved
    assert "coco_original" in flags or "text.adaptor.output.weight" in moved


@pytest.mark.host
@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("IdCLIP-ViT-timm-tiny", ("--id-visual-prompts", "2", "--id-visual-prompts-deep", "--id-lora-image-blocks", "all")),
        ("IdCLIP-ViT-timm-tiny-sigmoid", ("--siglip", "--id-text-prompts", "2", "--id-lora-text-blocks", "last:1")),
        pytest.param("IdCLIP-RN-tiny", ("--id-text-prompts", "2", "--id-lora-text-blocks", "0", "--lock-image-freeze-bn-stats"),
                     marks=pytest.mark.slow),
        ("IdCLIP-ViT-CLIPA-training-test", ("--id-visual-prompts", "1", "--id-text-prompts", "2")),
    ],
)  # fmt: skip
def test_towers_of_every_kind_train(world, tiny_identity_models, clipa_model, tmp_path, model, flags):
    more = ("--id-face-dim", "16", "--id-tokens-per-identity", "2", "--id-val-data", str(world / "val"))
    assert train(world, "kind", *PAPER, *flags, *more, model=model, epochs=2, logs=tmp_path) == 0
    first, second = (
        torch.load(tmp_path / "kind" / "checkpoints" / f"epoch_{epoch}.pt", weights_only=True)["state_dict"]
        for epoch in (1, 2)
    )
    moved = changed(first, second)
    assert {part_of(name) for name in moved} <= {*OWN_PARTS, "temperature"}
    assert {"adaptor", *(part for flag, part in PARTS.items() if flag in flags)} <= {part_of(name) for name in moved}


PARTS = {"--id-visual-prompts": "visual_prompts", "--id-text-prompts": "text_prompts",
         "--id-lora-image-blocks": "image_lora", "--id-lora-text-blocks": "text_lora"}  # fmt: skip


@pytest.fixture(scope="module")
def clipa_model(world):
    """CLIPA's towers at a tiny size, with a BERT tokenizer of few words; registered."""
    from transformers import BertTokenizer

    words = "[PAD] [UNK] [CLS] [SEP] [MASK] an image with person . , a man in scene words 0 1 2 3 4"
    (world / "vocab.txt").write_text("\n".join(words.split()))
    BertTokenizer(str(world / "vocab.txt")).save_pretrained(world / "bert")
    config = open_clip.get_model_config("IdCLIP-ViT-L-14-CLIPA-336") | {"embed_dim": 16}
    config["vision_cfg"] |= {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    config["text_cfg"] |= {
        "vocab_size": 30,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "hf_tokenizer_name": str(world / "bert"),
    }
    (world / "IdCLIP-ViT-CLIPA-training-test.json").write_text(json.dumps(config))
    add_identity_model(world / "IdCLIP-ViT-CLIPA-training-test.json")


@pytest.mark.parametrize(("locked", "rate", "trained"), [("text", "image", "visual."), ("image", "text", "text.")])
def test_one_tower_alone_is_fine_tuned(world, tmp_path, locked, rate, trained):
    flags = (f"--lock-{locked}", f"--id-lr-{rate}", "1e-4", "--id-visual-prompts", "0")
    assert train(world, "one", *flags, epochs=2, logs=tmp_path) == 0
    first, second = (
        torch.load(tmp_path / "one" / "checkpoints" / f"epoch_{epoch}.pt", weights_only=True)["state_dict"]
        for epoch in (1, 2)
    )
    moved = {name for name in changed(first, second) if part_of(name) not in (*OWN_PARTS, "temperature")}
    assert moved and all(name.startswith(trained) for name in moved)


def test_the_towers_have_learning_rates_of_their_own(world):
    rates = ("--id-lr-image", "1e-6", "--id-lr-text", "0.001")
    assert train(world, "rates", *rates, epochs=2) == 0
    groups = checkpoint(world, "rates", 2)["optimizer"]["param_groups"]
    highest = max(group["lr"] for group in groups)
    assert sorted({round(group["lr"] / highest, 6) for group in groups}) == [0.0001, 0.1, 1.0]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.2} and len(groups) == 6
    first, second = weights(world, "rates", epoch=1), weights(world, "rates", epoch=2)
    moved = {name: (first[name] - second[name]).abs().max().item() for name in first}
    assert 0 < moved["visual.conv1.weight"] < 1e-4 < moved["text.adaptor.output.weight"]
    assert moved["visual.conv1.weight"] < moved["text.token_embedding.weight"]
    start = str(world / "logs" / "rates" / "checkpoints" / "epoch_1.pt")
    assert train(world, "rates-resumed", *rates, "--resume", start, epochs=2) == 0
    assert checkpoint(world, "rates-resumed", 2)["optimizer"]["param_groups"] == groups


def test_model_options_are_flags(world):
    flags = (
        "--id-visual-prompts",
        "3",
        "--id-tokens-per-identity",
        "2",
        "--id-adaptor-layers",
        "2",
        "--id-adaptor-bias",
    )
    assert train(world, "options", *PAPER, *flags, "--id-val-data", str(world / "val")) == 0
    trained = weights(world, "options")
    assert trained["visual.prompts.tokens"].shape == (3, 32)
    assert trained["text.adaptor.output.weight"].shape[0] == 2 * 16
    assert "text.adaptor.hidden.1.weight" in trained and "text.adaptor.output.bias" in trained
    assert "id_adaptor_bias: True" in (world / "logs" / "options" / "params.txt").read_text()


@pytest.mark.host
def test_cached_image_features_train_as_pictures_do(world, tmp_path):
    flags = (*PAPER, "--id-visual-prompts", "0", "--id-setup", MIX, "--accum-freq", "2")
    assert train(world, "pictures", *flags, "--aug-cfg", "scale=(1.0,1.0)", epochs=2) == 0
    cache = ("--id-cache-images", str(tmp_path / "cache"), "--id-cache-dtype", "float32")
    assert train(world, "features", *flags, *cache, epochs=2) == 0
    for name, value in weights(world, "features", epoch=2).items():
        torch.testing.assert_close(value, weights(world, "pictures", epoch=2)[name], msg=name, rtol=1e-3, atol=1e-4)
    assert "0 of 2 shards are there" in log(world, "features") and "augmentations are off" in log(world, "features")
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    tars = list((tmp_path / "cache").glob("*.tar"))
    assert sorted(path.name for path in tars) == ["train-00000.tar", "train-00001.tar"]
    assert {path.stat().st_mode & 0o777 for path in tars} == {0o600}
    (tmp_path / "cache" / "train-00001.json").unlink()  # as if killed before it was done
    assert train(world, "features-again", *flags, *cache, epochs=2) == 0
    assert "1 of 2 shards are there" in log(world, "features-again")
    assert (tmp_path / "cache" / "train-00000.tar").stat().st_mtime_ns == files["train-00000.tar"]
    assert not changed(weights(world, "features-again", epoch=2), weights(world, "features", epoch=2))


@pytest.fixture(scope="module")
def cache(world):
    flags = (*PAPER, "--id-visual-prompts", "0", "--id-cache-images", str(world / "cache"))
    assert train(world, "cached", *flags) == 0
    return flags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seed", "1"), "were made with another image tower or preprocessing; name another folder"),
        (("--image-mean", "0.1", "0.2", "0.3"), "were made with another image tower or preprocessing"),
        (("--id-cache-dtype", "float32"), "were made with --id-cache-dtype float16"),
        (("--id-visual-prompts", "2"), "leave out visual prompts and LoRA in the image tower"),
        (("--lock-image-unlocked-groups", "1"), "add --lock-image (without unlocked groups)"),
        (("--dataset-type", "synthetic"), "--id-cache-images needs training shards"),
        (("--train-data", "https://host/00000.tar", "--train-num-samples", "8"), "reads shards from a disk"),
        (
            ("--dataset-resampled", "--train-data-upsampling-factors", "1", "--train-num-samples", "8"),
            "does not go together with --train-data-upsampling-factors",
        ),
    ],
)
def test_a_cache_of_something_else_is_refused(world, tmp_path, cache, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr("training_patches.training_run.check_training_shards", lambda *_: None)
    assert train(world, "refused", *cache, *arguments, logs=tmp_path) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_shard_that_has_changed_is_refused(world, tmp_path, cache, capsys):
    moved = tmp_path / "train"
    shutil.copytree(world / "train", moved)  # other times, same content: the same shards
    shards = ("--train-data", f"{moved}/{{00000..00001}}.tar")
    assert train(world, "moved", *cache, *shards, logs=tmp_path) == 0
    write_shards(moved, small_world(first_person=20), shards=2)
    assert train(world, "other", *cache, *shards, logs=tmp_path) == 2
    assert "were made with another content of" in capsys.readouterr().err
    (world / "cache" / "train-00001.json").write_text("{")
    assert train(world, "damaged", *cache, logs=tmp_path) == 2
    assert "train-00001.json is damaged" in capsys.readouterr().err
    (world / "cache" / "train-00001.json").unlink()


def test_pictures_that_cannot_be_cached_are_left_out_and_told(world, tmp_path):
    samples = small_world()
    write_shards(tmp_path / "train", samples, shards=1, damage={samples[0].key: {"jpg": b"no picture"}})
    flags = (*PAPER, "--id-visual-prompts", "0", "--id-cache-images", str(tmp_path / "cache"), "--workers", "1")
    assert train(world, "lossy", *flags, "--train-data", str(tmp_path / "train"), logs=tmp_path) == 0
    note = json.loads((tmp_path / "cache" / "train-00000.json").read_text())
    assert note["samples"] == 23 and "cannot be used" in note["skipped"][samples[0].key]
    assert "leave out 1 samples" in (tmp_path / "lossy" / "out.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lock-image", "--id-lr-image", "1e-6"), "--id-lr-image is for a tower whose own weights are trained"),
        (("--lock-text", "--id-lr-text", "1e-6"), "--id-lr-text is for a tower whose own weights are trained"),
        (("--id-lr-text", "1e-6", "--opt", "timm/lamb"), "work with --opt adamw and without --horovod only"),
        (("--id-visual-prompts", "many"), "--id-visual-prompts is 'many'"),
        (("--model", PLAIN_MODEL, "--id-text-prompts", "2"), "--id-text-prompts is for models that take faces"),
        (
            (*PAPER, "--resume", "{world}/logs/paper/checkpoints/epoch_1.pt", "--id-visual-prompts", "3"),
            "was trained with other model options",
        ),
        (
            ("--resume", "{world}/logs/paper/checkpoints/epoch_1.pt", "--id-lr-text", "1e-4"),
            "was trained with other parts frozen or other learning-rate flags",
        ),
        (
            ("--pretrained", "{world}/logs/paper/checkpoints/epoch_1.pt", "--id-visual-prompts", "3"),
            "--id-visual-prompts is 3, but the weights",
        ),
    ],
)
def test_flags_that_do_not_fit_the_model_are_refused(world, tmp_path, paper_run, capsys, arguments, words):
    arguments = [argument.format(world=world) for argument in arguments]
    assert train(world, "unfit", *arguments, logs=tmp_path) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]


VIEW = (
    "--image-mean", "0.2", "0.4", "0.6", "--image-std", "0.5", "0.6", "0.7", "--image-interpolation", "bilinear",
    "--image-resize-mode", "longest", "--force-quick-gelu", "--force-image-size", "48",
)  # fmt: skip


def evaluated(world, checkpoint, model=MODEL):
    from open_clip_idplugin.evaluation.protocols import Settings
    from webdataset_tools.shard_evaluation import evaluate_shards

    settings = Settings(("conf1",), templates="0", image_to_text=False)
    loaded = load_model(model, None if checkpoint is None else str(checkpoint))
    return evaluate_shards(str(world / "val" / "00000.tar"), loaded, settings).results.metrics["conf1"]


def test_a_checkpoint_reads_pictures_as_its_training_did_wherever_it_is_loaded(world, plain_weights_of, tmp_path):
    base, logs = plain_weights_of(PLAIN_MODEL), tmp_path / "logs"
    flags = (*PAPER, "--pretrained", str(base), *VIEW, "--id-val-data", str(world / "val"))
    assert train(world, "view", *flags, logs=logs) == 0
    folder = logs / "view" / "checkpoints"
    told = json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
    view = facts_beside(folder / "epoch_1.pt").view
    assert view["image_mean"] == (0.2, 0.4, 0.6) and view["force_image_size"] == 48 and view["force_quick_gelu"]

    metrics = evaluated(world, folder / "epoch_1.pt")
    assert metrics == pytest.approx({name: told[name] for name in metrics}, abs=1e-6)
    features = load_model(MODEL, str(folder / "epoch_1.pt"))
    export_delta(MODEL, folder / "epoch_1.pt", str(base), tmp_path / "small.safetensors")
    export_folder(MODEL, folder / "epoch_1.pt", tmp_path / "whole")
    export_folder(MODEL, f"{base}+{tmp_path / 'small.safetensors'}", tmp_path / "from-delta")
    for model, weights in (
        (MODEL, f"{base}+{tmp_path / 'small.safetensors'}"),
        (f"local-dir:{tmp_path / 'whole'}", None),
        (f"local-dir:{tmp_path / 'from-delta'}", None),
    ):
        assert evaluated(world, weights, model) == metrics
        assert load_model(model, weights).model.visual.preprocess_cfg == features.model.visual.preprocess_cfg

    assert train(world, "on", *PAPER, "--pretrained", str(folder / "epoch_1.pt"), logs=logs) == 0  # without the flags
    assert facts_beside(logs / "on" / "checkpoints" / "epoch_1.pt").view == view


def test_a_run_is_not_resumed_with_another_view_of_pictures(world, paper_run, capsys):
    latest = str(world / "logs" / "paper" / "checkpoints" / "epoch_2.pt")
    arguments = (*PAPER, "--resume", latest, "--image-std", "0.5", "0.5", "0.5", "--accum-freq", "2")
    assert train(world, "other-view", *arguments, epochs=3) == 2
    assert "was trained with another --image-std than this command's" in capsys.readouterr().err


@pytest.mark.host
@pytest.mark.parametrize("flag", ["--torchscript", "--trace"])
def test_what_no_checkpoint_can_hold_is_refused_by_name(world, capsys, flag):
    if offered_loop().tasks:
        pytest.skip("open_clip's main has no such flag")
    assert train(world, f"not-kept{flag}", flag) == 2
    assert f"{flag} {'compiles' if flag == '--torchscript' else 'traces'} the model" in capsys.readouterr().err


def test_a_size_that_the_image_tower_cannot_take_is_refused(world, capsys):
    assert train(world, "other-size", "--force-image-size", "112", model="IdCLIP-ViT-miniature") == 2
    assert "takes no pictures of 112 x 112 pixels" in capsys.readouterr().err.splitlines()[-1]


def test_the_copied_code_is_this_project_s_alone(world, tmp_path, capsys):
    assert train(world, "copied", "--copy-codebase", "--train-data", str(tmp_path / "none.tar"), logs=tmp_path) == 2
    assert "there is no shard" in capsys.readouterr().err
    code = tmp_path / "copied" / "code"
    assert sorted(path.name for path in code.iterdir()) == [
        "open_clip_idplugin",
        "training_patches",
        "webdataset_tools",
    ]
    assert (code / "training_patches" / "host_rows.py").is_file() and not list(code.rglob("__pycache__"))


def test_a_tokenizer_of_a_hub_that_cannot_be_reached_is_one_sentence(world, tmp_path, capsys, monkeypatch):
    config = open_clip.get_model_config(PLAIN_MODEL)
    config["text_cfg"]["hf_tokenizer_name"] = "nobody/nothing"
    (tmp_path / "hub-tokenizer.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "hub-tokenizer.json")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert train(world, "hub-tokenizer", model="hub-tokenizer") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "The tokenizer of hub-tokenizer is not on this machine" in last and "hf download nobody/nothing" in last
