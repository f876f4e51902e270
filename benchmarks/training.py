"""Training IdCLIP against plain open_clip, and with cached image features against without: times as ratios.

Parts (`--only`, all without it):
    step    one training step, four regimes: both towers trained, without and with visual prompts; image tower locked; adaptor
            (both towers locked) against plain open_clip with the image tower locked. Same towers, images, batch; captions
            as long as COCO's.
    cache   adaptor training from cached image features against decoding pictures and running the image tower; loading
            included; and its samples a second
    memory  peak activation memory of visual-prompt training against plain fine-tuning, both with gradient checkpointing
    loader  samples a second of the loader alone against training with the smallest model
Paired: both sides take turns in one process; the figure to quote is the median of the ratios, with the smallest and largest
beside it. Random weights and pictures; nothing is downloaded. Shapes that a machine is too small for: `--shapes`.
On a GPU (`--device cuda --precision bf16`, by default with the shapes ViT-B-32 and ViT-L-14-336) the step's peak memory is
printed too: gradients and activations, beside the weights and the optimizer's state.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from measuring import CAPTIONS, paired, peak_on_cpu, peak_on_gpu, report, seconds
from open_clip import get_input_dtype
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip_train.data import get_wds_dataset
from open_clip_train.precision import get_autocast
from PIL import Image

import open_clip_idplugin
from open_clip_idplugin.command_line.devices import AUTO, resolve_device
from open_clip_idplugin.errors import IdClipError
from training_patches.data import use_identity_pairs
from training_patches.image_cache import cached_sample, cached_shards, read_features
from training_patches.pairs import Decoder, PairMaker
from webdataset_tools.sample_format import SIZES_FILE, Sample, SampleRecord, sample_key, sample_to_members

PARTS = ("step", "cache", "memory", "loader")
FACE_DIM = 512
PROMPTED = "both towers trained, ours with visual prompts"
REGIMES = (  # title, what is locked on our side, on theirs
    ("both towers trained", (), ()),
    ("image tower locked", ("image",), ("image",)),
    ("adaptor / image tower locked", ("image", "text"), ("image",)),
    (PROMPTED, (), ()),
)


def main(given: Sequence[str] | None = None) -> None:
    """Run the chosen parts and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part; all without it")
    parser.add_argument("--shapes", nargs="+", help="towers (default: ViT-B-32 ViT-L-14; cache: ViT-B-32 ViT-L-14-336)")
    parser.add_argument(
        "--regimes", nargs="+", type=int, choices=range(1, 5), default=[1, 2, 3, 4], help="of the part 'step'"
    )
    parser.add_argument("--batch-size", type=int, help="(default: 32, the paper's; 8 for ViT-L and ViT-H on a CPU)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs; the median is printed")
    parser.add_argument("--device", default=AUTO)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "amp_bf16", "bf16", "pure_bf16"))
    parser.add_argument("--visual-prompts", type=int, default=5, help="of the parts 'step' and 'memory'")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of the part 'loader'")
    arguments = parser.parse_args(given)
    arguments.device = str(resolve_device(arguments.device))
    print(json.dumps(machine(arguments)), flush=True)
    for part in PARTS:
        if arguments.only in (None, part):
            {"step": steps, "cache": cache, "memory": memory, "loader": loader}[part](arguments)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if on_gpu(arguments) else platform.machine()
    return {
        "torch": torch.__version__, "open_clip": open_clip.__version__, "device": device, "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1), "precision": arguments.precision,
    }  # fmt: skip


def on_gpu(arguments: argparse.Namespace) -> bool:
    """Whether the run is on a GPU."""
    return torch.device(arguments.device).type == "cuda"


def sized(arguments: argparse.Namespace, shape: str) -> argparse.Namespace:
    """The arguments with the batch size for a shape."""
    usual = 8 if not on_gpu(arguments) and any(word in shape for word in ("ViT-L", "ViT-H")) else 32
    return argparse.Namespace(**{**vars(arguments), "batch_size": arguments.batch_size or usual})


def steps(given: argparse.Namespace) -> None:
    """One training step of either side, regime by regime."""
    for shape in given.shapes or ("ViT-B-32", "ViT-L-14-336" if on_gpu(given) else "ViT-L-14"):
        arguments = sized(given, shape)
        for title, ours_locks, their_locks in (REGIMES[number - 1] for number in given.regimes):
            prompts = {"face_dim": FACE_DIM, "visual_prompts": arguments.visual_prompts}
            ours = Side(
                f"IdCLIP-{shape}", arguments, ours_locks, **({"identity_cfg": prompts} if title == PROMPTED else {})
            )
            theirs = Side(shape, arguments, their_locks)
            images = theirs.images()
            pairs = partial(ours.step, images, ours.texts(True)), partial(theirs.step, images, theirs.texts(False))
            report(
                f"{shape}, batch {arguments.batch_size}, {title}: IdCLIP / open_clip", paired(*pairs, arguments.rounds)
            )
            if on_gpu(arguments):
                peaks = [peak_on_gpu(work) / 2**30 for work in pairs]
                print(f"    peak memory {peaks[0] / peaks[1]:.2f} ({peaks[0]:.2f} / {peaks[1]:.2f} GiB)", flush=True)
            del ours, theirs, pairs  # before the next two are built


class Side:
    """A model that is trained, with its optimizer and loss, as open_clip_train sets them up."""

    def __init__(self, name: str, arguments: argparse.Namespace, locks: tuple[str, ...] = (), **settings: Any) -> None:
        torch.manual_seed(0)
        self.name, self.arguments = name, arguments
        settings = {"precision": arguments.precision, "device": arguments.device, **settings}
        self.model = open_clip.create_model(name, output_dict=True, **settings).train()
        for tower in locks:
            getattr(self.model, f"lock_{tower}_tower")()
        self.loss = open_clip.ClipLoss(cache_labels=True)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.98), weight_decay=0.01)
        self.autocast = get_autocast(arguments.precision, device_type=torch.device(arguments.device).type)

    def preprocess(self, is_train: bool) -> Any:
        """What open_clip makes of a picture for this model."""
        return image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=is_train)

    def images(self) -> torch.Tensor:
        """Random pictures of the model's size."""
        size = open_clip.get_model_config(self.name)["vision_cfg"]["image_size"]
        images = torch.randn(self.arguments.batch_size, 3, size, size, generator=torch.Generator().manual_seed(1))
        return images.to(self.arguments.device, dtype=get_input_dtype(self.arguments.precision))

    def texts(self, with_faces: bool) -> Any:
        """Captions; with faces each behind a prompt with the placeholder, as it is trained."""
        captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(self.arguments.batch_size)]
        tokenizer = open_clip.get_tokenizer(self.name)
        if not with_faces:
            return tokenizer(captions).to(self.arguments.device)
        faces = torch.nn.functional.normalize(torch.randn(len(captions), FACE_DIM), dim=-1)
        prompts = [f"An image with {open_clip_idplugin.PLACEHOLDER}. {caption}" for caption in captions]
        return tokenizer(prompts, faces=faces).to(self.arguments.device)

    def backward(self, images: torch.Tensor, texts: Any) -> None:
        """Loss and gradients."""
        with self.autocast():
            loss = self.loss(**self.model(images, texts))
        loss.backward()

    def step(self, images: torch.Tensor, texts: Any) -> None:
        """One step of training. Gradients go at its end, so that those of the other side need not fit beside them."""
        self.backward(images, texts)
        self.optimizer.step()
        self.optimizer.zero_grad()


def cache(given: argparse.Namespace) -> None:
    """Adaptor training, decoding and loading included, with and without cached image features."""
    for shape in given.shapes or ("ViT-B-32", "ViT-L-14-336"):
        arguments = sized(given, shape)
        side = Side(f"IdCLIP-{shape}", arguments, ("image", "text"))
        preprocess = side.preprocess(is_train=False)
        with tempfile.TemporaryDirectory() as folder:
            count = arguments.batch_size * 4
            args = host_args(write_shards(Path(folder) / "train", count, (640, 480)), arguments, count)
            pictures = batches(args, side, Decoder(preprocess))
            shards = cached_shards(side.model, preprocess, args, f"{folder}/cache", "float16")
            cached = argparse.Namespace(**{**vars(args), "train_data": "::".join(shards)})
            features = batches(cached, side, read_features, cached_sample)

            def work(source: Iterator[Any], side: Side = side) -> None:
                images, texts = next(source)
                images = images.to(given.device, dtype=get_input_dtype(given.precision))
                side.step(images, texts.to(given.device))

            side.model.train()
            ratios = paired(partial(work, pictures), partial(work, features), arguments.rounds)
            spent = statistics.median(seconds(partial(work, features)) for _ in range(arguments.rounds))
        report(f"{shape}, adaptor training: recomputed / cached image features", ratios)
        print(f"    {arguments.batch_size / spent:.0f} samples a second from cached features", flush=True)


def memory(given: argparse.Namespace) -> None:
    """Peak of what one forward and backward pass allocates beside weights, gradients and optimizer."""
    prompts = {"face_dim": FACE_DIM, "visual_prompts": given.visual_prompts}
    for shape in given.shapes or ("ViT-B-32",):
        arguments = sized(given, shape)
        sides = (
            Side(f"IdCLIP-{shape}", arguments, ("image", "text"), identity_cfg=prompts),
            Side(shape, arguments),
        )
        peaks = []
        for side, with_faces in zip(sides, (True, False)):
            side.model.set_grad_checkpointing()
            work = partial(side.backward, side.images(), side.texts(with_faces))
            work()  # the gradients are there from now on
            peaks.append(peak_on_gpu(work) if on_gpu(arguments) else peak_on_cpu(work))
        title = f"{shape}, activations: {arguments.visual_prompts} visual prompts / plain fine-tuning"
        print(f"{title}: {peaks[0] / peaks[1]:.2f} ({peaks[0] / 2**20:.0f} / {peaks[1] / 2**20:.0f} MiB)")


def loader(given: argparse.Namespace) -> None:
    """Samples a second: the loader alone, and training with the smallest model on batches that are in memory."""
    arguments = sized(given, "ViT-miniature")
    side = Side("IdCLIP-ViT-miniature", arguments, ("image", "text"))
    preprocess = side.preprocess(is_train=True)
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.batch_size * 16 * max(1, arguments.workers)
        args = host_args(write_shards(Path(folder) / "train", count, (192, 192), 4), arguments, 1 << 30)
        args.workers = arguments.workers
        source = batches(args, side, Decoder(preprocess))
        images, texts = next(source)
        images = images.to(arguments.device, dtype=get_input_dtype(arguments.precision))
        repeats = 64  # many, beside the batches that the workers have ready

        def load() -> None:
            for _ in range(repeats):
                next(source)

        def train() -> None:
            for _ in range(repeats):
                side.step(images, texts.to(arguments.device))

        ratios = paired(train, load, arguments.rounds)  # times: a higher ratio is a faster loader
    report(f"loader with {arguments.workers} workers / adaptor training of {side.name}, samples a second", ratios)


def batches(args: argparse.Namespace, side: Side, read_image: Any, read_sample: Any = None) -> Iterator[Any]:
    """Batches of the command's own loader, without end."""
    info = get_wds_dataset(args, None, is_train=True, tokenizer=None)
    make_pair = PairMaker(read_image, open_clip.get_tokenizer(side.name), "fixed")
    more = () if read_sample is None else (None, read_sample)
    use_identity_pairs(info, make_pair, args.batch_size, *more)
    for epoch in itertools.count():
        info.set_epoch(epoch)
        yield from info.dataloader


def host_args(folder: Path, arguments: argparse.Namespace, samples: int) -> argparse.Namespace:
    """What open_clip_train's loader reads from its flags."""
    shards = sorted(map(str, folder.glob("*.tar")))
    return argparse.Namespace(
        train_data="::".join(shards), dataset_resampled=False, train_num_samples=samples, seed=0,
        train_data_upsampling_factors=None, batch_size=arguments.batch_size, workers=0, world_size=1, rank=0,
        precision=arguments.precision, device=arguments.device,
    )  # fmt: skip


def write_shards(folder: Path, count: int, size: tuple[int, int], shards: int = 1) -> Path:
    """Shards of smooth random pictures, which cost as much to decode as photographs, and random faces."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard, count, shards):
                sample = random_sample(number, size, random)
                for name, content in sample_to_members(sample).items():
                    member = tarfile.TarInfo(f"{sample.key}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    sizes = {f"{shard:05d}.tar": len(range(shard, count, shards)) for shard in range(shards)}
    (folder / SIZES_FILE).write_text(json.dumps(sizes))
    return folder


def random_sample(number: int, size: tuple[int, int], random: np.random.Generator) -> Sample:
    coarse = Image.fromarray(random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    identity = f"n{number % 40:06d}"
    record = SampleRecord(
        image_id=number, identity_id=identity, identity_name=identity, captions=CAPTIONS[:5], split="train",
        file_name=f"{number}.jpg", source="random",
    )  # fmt: skip
    face = random.standard_normal(FACE_DIM).astype(np.float32)
    return Sample(sample_key(number, identity), stream.getvalue(), CAPTIONS[0], face, None, record)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except IdClipError as error:
            sys.exit(f"benchmarks/training.py: {error}")
