"""open_clip's main branch: its loop of tasks and its former one, beside each other and beside the released open_clips."""

import importlib.util
import os
import pickle
import re
import subprocess

import open_clip
import pytest
import torch
from places import ROOT
from training_fixtures import (
    MODEL,
    PLAIN_MODEL,
    exit_codes,
    join_as,
    logging_as_before,  # noqa: F401 - around all tests of this file
    write_world,
)

from open_clip_idplugin.identity_text import IdentityText
from training_patches.__main__ import main

pytestmark = [
    pytest.mark.open_clip_main,
    pytest.mark.skipif(
        importlib.util.find_spec("open_clip_train.legacy_main") is None, reason="this open_clip trains no tasks"
    ),
]

MIX = ("--id-setup", "with_entities=1,only_entities=0.5", "--id-false-negatives", "mask")
# The loops differ in what they decay: the newer one spares embeddings of positions and classes.
NO_DECAY = ("--wd", "0")
LEGACY = ("--id-legacy-loop",)

# Runs in the environment of another open_clip: arguments are the folder and the command line.
TRAIN_THERE = """
import sys
from pathlib import Path
from training_fixtures import add_models
from training_patches.__main__ import main
add_models(Path(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def command(world, name, *arguments, model=MODEL):
    return [
        "--model", model, "--train-data", f"{world}/train/{{00000..00001}}.tar", "--dataset-type", "webdataset",
        "--device", "cpu", "--precision", "fp32", "--workers", "0", "--batch-size", "8", "--epochs", "2", "--lr", "0.01",
        "--warmup", "1", "--logs", str(world / "logs"), "--name", name, "--log-every-n-steps", "1", "--id-preset", "none",
        *arguments,
    ]  # fmt: skip


def weights(world, name):
    return torch.load(world / "logs" / name / "checkpoints" / "epoch_2.pt", weights_only=True)["state_dict"]


def losses(world, name):
    """The logged loss of every step and its terms, without the averages beside them."""
    log = (world / "logs" / name / "out.log").read_text()
    lines = [line for line in log.splitlines() if "Train Epoch" in line]
    steps = [dict(re.findall(r"(\w+_loss|Loss): (\S+) \(", line)) for line in lines]
    assert len(steps) > 1 and all(float(loss) > 0 for step in steps for loss in step.values())
    return steps


def other_pythons():
    return [path for path in os.environ.get("IDCLIP_OTHER_HOSTS", "").split(":") if path]


@pytest.mark.skipif(not other_pythons(), reason="IDCLIP_OTHER_HOSTS names no interpreter with another open_clip")
@pytest.mark.parametrize("flags", [(), MIX, ("--lock-image", "--lock-text", "--accum-freq", "2")])
def test_losses_are_those_of_the_released_open_clips_to_the_last_digit(world, flags):
    name = "-".join(("here", *flags))
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "fixtures")))
    assert main(command(world, name, *NO_DECAY, *flags)) == 0
    for number, python in enumerate(other_pythons()):
        there = f"{name}-{number}"
        arguments = [python, "-c", TRAIN_THERE, str(world), *command(world, there, *NO_DECAY, *flags)]
        subprocess.run(arguments, check=True, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
        assert losses(world, there) == losses(world, name)


@pytest.mark.parametrize("flags", [(), MIX, ("--accum-freq", "3"), ("--siglip", *MIX)])
def test_both_loops_end_with_the_same_weights(world, flags):
    names = ["-".join((loop, *flags)) for loop in ("tasks", "legacy")]
    for name, loop in zip(names, ((), LEGACY), strict=True):
        assert main(command(world, name, *NO_DECAY, *flags, *loop)) == 0
    new, former = (weights(world, name) for name in names)
    assert new.keys() == former.keys() and all(torch.equal(new[key], former[key]) for key in new)


def test_the_newer_loop_decays_no_prompts_and_no_embeddings_of_positions():
    from open_clip_train.optim import make_wd_exclude

    model = open_clip.create_model(MODEL)
    spared = {name for name, parameter in model.named_parameters() if make_wd_exclude(model)(name, parameter)}
    assert {"visual.prompts.tokens", "text.positional_embedding", "logit_scale"} <= spared
    assert "text.adaptor.output.weight" not in spared


@pytest.mark.parametrize("loop", [(), LEGACY])
def test_towers_keep_their_learning_rates_whichever_loop_and_after_a_resume(world, loop):
    flags = ("--id-lr-text", "0.001", "--image-layer-decay", "0.5") if not loop else ("--id-lr-text", "0.001")
    name = "rates-" + "".join(loop)
    assert main(command(world, name, *flags, *loop, "--epochs", "1")) == 0
    saved = world / "logs" / name / "checkpoints" / "epoch_1.pt"
    checkpoint = torch.load(saved, weights_only=True)
    scales = [group["lr"] for group in checkpoint["optimizer"]["param_groups"]]
    for group in checkpoint["optimizer"]["param_groups"]:
        group.pop("lr_scale", None)  # as another open_clip would have saved it
    torch.save(checkpoint, world / "older.pt")
    assert main(command(world, f"{name}-resumed", *flags, *loop, "--resume", str(world / "older.pt"))) == 0
    resumed = torch.load(world / "logs" / f"{name}-resumed" / "checkpoints" / "epoch_2.pt", weights_only=True)
    after = [group["lr"] for group in resumed["optimizer"]["param_groups"]]
    largest = max(range(len(scales)), key=lambda number: scales[number])
    assert [rate / after[largest] for rate in after] == pytest.approx([rate / scales[largest] for rate in scales])
    scaled = {round(rate / scales[largest], 4) for rate in scales}
    assert {0.1, 1.0} == scaled if loop else {0.1, 0.5, 1.0} < scaled  # the host's own decay by layer beside ours


def test_a_teacher_is_given_the_same_texts(world, tmp_path):
    torch.manual_seed(3)
    torch.save(open_clip.create_model(MODEL).state_dict(), tmp_path / "teacher.pt")
    teacher = ("--distill-model", MODEL, "--distill-pretrained", str(tmp_path / "teacher.pt"))
    assert main(command(world, "pupil", *teacher)) == 0
    assert all("Distill_loss" in step for step in losses(world, "pupil"))


def test_a_task_moves_pictures_to_the_input_s_numbers_and_leaves_faces_exact():
    from training_patches.identity_task import IdCLIPTask

    text = IdentityText(
        torch.ones(2, 5, dtype=torch.long), torch.randn(2, 1, 16), torch.zeros(2, 5, dtype=torch.long),
        torch.tensor([1, 2]), labels={"image_shows": torch.ones(2, 2, dtype=torch.long)},
    )  # fmt: skip
    task = IdCLIPTask(open_clip.create_model(MODEL), loss=torch.nn.Identity())
    batch = {"image": torch.randn(2, 3, 32, 32), "text": text.to_dict()}
    moved = task.prepare_batch(batch, torch.device("cpu"), torch.bfloat16)
    assert moved["image"].dtype == torch.bfloat16 and isinstance(moved["text"], IdentityText)
    assert torch.equal(moved["text"].faces, text.faces) and task.batch_size(moved) == 2
    assert torch.equal(moved["text"].labels["image_shows"], text.labels["image_shows"])
    captions = {"image": batch["image"], "text": text.tokens}
    assert torch.equal(task.prepare_batch(captions, torch.device("cpu"))["text"], text.tokens)


def test_a_plain_model_trains_in_the_host_s_own_task(world):
    for loop in ((), LEGACY):
        assert main(command(world, "plain" + "".join(loop), *NO_DECAY, *loop, model=PLAIN_MODEL)) == 0
        assert losses(world, "plain" + "".join(loop))  # whose order of samples the host draws by the clock


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--json-text-key", "caption"), "--json-text-key is for captions without faces"),
        (("--image-key", "webp"), "--image-key is for captions without faces"),
        (("--opt", "lion"), "open_clip knows adamw and nadamw"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(world, capsys, flags, words):
    assert main(command(world, "-".join(("refused", *flags)), *flags)) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_s_list_of_tensors_is_read_without_running_code(world, tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": Trap()}))
    assert main(command(world, "trap", "--resume", str(tmp_path))) == 2
    assert "is not the list of a sharded checkpoint (it names posix.system)" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def train_sharded(rank, port, world, name, *flags):
    """The command in one of two processes, as torchrun starts it."""
    join_as(rank, port)
    distributed = (
        "--dist-backend",
        "gloo",
        "--batch-size",
        "4",
        "--local-loss",
        "--gather-with-grad",
        "--workers",
        "1",
    )
    validation = ("--id-val-data", str(world / "val"), "--id-save-best", "--val-data", str(world / "val" / "00000.tar"))
    code = main(command(world, name, *distributed, *validation, "--val-num-samples", "12", *flags))
    torch.distributed.destroy_process_group()
    os._exit(code)


@pytest.mark.parametrize("flags", [(), ("--accum-freq", "2", "--grad-clip-norm", "0.1", "--id-lr-text", "0.001", *MIX)])
def test_processes_that_share_the_weights_learn_and_validate_as_those_with_copies(world, flags):
    """`--fsdp`: every process validates, the first writes the gathered weights."""
    names = ["-".join((kind, *flags)) for kind in ("copies", "shared")]
    for name, more in zip(names, ((), ("--fsdp",)), strict=True):
        assert exit_codes(train_sharded, world, name, *flags, *more) == [0, 0]
    assert "FSDP2: sharding 4 submodules" in (world / "logs" / names[1] / "out.log").read_text()
    copies, shared = (weights(world, name) for name in names)
    assert copies.keys() == shared.keys()
    for key, value in copies.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-3, atol=1e-4, msg=key)
    folders = [world / "logs" / name / "checkpoints" for name in names]
    lines = [folder.joinpath("results.jsonl").read_text().splitlines() for folder in folders]
    assert len(lines[1]) == len(lines[0]) == 2 and all("t2i_R@1" in line for line in lines[1])
    best = torch.load(folders[1] / "best.pt", weights_only=True)["state_dict"]
    assert {key: value.shape for key, value in best.items()} == {key: value.shape for key, value in copies.items()}


def test_a_sharded_checkpoint_goes_on_where_it_was(world):
    sharded = ("--fsdp", "--fsdp-checkpoint", "sharded")
    assert exit_codes(train_sharded, world, "unbroken", "--fsdp") == [0, 0]
    assert exit_codes(train_sharded, world, "sharded", *sharded) == [0, 0]
    first = world / "logs" / "sharded" / "checkpoints" / "epoch_1"
    assert exit_codes(train_sharded, world, "goes-on", "--fsdp", "--resume", str(first)) == [0, 0]
    unbroken, resumed = (weights(world, name) for name in ("unbroken", "goes-on"))
    for key, value in unbroken.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_cached_features_are_not_for_shared_weights(world):
    flags = ("--fsdp", "--lock-image", "--id-visual-prompts", "0", "--id-cache-images", str(world / "cache"))
    assert exit_codes(train_sharded, world, "cached", *flags) == [2, 2]
    assert not (world / "cache").exists()
