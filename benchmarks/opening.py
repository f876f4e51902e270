"""`idclip open` against the verbs it is made of, and against itself when little has changed.

Paired: both sides are whole processes over the same pictures and take turns at going first. One side is `idclip open
--noserve`, the other `idclip index`, `idclip faces` and `idclip index_faces` one after the other, with the same model, face
engine and number of workers. The figure to quote is the median of the ratios (open's time / the other's), with the smallest
and largest beside it; beside wall time stands the processes' own (user and system), which says more on a machine that
others use too. Then a collection is opened, opened again unchanged, and once more with some new pictures; the figure
is the share of the first run's time. Pictures are JPEGs of drawn portraits, scaled to the size of photographs and each
different; weights are random. Nothing is downloaded.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from webdataset_tools.miniature.identity_photos import identity_photo
from webdataset_tools.miniature.people import sample_person

PORTRAITS = 32
IDCLIP = (sys.executable, "-c", "from open_clip_idplugin.cli import main; main()")


def main() -> None:
    """Time one pass against three verbs, then second runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000, help="of the comparison with the verbs; 0: none")
    parser.add_argument("--megapixels", type=float, nargs="*", default=[0.3], help="of the pictures there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--collection", type=int, default=20_000, help="pictures for the second runs; 0: none")
    parser.add_argument("--new", type=int, default=100, help="pictures that come to it")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--checkpoint", help="weights (default: random ones, saved once)")
    parser.add_argument("--faces", default="insightface:miniature", help="face engine of both sides")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps({name: value for name, value in vars(arguments).items() if name != "checkpoint"}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = arguments.checkpoint or save_random(arguments.model, folder / "weights.pt")
        sides = Sides(folder, arguments.model, checkpoint, arguments.faces, arguments.workers)
        for megapixels in arguments.megapixels if arguments.pictures else ():
            compare(sides, folder, arguments.pictures, megapixels, arguments.rounds)
        if arguments.collection:
            show_second_runs(sides, folder, arguments.collection, arguments.new)


def save_random(model: str, path: Path) -> str:
    """A checkpoint of random weights."""
    import open_clip
    import torch

    torch.manual_seed(0)
    torch.save(open_clip.create_model(model).state_dict(), path)
    return str(path)


class Sides:
    """The two ways to the same index, as commands."""

    def __init__(self, folder: Path, model: str, checkpoint: str, faces: str, workers: int) -> None:
        self._folder = folder
        self._model = [f"--model={model}", f"--checkpoint={checkpoint}"]
        self._faces = [f"--faces={faces}"]
        self._workers = [f"--workers={workers}"]

    def open(self, pictures: Path) -> "Seconds":
        """`idclip open` into a folder that stays."""
        output = self._folder / f"open-{pictures.name}"
        flags = [*self._model, *self._faces, *self._workers, f"--output={output}", "--thumbnail_size=256", "--noserve"]
        return run("open", str(pictures), *flags)

    def verbs(self, pictures: Path) -> "list[Seconds]":
        """Each of the three verbs."""
        index, table = self._folder / "verbs-index", self._folder / "verbs-table"
        seconds = [
            run("index", f"--images={pictures}", f"--output={index}", *self._model, *self._workers),
            run("faces", f"--input={pictures}", f"--output={table}", *self._faces, *self._workers),
            run("index_faces", f"--index={index}", f"--face_table={table}"),
        ]
        shutil.rmtree(index)
        shutil.rmtree(table)
        return seconds

    def forget(self, pictures: Path) -> None:
        """Remove what `open` made."""
        shutil.rmtree(self._folder / f"open-{pictures.name}", ignore_errors=True)


class Seconds(NamedTuple):
    """Of one command, or of several together."""

    wall: float
    own: float  # user and system time of the process and its children

    @classmethod
    def together(cls, parts: "Sequence[Seconds]") -> "Seconds":
        """The sum."""
        return cls(sum(part.wall for part in parts), sum(part.own for part in parts))


def run(*arguments: str) -> Seconds:
    """Time one command; its output is shown where it fails."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([*IDCLIP, *arguments], capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"idclip {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    own = after.children_user - before.children_user + after.children_system - before.children_system
    return Seconds(wall, own)


def compare(sides: Sides, folder: Path, count: int, megapixels: float, rounds: int) -> None:
    """One pass against three verbs, in turns."""
    pictures = write_pictures(folder / f"pictures-{megapixels:g}", count, megapixels)
    pairs: list[tuple[Seconds, list[Seconds]]] = []
    for number in range(rounds):
        sides.forget(pictures)
        if number % 2:
            one = sides.open(pictures)
            pairs.append((one, sides.verbs(pictures)))
        else:
            three = sides.verbs(pictures)
            pairs.append((sides.open(pictures), three))
    print(f"{count} pictures of {megapixels:g} Mpx: open / (index + faces + index_faces)")
    for name in Seconds._fields:
        ratios = [getattr(one, name) / getattr(Seconds.together(three), name) for one, three in pairs]
        ours = statistics.median(getattr(one, name) for one, _ in pairs)
        each = [statistics.median(getattr(three[place], name) for _, three in pairs) for place in range(3)]
        print(
            f"  {name}: {statistics.median(ratios):.2f} (median of {rounds}; {min(ratios):.2f} to {max(ratios):.2f}); "
            f"{ours:.1f} s against {' + '.join(f'{seconds:.1f}' for seconds in each)} s",
            flush=True,
        )
    shutil.rmtree(pictures)


def show_second_runs(sides: Sides, folder: Path, count: int, new: int) -> None:
    """The first run, runs without changes, and one with new pictures."""
    pictures = write_pictures(folder / "collection", count, 0.05)
    first = sides.open(pictures)
    unchanged = [sides.open(pictures) for _ in range(3)]
    write_pictures(pictures, new, 0.05, start=count)
    added = sides.open(pictures)
    for name in Seconds._fields:
        whole, again = getattr(first, name), statistics.median(getattr(run, name) for run in unchanged)
        more = getattr(added, name)
        print(
            f"{count} pictures, {name}: first run {whole:.1f} s; unchanged {again:.1f} s ({again / whole:.1%}; median of "
            f"{len(unchanged)}); with {new} new {more:.1f} s ({more / whole:.1%})",
            flush=True,
        )


def write_pictures(folder: Path, count: int, megapixels: float, start: int = 0) -> Path:
    """JPEGs with two drawn faces, all different: the same pixels now and then, but never the same bytes."""
    folder.mkdir(exist_ok=True)
    height = round((megapixels * 1e6 / (4 / 3)) ** 0.5)
    files = [encode(scene(number, height)) for number in range(min(PORTRAITS, count))]
    for number in range(start, start + count):
        marking = f"{number}".encode()  # behind the end of the picture, where readers stop
        (folder / f"{number:07d}.jpg").write_bytes(files[number % len(files)] + marking)
    return folder


def scene(number: int, height: int) -> np.ndarray:
    """Two drawn portraits side by side on a grey picture, RGB uint8 [height, 4/3 height, 3]."""
    rng = np.random.default_rng(number)
    portraits = [identity_photo(sample_person(2 * number + side, "test"), rng).picture for side in (0, 1)]
    both = Image.fromarray(np.concatenate(portraits, axis=1))
    picture = Image.new("RGB", (round(height * 4 / 3), height), (120, 130, 110))
    picture.paste(both.resize((picture.width, picture.width // 2)), (0, height - picture.width // 2))
    return np.asarray(picture)


def encode(picture: np.ndarray) -> bytes:
    """JPEG of a camera's quality."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=92)
    return stream.getvalue()


if __name__ == "__main__":
    main()
