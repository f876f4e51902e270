"""Packing shards: `build_shards` with two processes against plain tar and against a webdataset.ShardWriter loop.

Paired: the sides take turns, and the figure to quote is the median of the ratios of their speeds (ours / theirs; above 1 we are
faster). All write the same members of the same samples, and flush them to disk. Every other side gets its work ready:

    tar         the tar program copies files that lie there ready, one for each member of our shards, under our names
    tarfile     Python's tarfile does the same in one loop
    ShardWriter the usual loop in one process: reads the image, builds caption, record and face embedding, writes the sample

while ours reads the release (a JSON of hundreds of MB), joins, plans, checks every image, packs and writes the lists. Pictures
are drawn shapes with noise, 640x480 of some 170 kB like COCO's, and 192x192 like the miniature's. Then the growth: time per 1,000
samples at 1,000 and 10,000 samples, with `--large` also at 50,000 (up to 25 GB of disk, for the time of the run). Starting two
processes takes about half a second, which is most of the time at 1,000.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from measuring import report
from PIL import Image, ImageDraw

from webdataset_tools.release import load_release
from webdataset_tools.sample_format import SampleRecord
from webdataset_tools.shards import ShardOptions, build_shards

KINDS = {"coco": ((640, 480), 92, 12.0), "miniature": ((192, 192), 90, 6.0)}  # size, JPEG quality, noise
PEOPLE = 100
PICTURES = 40  # drawn once; every sample gets a copy with other last bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000, help="of the comparison; 0: none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--verify", default="structure")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000], help="of the growth; 0 of them: none")
    parser.add_argument("--large", action="store_true", help="also the growth to 50,000 samples")
    parser.add_argument("--folder", help="where to work; a folder of the system's for temporary files otherwise")
    arguments = parser.parse_args()
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": sys.version.split()[0]}))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for kind in arguments.kinds:
            if arguments.samples:
                compare(Path(folder), kind, arguments)
            grow(Path(folder), kind, [*arguments.sizes, *([50_000] if arguments.large else [])], arguments)


def compare(folder: Path, kind: str, arguments: argparse.Namespace) -> None:
    """Time all sides in turns and print the ratios."""
    release = write_release(folder / "release", kind, arguments.samples)
    pack = partial(pack_release, release, verify=arguments.verify, workers=arguments.workers)
    pack(folder / "members")
    size = sum(path.stat().st_size for path in (folder / "members").glob("*.tar"))
    print(f"{kind}: {arguments.samples:,} samples, {size / arguments.samples:,.0f} bytes each")
    lists = unpack(folder / "members", folder / "files")
    sides: dict[str, Callable[[Path], object]] = {
        "tar": partial(run_tar, lists, folder / "files"),
        "tarfile": partial(run_tarfile, lists, folder / "files"),
        "ShardWriter": partial(run_shard_writer, release, arguments.samples // len(lists)),
    }
    ratios: dict[str, list[float]] = {name: [] for name in sides}
    speeds: dict[str, list[float]] = {name: [] for name in ["ours", *sides]}
    for number in range(arguments.rounds + 1):  # the first warms up
        ours = seconds(pack, folder / "ours")
        times = {name: seconds(side, folder / "theirs") for name, side in sides.items()}
        if number:
            speeds["ours"].append(arguments.samples / ours)
            for name, theirs in times.items():
                ratios[name].append(theirs / ours)
                speeds[name].append(arguments.samples / theirs)
    for name, values in speeds.items():
        print(f"  {name}: {statistics.median(values):,.0f} samples/s")
    for name, values in ratios.items():
        report(f"  ours / {name}", values)
    for name in ("release", "members", "files"):
        shutil.rmtree(folder / name)


def grow(folder: Path, kind: str, sizes: list[int], arguments: argparse.Namespace) -> None:
    """Print seconds per 1,000 samples for releases of several sizes."""
    for size in sizes:
        release = write_release(folder / "release", kind, size)
        times = [
            seconds(partial(pack_release, release, verify=arguments.verify, workers=arguments.workers), folder / "ours")
            for _ in range(max(1, arguments.rounds // 2))
        ]
        print(
            f"{kind}, growth: {size:,} samples, {arguments.workers} workers: {statistics.median(times):.1f} s, "
            f"{1000 * statistics.median(times) / size:.2f} s per 1,000 samples"
        )
        shutil.rmtree(release)


def seconds(work: Callable[[Path], object], output: Path) -> float:
    """Wall time of one call with an empty output folder, until its bytes are on the disk."""
    output.mkdir()
    os.sync()
    start = time.perf_counter()
    work(output)
    for path in output.glob("*.tar"):
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    taken = time.perf_counter() - start
    shutil.rmtree(output)
    return taken


def pack_release(release: Path, output: Path, verify: str, workers: int) -> None:
    options = ShardOptions(
        release, "train", output, crops="none", samples_per_shard=500, verify=verify, workers=workers
    )
    build_shards(options)


def run_tar(lists: list[Path], files: Path, output: Path) -> None:
    for names in lists:
        subprocess.run(
            ["tar", "--format=ustar", "-cf", output / f"{names.stem}.tar", "-C", files, "-T", names], check=True
        )


def run_tarfile(lists: list[Path], files: Path, output: Path) -> None:
    for names in lists:
        with tarfile.open(output / f"{names.stem}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in names.read_text().split():
                tar.add(files / name, name)


def run_shard_writer(release: Path, samples_per_shard: int, output: Path) -> None:
    """The loop that one writes by hand; it gets the joined release, as everybody must read that."""
    import webdataset

    split = load_release(release, "train")
    with webdataset.ShardWriter(f"{output}/%05d.tar", maxcount=samples_per_shard, verbose=0) as writer:
        for sample in split.samples:
            record = SampleRecord(
                image_id=sample.image_id,
                identity_id=sample.identity_id,
                identity_name=sample.identity_name,
                captions=sample.captions,
                split="train",
                file_name=sample.file_name,
                source=split.source,
            )
            writer.write(
                {
                    "__key__": sample.key,
                    "face.npy": sample.face,
                    "jpg": (split.images / sample.file_name).read_bytes(),
                    "json": vars(record),
                    "txt": sample.captions[0],
                }
            )


def unpack(shards: Path, files: Path) -> list[Path]:
    """Put every member of our own shards into a file; return one list of names a shard."""
    files.mkdir()
    lists = []
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            tar.extractall(files, filter="data")
            lists.append(files / f"{shard.stem}.list")
            lists[-1].write_text("\n".join(tar.getnames()))
    return lists


def write_release(folder: Path, kind: str, samples: int) -> Path:
    """Write a release of `samples` pictures: PEOPLE people, each in the scenes one after the other."""
    coco = folder / "coco_dataset"
    images = coco / "coco_train_swapped"
    images.mkdir(parents=True)
    (coco / "annotations").mkdir()
    source = np.random.default_rng(0)
    pictures = [draw(kind, source) for _ in range(PICTURES)]
    faces = source.standard_normal((PEOPLE, 512))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    texts = [json.dumps([face.tolist()]) for face in faces]
    annotations, entries = [], []
    for number in range(samples):
        image_id, person = 1 + number // 5, (number * 7 + number // 5) % PEOPLE
        if number % 5 == 0:
            annotations += [
                {"image_id": image_id, "caption": f"Someone does thing number {word} in scene {image_id}."}
                for word in range(5)
            ]
        (images / f"{image_id:012d}.jpg_n{person:06d}.jpg").write_bytes(
            pictures[number % PICTURES] + bytes([number % 256])
        )
        entries.append(f'"{image_id}_n{person:06d}": {texts[person]}')
    (coco / "annotations" / "captions_train2017.json").write_text(json.dumps({"annotations": annotations}))
    (coco / "features_train_small_faceswap.json").write_text("{" + ", ".join(entries) + "}")
    names = folder / "vggface_test_kaggle"
    names.mkdir()
    rows = [f"n{person:06d}, Person_{person}, 1, 1, f" for person in range(PEOPLE)]
    (names / "identity_meta.csv").write_text("\n".join(["Class_ID, Name, Sample_Num, Flag, Gender", *rows]))
    return folder


def draw(kind: str, source: np.random.Generator) -> bytes:
    """Return a JPEG of shapes on a soft background, with noise."""
    (width, height), quality, noise = KINDS[kind]
    coarse = source.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pencil = ImageDraw.Draw(picture)
    for _ in range(30):
        x, y, w, h = (int(value) for value in source.integers(0, [width, height, width // 4, height // 4]))
        pencil.ellipse((x, y, x + w, y + h), fill=tuple(int(value) for value in source.integers(0, 256, 3)))
    noisy = np.asarray(picture) + source.normal(0, noise, (height, width, 1))
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


if __name__ == "__main__":
    main()
