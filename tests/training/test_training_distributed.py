"""Two gloo processes, started as torchrun starts them, against one process with the same global batch."""

import argparse
import itertools
import os
import signal

import numpy as np
import open_clip
import pytest
import torch
from training_fixtures import FACE_DIM, MODEL, WORLD, add_models, exit_codes, join_as, small_world, write_shards

from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.losses import ANYTHING, IMAGE_SHOWS, TEXT_ABOUT
from open_clip_idplugin.weight_keys import OWN_PARTS, part_of
from training_patches.__main__ import main
from training_patches.distributed import DeviceAwareDataParallel
from training_patches.image_cache import cached_shards
from training_patches.loss_terms import identity_loss
from training_patches.params import IdentityOptions

pytestmark = pytest.mark.host

HALF = 3
GATHERS = {"gather": (False, True), "local": (True, True)}  # name -> (--local-loss, --gather-with-grad)
# Name -> what is added to the towers.
PARTS = {
    "adaptor": {},
    "prompts": {"visual_prompts": 2},
    "everything": {
        "visual_prompts": 2, "visual_prompts_deep": True, "text_prompts": 3, "lora_image_blocks": "all",
        "lora_text_blocks": "all", "adaptor_layers": 2, "adaptor_bias": True, "adaptor_residual": True,
    },
}  # fmt: skip
MIX = "with_entities=1,only_entities=0.1,coco_original=0.5"
# Name -> our flags; those whose name starts with "siglip" train with --siglip.
LOSSES = {
    "pairs": {},
    "coco_original": {"setup": "coco_original"},
    "entities": {"setup": "only_entities"},
    "entities, binary": {"setup": "only_entities", "entity_loss": "bce"},
    "mix": {"setup": MIX, "entity_loss": "bce"},
    "mix, masked": {"setup": MIX, "false_negatives": "mask"},
    "mix, positive": {"setup": MIX, "false_negatives": "positive"},
    "siglip": {},
    "siglip, mix, masked": {"setup": MIX, "entity_loss": "bce", "false_negatives": "mask"},
    "siglip, mix, positive": {"setup": MIX, "false_negatives": "positive"},
}
CASES = [
    case for case in itertools.product(LOSSES, GATHERS, (True, False), PARTS)
    if case[3] != "everything" or case[0] in ("pairs", "siglip, mix, masked")
]  # fmt: skip


def batch(with_faces, options):
    """A global batch; the second process's half may hold no face at all. Returns images, texts, and texts an image."""
    generator = torch.Generator().manual_seed(5)
    setups = list(options.setups)
    rows = WORLD * HALF * len(setups)
    tokens = torch.randint(1, 9000, (rows, 10), generator=generator)
    tokens[:, -1] = 49407
    slots = torch.zeros(rows, 10, dtype=torch.int64)
    faces = torch.randn(rows, 1, FACE_DIM, generator=generator)
    slots[: rows if with_faces else rows // WORLD, 3] = 1
    if not with_faces:
        faces[rows // WORLD :] = 0
    images = torch.randn(WORLD * HALF, 3, 32, 32, generator=generator).double()
    # Two people and two scenes, spread over both processes.
    shows = torch.stack([torch.arange(WORLD * HALF) % 2, torch.arange(WORLD * HALF) // 2 % 2], dim=1)
    about = shows.repeat_interleave(len(setups), 0)
    labels = {IMAGE_SHOWS: about.clone(), TEXT_ABOUT: about}
    for number, setup in enumerate(setups):
        if setup != "with_entities":
            about[number :: len(setups), 1 if setup == "only_entities" else 0] = ANYTHING
    texts = IdentityText(tokens, faces, slots, torch.arange(rows), labels=labels if options.labelled else {})
    return images, texts, len(setups)


def model_for_test(name="pairs", parts="adaptor"):
    torch.manual_seed(3)
    settings = {"identity_cfg": {"face_dim": FACE_DIM, "adaptor_hidden": 24, **PARTS[parts]}}
    bias = {"init_logit_bias": -10.0} if name.startswith("siglip") else {}
    model = open_clip.create_model(MODEL, output_dict=True, **settings, **bias)
    model.lock_image_tower()
    model.lock_text_tower()
    return model.double().train()  # so that the order of sums does not matter


def to_tensor(image):
    return torch.from_numpy(np.asarray(image.resize((32, 32))).copy()).permute(2, 0, 1).float() / 255


def step(model, images, texts, name, world_size=1, rank=0, local_loss=False, gather_with_grad=False):
    """Loss and gradients of one step."""
    args = argparse.Namespace(
        distill=False, model=MODEL, siglip=name.startswith("siglip"), local_loss=local_loss, loss_dist_impl=None,
        gather_with_grad=gather_with_grad, rank=rank, world_size=world_size, horovod=False,
    )  # fmt: skip
    loss = identity_loss(open_clip.create_loss, args, IdentityOptions(**LOSSES[name]))
    value = sum(loss(**model(images, texts), output_dict=True).values())
    value.backward()
    bare = getattr(model, "module", model)
    return value.detach(), {name: p.grad for name, p in bare.named_parameters() if p.requires_grad}


def one_of_two(rank, port, folder):
    """The command as torchrun starts it, then single steps on known batches."""
    join_as(rank, port)
    command = [
        "--model", MODEL, "--train-data", f"{folder}/train/{{00000..00003}}.tar", "--dataset-type", "webdataset",
        "--device", "cpu", "--precision", "fp32", "--workers", "1", "--batch-size", "3", "--epochs", "2", "--lr", "0.01",
        "--warmup", "1", "--logs", str(folder), "--name", "run", "--lock-image", "--lock-text", "--dist-backend", "gloo",
        "--local-loss", "--gather-with-grad", "--id-face-dropout", "0.9", "--id-val-data", str(folder / "val"),
        "--val-data", str(folder / "val" / "00000.tar"), "--val-num-samples", "4", "--id-save-best", "--id-setup", MIX,
        "--id-false-negatives", "mask", "--id-batch-groups", "scene", "--id-preset", "none",
    ]  # fmt: skip
    code = main(command)
    plain = argparse.Namespace(
        train_data=str(folder / "train"), rank=rank, world_size=WORLD, workers=0, device="cpu", precision="fp32"
    )
    cached = cached_shards(model_for_test().float(), to_tensor, plain, str(folder / "cache"), "float16")
    results = {"code": code, "cached": len(cached)}
    for case in CASES:
        name, gather, with_faces, parts = case
        images, texts, count = batch(with_faces, IdentityOptions(**LOSSES[name]))
        own = slice(rank * HALF, (rank + 1) * HALF)
        own_texts = slice(rank * HALF * count, (rank + 1) * HALF * count)
        model = DeviceAwareDataParallel(model_for_test(name, parts), device_ids=[torch.device("cpu")])
        for _ in range(2):  # the second step fails when a parameter took no part in the first
            model.zero_grad()
            results[case] = step(model, images[own], texts[own_texts], name, WORLD, rank, *GATHERS[gather])
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Results of both ranks."""
    folder = tmp_path_factory.mktemp("two")
    add_models(folder)
    write_shards(folder / "train", small_world(), shards=4)
    write_shards(folder / "val", small_world(first_person=70, people=2, scenes=2), shards=1)
    assert exit_codes(one_of_two, folder) == [0, 0]
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_the_command_trains_validates_and_saves_with_two_processes(two_processes):
    folder, results = two_processes
    assert [result["code"] for result in results] == [0, 0]
    first = torch.load(folder / "run" / "checkpoints" / "epoch_1.pt", weights_only=True)["state_dict"]
    second = torch.load(folder / "run" / "checkpoints" / "epoch_2.pt", weights_only=True)["state_dict"]
    # The older loops save the wrapped model.
    moved = {name.removeprefix("module.") for name in first if not torch.equal(first[name], second[name])}
    assert "text.adaptor.output.weight" in moved and "visual.prompts.tokens" in moved
    assert len((folder / "run" / "checkpoints" / "results.jsonl").read_text().splitlines()) == 2
    best = torch.load(folder / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in best["state_dict"])


def test_two_processes_share_the_work_of_caching_image_features(two_processes):
    folder, results = two_processes
    assert [result["cached"] for result in results] == [4, 4]
    assert len(list((folder / "cache").glob("*.tar"))) == len(list((folder / "cache").glob("train-*.json"))) == 4


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_learn_what_one_does(two_processes, case):
    name, _, with_faces, parts = case
    _, results = two_processes
    images, texts, _ = batch(with_faces, IdentityOptions(**LOSSES[name]))
    loss, gradients = step(model_for_test(name, parts), images, texts, name)
    torch.testing.assert_close(torch.stack([result[case][0] for result in results]).mean(), loss)
    for result in results:
        theirs = result[case][1]
        assert theirs.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(theirs[key], gradient, rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")
    assert gradients["text.adaptor.output.weight"].abs().sum() > 0 or name == "coco_original"
    own = {part_of(key) for key in gradients} & set(OWN_PARTS)
    assert (
        own == {"adaptor": {"adaptor"}, "prompts": {"adaptor", "visual_prompts"}, "everything": set(OWN_PARTS)}[parts]
    )


def train_or_die(rank, port, folder, name, kill_at):
    """Train three epochs; kill this process as the system would, in the middle of its `kill_at`-th step."""
    join_as(rank, port)
    steps, host_step = itertools.count(1), torch.optim.AdamW.step

    def step_or_die(optimizer, *arguments, **settings):
        if rank == 1 and next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return host_step(optimizer, *arguments, **settings)

    torch.optim.AdamW.step = step_or_die
    command = [
        "--model", MODEL, "--train-data", f"{folder}/train/{{00000..00003}}.tar", "--dataset-type", "webdataset",
        "--device", "cpu", "--precision", "fp32", "--workers", "1", "--batch-size", "3", "--epochs", "3", "--lr", "0.01",
        "--warmup", "1", "--logs", str(folder), "--name", name, "--lock-text", "--dist-backend", "gloo", "--accum-freq", "2",
        "--id-caption", "multi", "--id-batch-groups", "identity", "--resume", "latest",
        "--id-preset", "none",
    ]  # fmt: skip
    code = main(command)
    torch.distributed.destroy_process_group()
    os._exit(code)


def test_a_run_with_a_killed_rank_goes_on_with_the_same_data(two_processes):
    folder, _ = two_processes
    assert exit_codes(train_or_die, folder, "unbroken", None) == [0, 0]
    killed = exit_codes(train_or_die, folder, "killed", 3)  # two steps an epoch: in its second epoch
    assert killed[1] == -signal.SIGKILL and killed[0] != 0  # the other rank does not hang
    saved = folder / "killed" / "checkpoints"
    assert [path.name for path in sorted(saved.glob("*.pt"))] == ["epoch_1.pt"]
    assert exit_codes(train_or_die, folder, "killed", None) == [0, 0]
    assert "resuming checkpoint" in (folder / "killed" / "out.log").read_text()
    ends = [
        torch.load(folder / run / "checkpoints" / "epoch_3.pt", weights_only=True) for run in ("unbroken", "killed")
    ]
    for name, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][name], value, msg=name)
