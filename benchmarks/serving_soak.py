"""Soak: `idclip serve` is searched by many clients while images join and leave its index and people are enrolled and forgotten.

Clients ask in words, for people and by picture, with thumbnails and metadata. Meanwhile one thread adds images with faces to the
index, removes some and compacts it, as `idclip index_add`, `index_remove` and `index_compact` do, and another enrols people as a
second program would and forgets them over HTTP. Every answer must be one; the program ends with an error otherwise. Says
nothing of speed.
"""

import argparse
import collections
import contextlib
import http.client
import io
import itertools
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import serving_sides
from serving_sides import FACE_MODEL, FACE_SIZE, IDENTITY, Side, post

AT_FIRST, AT_ONCE, COMPACT_EVERY = 48, 4, 5
MOST = 120  # images of the index; then as many leave as join


def main() -> None:
    """One soak a number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--clients", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where models are kept")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        serving_sides.prepare(folder)
        soak(folder, arguments.clients, arguments.minutes, arguments.threads)


def soak(folder: Path, clients: list[int], minutes: float, threads: int) -> None:
    """Serve an index of `folder` that changes; ends the program where anything went wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        os.environ["XDG_DATA_HOME"] = place  # where scores of these faces would be kept as the user's
        changes = IndexChanges(folder, Path(place))
        with serving_sides.ours(folder, f"{Path(place).name}/archive", threads) as side:
            for number in clients:
                _one(side, changes, number, minutes)


def _one(side: Side, changes: "IndexChanges", clients: int, minutes: float) -> None:
    over, wrong, done = threading.Event(), [], collections.Counter[str]()

    def repeat(work: Any) -> None:
        while not over.is_set():
            try:
                work(done, wrong)
            except Exception as error:  # whatever it is, it is what is looked for
                wrong.append(f"{type(error).__name__}: {error}")
                time.sleep(1)

    people = PeopleChanges(side)
    workers = [threading.Thread(target=repeat, args=(work,)) for work in (changes.step, people.step)]
    workers += [
        threading.Thread(target=repeat, args=(Client(side, number, changes.leaving).step,)) for number in range(clients)
    ]
    for worker in workers:
        worker.start()
    time.sleep(60 * minutes)
    over.set()
    for worker in workers:
        worker.join()
    print(f"{clients} clients, {minutes:g} minutes: {dict(sorted(done.items()))}; {side.memory()}", flush=True)
    print(f"  {len(wrong)} errors", *wrong[:5], sep="\n  ", flush=True)
    if wrong or not all(done[what] for what in ("answers", "added", "removed", "compacted", "forgotten")):
        raise SystemExit("the soak had errors, or did not do all that it is for")


class Client:
    """Asks one thing after the other."""

    def __init__(self, side: Side, number: int, leaving: set[str]) -> None:
        self._leaving, self._turns = leaving, itertools.count(number * 1_000_000)
        self._connection = side.connect()

    def step(self, done: "collections.Counter[str]", wrong: list[str]) -> None:
        """One request, and the metadata of an image of the answer, which may have left meanwhile."""
        turn = next(self._turns)
        request = (serving_sides.text_request, serving_sides.hybrid_request, serving_sides.people_request)[turn % 3](
            turn
        )
        if turn % 7 == 0:
            request = serving_sides.picture_request("PNG" if turn % 2 else "JPEG", turn)
        found = self._ask(
            "/knn-service", {**request, "num_images": 10, "num_result_ids": 10, "include_images": True}, done, wrong
        )
        if turn % 3 == 1 and turn % 7 and found and not all("face_similarity" in result for result in found):
            wrong.append("a hybrid request was answered without comparing faces")
        without = {result["image_path"] for result in found or () if not result.get("image")}
        if without - self._leaving:  # a thumbnail goes at once, also from under an answer that is being made
            wrong.append(f"results have no picture: {without - self._leaving}")
        if found and turn % 5 == 0:  # row 0 is never removed
            self._ask("/metadata", {"ids": [0], "indice_name": "index"}, done, wrong)

    def _ask(self, address: str, body: dict[str, Any], done: "collections.Counter[str]", wrong: list[str]) -> Any:
        try:
            status, answer = post(self._connection, address, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            wrong.append(f"{address}: {type(error).__name__} {error}")
            return None
        if status != 200:
            wrong.append(f"{address}: {status} {answer[:200]!r}")
            return None
        done["answers"] += 1
        return json.loads(answer)


class PeopleChanges:
    """Enrols as another program would, and forgets over HTTP."""

    def __init__(self, side: Side) -> None:
        self._connection, self._gallery = side.connect(), side.gallery()
        self._rng, self._turns = np.random.default_rng(1), itertools.count()

    def step(self, done: "collections.Counter[str]", wrong: list[str]) -> None:
        """One person comes, is listed, searched for, and goes."""
        name = f"Passer-by {next(self._turns) % 50}"
        self._gallery.enroll(name, self._rng.standard_normal(FACE_SIZE), FACE_MODEL)
        query = {"text": "[TOK] on a boat", "identities": [name], "num_images": 5}
        asked = {"/people/list": {"include_images": False}, "/knn-service": query, "/people/forget": {"name": name}}
        for address, body in asked.items():
            status, answer = post(self._connection, address, body)
            if status != 200:
                wrong.append(f"{address}: {status} {answer[:200]!r}")
        done["forgotten"] += 1


class IndexChanges:
    """Makes an index of drawn pictures with faces, and changes it."""

    def __init__(self, folder: Path, place: Path) -> None:
        from open_clip_idplugin.checkpoints.loading import load_model
        from open_clip_idplugin.retrieval.face_index.build import add_faces
        from open_clip_idplugin.retrieval.index.build import build_index
        from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
        from open_clip_idplugin.retrieval.index.sources import find_images

        self._place, self._index, self._options = place, place / "archive", EmbedOptions(16, 0)
        self._loaded = load_model(IDENTITY, str(folder / "identity.pt"), device="cpu")
        self._numbers, self._rng = itertools.count(), np.random.default_rng(2)
        pictures, table = self._draw(AT_FIRST)
        build_index(find_images(str(pictures)), self._loaded, self._index, self._options)
        add_faces(self._index, table)
        self._steps, self.leaving = itertools.count(1), set[str]()

    def step(self, done: "collections.Counter[str]", wrong: list[str]) -> None:
        """Some images join, some leave, and now and then the index is written anew without these."""
        from open_clip_idplugin.retrieval.index.add import add_images
        from open_clip_idplugin.retrieval.index.compact import compact
        from open_clip_idplugin.retrieval.index.sources import find_images
        from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
        from open_clip_idplugin.retrieval.index_folder.removed_rows import count_rows, read_removed, remove_rows

        pictures, table = self._draw(AT_ONCE)
        added = add_images(self._index, find_images(str(pictures)), self._loaded, self._options, str(table))
        done["added"] += added.images
        rows = count_rows(self._index)
        left = np.setdiff1d(np.arange(1, rows), read_removed(self._index))
        leaving = self._rng.choice(left, AT_ONCE if len(left) > MOST else AT_ONCE // 2, replace=False)
        keys = read_keys(self._index)
        self.leaving |= {keys[row] for row in leaving}
        done["removed"] += remove_rows(self._index, lambda: np.sort(leaving))[1]
        if next(self._steps) % COMPACT_EVERY == 0:
            done["compacted"] += compact(self._index).images > 0

    def _draw(self, count: int) -> tuple[Path, Path]:
        """A folder of pictures and the table of their faces, one each."""
        from PIL import Image

        number = next(self._numbers)
        (pictures := self._place / f"pictures_{number}").mkdir()
        keys = [f"{number:06d}_{place:03d}.jpg" for place in range(count)]
        for key in keys:
            stream = io.BytesIO()
            Image.fromarray(self._rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240)).save(
                stream, "JPEG"
            )
            (pictures / key).write_bytes(stream.getvalue())
        return pictures, _face_table(self._place / f"table_{number}", keys, serving_sides.unit(self._rng, count))


def _face_table(folder: Path, keys: list[str], embeddings: np.ndarray) -> Path:
    """A table as `idclip faces` writes it, from given embeddings [N, D], unit rows."""
    import pyarrow.parquet

    from open_clip_idplugin.faces import face_table as table
    from open_clip_idplugin.storage import file_hash

    folder.mkdir()
    box, landmarks = np.float32([10, 10, 50, 50]), np.zeros((5, 2))
    rows = [
        table.FaceRow("", key, key, 0, box, landmarks, 0.9, 320, 240, FACE_MODEL, row) for row, key in enumerate(keys)
    ]
    pyarrow.parquet.write_table(table.rows_to_table(rows), folder / table.TABLE_FILE)
    np.save(folder / table.EMBEDDINGS_FILE, embeddings)
    digest = file_hash.file_sha256(folder / table.TABLE_FILE, folder / table.EMBEDDINGS_FILE)
    info = table.FaceTableInfo(FACE_MODEL, FACE_SIZE, len(rows), len(rows), len(keys), "soak", digest)
    (folder / table.METADATA_FILE).write_text(info.to_json())
    return folder


if __name__ == "__main__":
    main()
