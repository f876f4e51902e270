"""Two gloo processes, started as torchrun starts them, against one process with the same global batch."""

import argparse
import os
import socket

import open_clip
import pytest
import torch
from training_fixtures import FACE_DIM, MODEL, add_models, small_world, write_shards

from open_clip_idplugin.identity_text import IdentityText
from training_patches.__main__ import main
from training_patches.host_rows import DeviceAwareDataParallel

pytestmark = pytest.mark.host

WORLD = 2
HALF = 3
GATHERS = {"gather": (False, True), "local": (True, True)}  # name -> (--local-loss, --gather-with-grad)


def batch(with_faces):
    """A global batch; the second process's half may hold no face at all."""
    generator = torch.Generator().manual_seed(5)
    count = WORLD * HALF
    tokens = torch.randint(1, 9000, (count, 10), generator=generator)
    tokens[:, -1] = 49407
    slots = torch.zeros(count, 10, dtype=torch.int64)
    faces = torch.randn(count, 1, FACE_DIM, generator=generator)
    slots[: count if with_faces else HALF, 3] = 1
    if not with_faces:
        faces[HALF:] = 0
    images = torch.randn(count, 3, 32, 32, generator=generator).double()
    return images, IdentityText(tokens, faces, slots, torch.arange(count))


def model_for_test():
    torch.manual_seed(3)
    model = open_clip.create_model(MODEL, output_dict=True)
    model.lock_image_tower()
    model.lock_text_tower()
    return model.double().train()  # so that the order of sums does not matter


def step(model, images, texts, world_size=1, rank=0, local_loss=False, gather_with_grad=False):
    """Loss and gradients of one step."""
    args = argparse.Namespace(
        distill=False, model=MODEL, siglip=False, local_loss=local_loss, gather_with_grad=gather_with_grad,
        rank=rank, world_size=world_size, horovod=False,
    )  # fmt: skip
    loss = open_clip.create_loss(args)(**model(images, texts))
    loss.backward()
    bare = getattr(model, "module", model)
    return loss.detach(), {name: p.grad for name, p in bare.named_parameters() if p.requires_grad}


def one_of_two(rank, port, folder):
    """What torchrun does for a process: its environment, then the command. Then single steps on known batches."""
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ.update(address | {"WORLD_SIZE": str(WORLD)})
    command = [
        "--model", MODEL, "--train-data", f"{folder}/train/{{00000..00003}}.tar", "--dataset-type", "webdataset",
        "--device", "cpu", "--precision", "fp32", "--workers", "1", "--batch-size", "3", "--epochs", "2", "--lr", "0.01",
        "--warmup", "1", "--logs", str(folder), "--name", "run", "--lock-image", "--lock-text", "--dist-backend", "gloo",
        "--local-loss", "--gather-with-grad", "--id-face-dropout", "0.9", "--id-val-data", str(folder / "val"),
        "--val-data", str(folder / "val" / "00000.tar"), "--val-num-samples", "4", "--id-save-best",
    ]  # fmt: skip
    code = main(command)
    results = {"code": code}
    for name, (local_loss, gather_with_grad) in GATHERS.items():
        for with_faces in (True, False):
            images, texts = batch(with_faces)
            own = slice(rank * HALF, (rank + 1) * HALF)
            model = DeviceAwareDataParallel(model_for_test(), device_ids=[torch.device("cpu")])
            for _ in range(2):  # the second step fails when a parameter took no part in the first
                model.zero_grad()
                results[name, with_faces] = step(
                    model, images[own], texts[own], WORLD, rank, local_loss, gather_with_grad
                )
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Results of both ranks."""
    folder = tmp_path_factory.mktemp("two")
    add_models(folder)
    write_shards(folder / "train", small_world(), shards=4)
    write_shards(folder / "val", small_world(first_person=70, people=2, scenes=2), shards=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forked: the children need not import open_clip again.
    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=one_of_two, args=(rank, port, folder)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
            pytest.fail("a process hangs")
    assert [process.exitcode for process in processes] == [0, 0]
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_the_command_trains_validates_and_saves_with_two_processes(two_processes):
    folder, results = two_processes
    assert [result["code"] for result in results] == [0, 0]
    first = torch.load(folder / "run" / "checkpoints" / "epoch_1.pt", weights_only=True)["state_dict"]
    second = torch.load(folder / "run" / "checkpoints" / "epoch_2.pt", weights_only=True)["state_dict"]
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert "module.text.adaptor.output.weight" in moved and "module.visual.prompts.tokens" in moved
    assert len((folder / "run" / "checkpoints" / "results.jsonl").read_text().splitlines()) == 2
    best = torch.load(folder / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in best["state_dict"])


@pytest.mark.parametrize("gather", list(GATHERS))
@pytest.mark.parametrize("with_faces", [True, False])
def test_two_processes_learn_what_one_does(two_processes, gather, with_faces):
    _, results = two_processes
    loss, gradients = step(model_for_test(), *batch(with_faces))
    losses = [result[gather, with_faces][0] for result in results]
    torch.testing.assert_close(torch.stack(losses).mean(), loss)
    for result in results:
        theirs = result[gather, with_faces][1]
        assert theirs.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert gradients["text.adaptor.output.weight"].abs().sum() > 0
