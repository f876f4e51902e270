"""Face embedding: this package's engine, in batches, against insightface's loop, face by face, on the same ONNX files.

Paired: both sides take turns in one process with the same number of threads, and rest before each turn: the threads of an
onnxruntime session spin for a while after its last run, and would take the other side's cores. The figure to quote is the
median of the ratios (insightface's time / ours), with the smallest and largest beside it. Three recognisers: the shipped
pack's, and two nets with random weights, exported when the script starts: a tiny one, and one of IR-18's shape. Then the growth
of `idclip faces`: time per 1,000 pictures, one face each, with the number of pictures. Nothing is downloaded.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import nn

from open_clip_idplugin.assets import shipped
from open_clip_idplugin.faces import load_face_engine
from webdataset_tools.collection_faces.build import FacesOptions, build_face_table
from webdataset_tools.miniature.identity_photos import identity_photo
from webdataset_tools.miniature.people import sample_person

PROVIDERS = ["CPUExecutionProvider"]
DET_SIZE = 192
PICTURES_A_SHARD = 1000
REST = 0.3  # seconds; by then an idle session's threads sleep


def main() -> None:
    """Time crops and pictures with the shipped pack, crops with the larger net, and the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parser.add_argument("--pictures", type=int, default=64, help="drawn for the comparison")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[1000, 10_000], help="of the collections; 0 of them: none"
    )
    parser.add_argument("--workers", type=int, default=2, help="of idclip faces")
    parser.add_argument("--large", action="store_true", help="also a collection of 50,000 pictures")
    arguments = parser.parse_args()
    versions = {"onnxruntime": onnxruntime.__version__, "cpu": platform.machine(), "threads": arguments.threads}
    print(json.dumps(versions))
    pictures = draw_pictures(arguments.pictures)
    torch.manual_seed(0)
    shipped_pack = shipped("miniature_faces")
    with tempfile.TemporaryDirectory() as folder:
        compare("shipped pack", shipped_pack, pictures, arguments.rounds, arguments.threads, whole_pictures=True)
        tiny = write_pack(Path(folder) / "tiny", shipped_pack, create_tiny())
        compare("tiny net", tiny, pictures, arguments.rounds, arguments.threads)
        larger = write_pack(Path(folder) / "ir18", shipped_pack, create_ir18())
        compare("IR-18 size", larger, pictures[:32], max(3, arguments.rounds // 3), arguments.threads)
        for size in [*arguments.sizes, *([50_000] if arguments.large else [])]:
            show_growth(Path(folder), pictures, size, arguments.workers)


def draw_pictures(count: int) -> list[np.ndarray]:
    """Drawn portraits, RGB uint8 [192, 192, 3]."""
    return [
        identity_photo(sample_person(number, "test"), np.random.default_rng(number)).picture for number in range(count)
    ]


def compare(
    name: str, pack: Path, pictures: Sequence[np.ndarray], rounds: int, threads: int, whole_pictures: bool = False
) -> None:
    """Report both sides for aligned crops, and with detection and alignment for whole pictures."""
    engine = load_face_engine(f"insightface:{pack}", DET_SIZE, PROVIDERS, threads)
    app = load_host(pack, threads)
    host = app.models["recognition"]
    crops = [crop for picture in pictures for crop in engine.crops_of(picture)]
    swapped = [np.ascontiguousarray(crop[:, :, ::-1]) for crop in crops]  # insightface takes BGR
    theirs = np.concatenate([host.get_feat(crop) for crop in swapped])
    np.testing.assert_allclose(
        engine.embed_crops(crops), theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-4
    )
    report(
        f"{name}, {len(crops)} crops",
        paired(lambda: [host.get_feat(crop) for crop in swapped], lambda: engine.embed_crops(crops), rounds),
        len(crops),
    )
    if whole_pictures:
        images = [np.ascontiguousarray(picture[:, :, ::-1]) for picture in pictures]
        report(
            f"{name}, {len(pictures)} whole pictures",
            paired(lambda: [app.get(image) for image in images], lambda: engine.detect_many(pictures), rounds),
            len(pictures),
        )


def load_host(pack: Path, threads: int) -> Any:
    """insightface's own application on the same files."""
    from insightface.app import FaceAnalysis

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    with contextlib.redirect_stdout(io.StringIO()):
        app = FaceAnalysis(str(pack), providers=PROVIDERS, sess_options=options)
        app.prepare(0, det_size=(DET_SIZE, DET_SIZE))
    return app


def paired(theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in turns, after one warm-up of each; they take turns at going first."""
    theirs(), ours()
    times = []
    for number in range(rounds):
        first, second = (theirs, ours) if number % 2 else (ours, theirs)
        pair = rested(first), rested(second)
        times.append(pair if number % 2 else pair[::-1])
    return times


def rested(work: Callable[[], object]) -> float:
    """Wall time of one call after a rest, seconds."""
    time.sleep(REST)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(title: str, times: Sequence[tuple[float, float]], faces: int) -> None:
    """Print the median of the ratios, their range, and the median times of a face."""
    ratios = [theirs / ours for theirs, ours in times]
    theirs, ours = (statistics.median(side) * 1000 / faces for side in zip(*times))
    print(
        f"{title}: {statistics.median(ratios):.2f} times as fast (median of {len(ratios)}; {min(ratios):.2f} to "
        f"{max(ratios):.2f}); {theirs:.2f} and {ours:.2f} ms a face"
    )


class Block(nn.Module):
    """A residual block of ArcFace's IR nets."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        halved = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = halved if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        return self.body(x) + self.shortcut(x)


def create_tiny() -> nn.Module:
    """A net of a quarter of a million parameters, 23 million multiplications a crop: [B, 3, 112, 112] -> [B, 512]."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1), (64, 96, 2), (96, 96, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 512)).eval()


def create_ir18() -> nn.Module:
    """A net of IR-18's shape: [B, 3, 112, 112] -> [B, 512]."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    width = 64
    for outputs in (64, 128, 256, 512):
        layers += [Block(width, outputs, 2), Block(outputs, outputs, 1)]
        width = outputs
    layers += [nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)]
    return nn.Sequential(*layers).eval()


def write_pack(folder: Path, shipped_pack: Path, recogniser: nn.Module) -> Path:
    """A pack of the shipped detector and another recogniser."""
    folder.mkdir()
    shutil.copy(shipped_pack / "detector.onnx", folder)
    torch.onnx.export(
        recogniser,
        (torch.zeros(1, 3, 112, 112),),
        str(folder / "recogniser.onnx"),
        input_names=["data"],
        output_names=["embedding"],
        dynamic_axes={"data": {0: "batch"}, "embedding": {0: "batch"}},
        opset_version=13,
        dynamo=False,
    )
    return folder


def show_growth(folder: Path, pictures: Sequence[np.ndarray], size: int, workers: int) -> None:
    """Time `idclip faces` on shards of `size` pictures."""
    files = [encode(picture) for picture in pictures]
    shards = folder / f"shards{size}"
    shards.mkdir()
    for first in range(0, size, PICTURES_A_SHARD):
        with tarfile.open(shards / f"{first // PICTURES_A_SHARD:05d}.tar", "w") as tar:
            for number in range(first, min(size, first + PICTURES_A_SHARD)):
                content = files[number % len(files)]
                entry = tarfile.TarInfo(f"{number:09d}.jpg")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    options = FacesOptions(str(shards), str(folder / f"table{size}"), "insightface:miniature", workers=workers)
    start = time.perf_counter()
    made = build_face_table(options)
    spent = time.perf_counter() - start
    print(
        f"idclip faces, {size:,} pictures, {made.faces:,} faces, {workers} workers: {spent:.1f} s, "
        f"{1000 * spent / size:.2f} s per 1,000 pictures"
    )
    shutil.rmtree(shards)


def encode(picture: np.ndarray) -> bytes:
    """JPEG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95)
    return stream.getvalue()


if __name__ == "__main__":
    main()
