"""Services to compare: an index of random vectors and faces, and `idclip serve` or clip-retrieval's backend that serves it.

Both are processes of their own on the loopback address, with random weights; beside them the requests that are asked of both.
"""

import base64
import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from open_clip_idplugin.gallery import Gallery

PLAIN, IDENTITY = "ViT-B-32", "IdCLIP-ViT-B-32"
SIZE, FACE_SIZE = 512, 512  # of image and face embeddings
NAME = "Ada Lovelace"
FACE_MODEL = "benchmark"
CONTEXTS = (
    "feeding a horse",
    "at a train station",
    "with a tennis racket",
    "beside a large birthday cake",
    "on a boat",
)
HYBRID = "weighted"  # the fusion of text and face scores that is measured
MOST_EXACT = 20_000  # vectors in an exact index; beyond, an inverted file
START_SECONDS = 300
# clip-retrieval listens on every address; here it is kept to this machine.
STOCK = """
import sys, flask
run = flask.Flask.run
flask.Flask.run = lambda app, host, port, debug: run(app, host="127.0.0.1", port=port, debug=debug)
from clip_retrieval.clip_back import clip_back
clip_back(sys.argv[1], port=int(sys.argv[2]), clip_model=sys.argv[3], use_jit=False, enable_mclip_option=False,
          provide_aesthetic_embeddings=False, enable_faiss_memory_mapping=False, columns_to_return=["image_path", "caption"])
"""


class Side:
    """A running service."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, start: float, folder: Path) -> None:
        self.process, self.port, self.start, self.folder = process, port, start, str(folder.resolve())
        self.start_processor = self.processor_seconds()

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is kept where the server keeps it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def gallery(self) -> "Gallery":
        """Its gallery, to be changed as another program would."""
        from open_clip_idplugin.gallery import Gallery

        return Gallery(Path(self.folder) / "gallery.sqlite")

    def processor_seconds(self) -> float:
        """Time that the service has had on the processors."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> tuple[float, float, float]:
        """Resident memory in GB: of its own, of the mapped libraries, and of the mapped files of index and model."""
        own = libraries = data = 0
        place = ""
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            if ":" not in line.partition(" ")[0]:
                place = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
            elif line.startswith("Rss:"):
                resident = int(line.split()[1])
            elif line.startswith("Anonymous:"):
                anonymous = int(line.split()[1])
                own += anonymous
                if place.startswith(self.folder):
                    data += resident - anonymous
                else:
                    libraries += resident - anonymous
        return own / 2**20, libraries / 2**20, data / 2**20

    def memory(self) -> str:
        """The same in words."""
        own, libraries, data = self.resident()
        return (
            f"resident {own + libraries + data:.2f} GB (own {own:.2f}, libraries {libraries:.2f}, mapped files of index and "
            f"model {data:.2f})"
        )


def prepare(folder: Path) -> None:
    """The same random weights for both sides, ours with an adaptor, and a gallery with one person."""
    import open_clip
    import torch

    from open_clip_idplugin.gallery import Gallery

    if (folder / "identity.pt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(PLAIN).state_dict(), folder / "plain.pt")
    identity = open_clip.create_model(IDENTITY, pretrained=str(folder / "plain.pt"))
    torch.save(identity.state_dict(), folder / "identity.pt")
    Gallery(folder / "gallery.sqlite").enroll(NAME, np.random.default_rng(0).standard_normal(FACE_SIZE), FACE_MODEL)


def make_index(folder: Path, count: int, faces_an_image: float) -> None:
    """An index folder of clip-retrieval's layout over random unit vectors, written in blocks; kept where it is there."""
    import faiss
    import pyarrow
    import pyarrow.parquet

    if (folder / "image.index").exists():
        return
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    inverted = count > MOST_EXACT
    key = f"IVF{int(4 * count**0.5)},Flat" if inverted else "Flat"
    index = faiss.index_factory(SIZE, key, faiss.METRIC_INNER_PRODUCT)
    if inverted:
        index.train(unit(rng, min(count, 40 * int(4 * count**0.5))))
        index.nprobe = 16
    keys = [f"{row:09d}" for row in range(count)]
    for start in range(0, count, 50_000):
        index.add(unit(rng, min(50_000, count - start)))
    captions = [f"picture number {row} of a random world" for row in range(count)]
    table = pyarrow.table({"image_path": keys, "caption": captions})
    pyarrow.parquet.write_table(table, folder / "metadata" / "metadata_0.parquet")
    write_faces(folder, keys, int(faces_an_image * count), rng)
    faiss.write_index(index, str(folder / "image.index"))


def write_faces(folder: Path, keys: list[str], count: int, rng: np.random.Generator) -> None:
    """`count` random faces, spread evenly over the images, and the index of candidates that such a number has."""
    import faiss

    from open_clip_idplugin.retrieval.face_index import reading as face_index
    from open_clip_idplugin.retrieval.face_index.build import candidates_index

    faces = folder / face_index.FOLDER
    faces.mkdir(exist_ok=True)
    arrays = {
        "boxes": np.tile(np.float32([10, 10, 50, 50]), (count, 1)),
        "sizes": np.full((count, 2), 100, np.int32),
        "rows": np.arange(count, dtype=np.int64) * len(keys) // count,
    }
    for name, values in arrays.items():
        np.save(faces / f"{name}.npy", values)
    shape = (count, FACE_SIZE)
    embeddings = np.lib.format.open_memmap(faces / "embeddings.npy", mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, count, 50_000):
        embeddings[start : start + 50_000] = unit(rng, min(50_000, count - start))
    if count > face_index.MOST_EXACT:
        faiss.write_index(candidates_index(embeddings), str(faces / face_index.FAISS_FILE))
    images = len(np.unique(arrays["rows"]))
    info = face_index.FaceIndexInfo(FACE_MODEL, FACE_SIZE, count, len(keys), images, face_index.keys_digest(keys), "")
    (faces / face_index.INFO_FILE).write_text(info.to_json())


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, SIZE] float32 rows of length 1."""
    rows = rng.standard_normal((count, SIZE), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@contextlib.contextmanager
def running(command: list[str], port: int, path: str, folder: Path) -> Iterator[Side]:
    """Start a service and wait for its first answer."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                break
            if process.poll() is not None or time.perf_counter() - begin > START_SECONDS:
                raise SystemExit(f"the service did not start: {' '.join(command)}")
            time.sleep(0.1)
        side = Side(process, port, time.perf_counter() - begin, folder)
        yield side
    finally:
        process.terminate()
        process.wait(60)


def ours(
    folder: Path, index: str, threads: int, *more: str, before: str = ""
) -> contextlib.AbstractContextManager[Side]:
    """`idclip serve`; `before`: statements that are run first."""
    port = free_port()
    flags = {"index": f"index={folder / index}", "model": IDENTITY, "checkpoint": folder / "identity.pt", "port": port}
    flags |= {"gallery": folder / "gallery.sqlite", "threads": threads}
    command = [sys.executable, "-c", f"{before}\nfrom open_clip_idplugin.cli import main; main()", "serve"]
    return running([*command, *(f"--{name}={value}" for name, value in flags.items()), *more], port, "/healthz", folder)


def stock(folder: Path, index: str) -> contextlib.AbstractContextManager[Side]:
    """clip-retrieval's backend with its development server."""
    port = free_port()
    paths = folder / "indices.json"
    paths.write_text(json.dumps({"index": str(folder / index)}))
    command = [sys.executable, "-c", STOCK, str(paths), str(port), f"open_clip:{PLAIN}/{folder / 'plain.pt'}"]
    return running(command, port, "/indices-list", folder)


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def text_request(turn: int) -> dict[str, Any]:
    """A plain text, as clip-retrieval wants it."""
    text = f"A picture of a woman {CONTEXTS[turn % len(CONTEXTS)]}, number {turn}"
    stock_fields = {"modality": "image", "indice_name": "index", "num_images": 40, "num_result_ids": 40}
    return {"text": text, **stock_fields, "deduplicate": False, "use_mclip": False, "include_images": False}


def people_request(turn: int) -> dict[str, Any]:
    """The same with an enrolled person in it."""
    text = f"A picture of [TOK] {CONTEXTS[turn % len(CONTEXTS)]}, number {turn}"
    return {"text": text, "identities": [NAME], "num_images": 40, "include_images": False, "fusion": "none"}


def hybrid_request(turn: int) -> dict[str, Any]:
    """The same, ranked by faces too."""
    return {**people_request(turn), "fusion": HYBRID}


@lru_cache(maxsize=4)
def photograph(kind: str, turn: int) -> str:
    """A picture file of 1.5 million pixels with soft shapes and noise, as base64."""
    from PIL import Image

    rng = np.random.default_rng(turn)
    shapes = Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)).resize((1500, 1000), 3)
    noisy = np.asarray(shapes).astype(int) + rng.normal(0, 6, (1000, 1500, 1)).astype(int)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def picture_request(kind: str, turn: int) -> dict[str, Any]:
    """A picture as the query, as clip-retrieval takes it."""
    request = {**text_request(turn), "image": photograph(kind, turn % 4)}
    return {name: value for name, value in request.items() if name != "text"}


def timed(side: Side, body: dict[str, Any], connection: http.client.HTTPConnection | None = None) -> float:
    """Seconds of one request; ends the program where it is refused."""
    connection = connection or side.connect()
    begin = time.perf_counter()
    status, answer = post(connection, "/knn-service", body)
    seconds = time.perf_counter() - begin
    results = json.loads(answer) if status == 200 else []
    if not results:
        raise SystemExit(f"a request was refused: {answer[:300]!r}")
    if body.get("fusion") == HYBRID and not all("face_similarity" in result for result in results):
        raise SystemExit("a hybrid request was answered without comparing faces, so that its time says nothing")
    return seconds


def post(connection: http.client.HTTPConnection, address: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """(status, answer) of one request."""
    connection.request("POST", address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()
