"""The faces beside an image index: which faces each indexed image shows, and how similar they are to a person.

Role: the format of an index's folder `faces/` and its reader; `add_faces` writes it. `embeddings.npy` [M, D] float32 (unit
rows), `boxes.npy` [M, 4] float32 (x0, y0, x1, y1 in pixels), `sizes.npy` [M, 2] int32 (width, height of the picture) and
`rows.npy` [M] int64 (the image's row; ascending, so that the faces of an image lie together) are mapped into memory.
All of it is biometric data, readable by its owner alone. Beyond `MOST_EXACT` faces `faces.index` finds candidates.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from open_clip_idplugin.faces.calibration import Calibration
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.queries.fusion import match_faces
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.faiss_files import read_index
from open_clip_idplugin.retrieval.index_folder.id_selector import probing
from open_clip_idplugin.storage.finite_json import json_text

FOLDER = "faces"
INFO_FILE, FAISS_FILE = "faces.json", "faces.index"
ARRAYS = ("embeddings", "boxes", "sizes", "rows")
FORMAT = "face-index-v1"
MOST_EXACT = 50_000  # faces that are compared one by one
_PROBES = 32  # lists of faces.index that a search reads


@dataclass(frozen=True)
class FaceIndexInfo:
    """`faces.json`."""

    model_id: str
    embedding_size: int
    faces: int
    images: int  # rows of the image index that were joined; later rows have unknown faces
    images_with_faces: int
    keys: str  # `keys_digest` of these images
    table: str  # fingerprint of the face table

    def to_json(self) -> str:
        """The file's content."""
        return json_text({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True)
class PersonMatches:
    """How R images match P people who must be different faces.

    similarities: [P, R] float32, where a person is left without a face what different people have on average; faces: [P, R]
    int64, rows of the face index, -1 there; counts: [R] int64, faces found in each image.
    """

    similarities: np.ndarray
    faces: np.ndarray
    counts: np.ndarray


class FaceIndex:
    """An opened folder `faces/`; safe to use from several threads."""

    def __init__(
        self,
        info: FaceIndexInfo,
        arrays: dict[str, np.ndarray],
        candidates: Any | None,
        calibration: Calibration | None = None,
    ) -> None:
        """`arrays`: as `ARRAYS` names them; `candidates`: the faiss index, or None; `calibration`: None looks for the model's."""
        self.info = info
        self.calibration = load_calibration(info.model_id) if calibration is None else calibration
        self.embeddings, self.boxes, self.sizes = (arrays[name] for name in ARRAYS[:3])
        self.rows = np.asarray(arrays["rows"])
        self._starts = np.searchsorted(self.rows, np.arange(info.images + 1))
        self._candidates = candidates

    @property
    def model_id(self) -> str:
        """The face model of all embeddings."""
        return self.info.model_id

    def faces_of(self, image: int) -> range:
        """Rows of the face index that belong to an image, best detection first."""
        if not 0 <= image < self.info.images:
            return range(0)
        return range(int(self._starts[image]), int(self._starts[image + 1]))

    def match(self, people: np.ndarray, images: np.ndarray) -> PersonMatches:
        """People [P, D] float32 (unit rows) and images [R] int64 -> which face of each image is whom."""
        owner, faces, counts = self._gather(images)
        shape = (len(people), len(images))
        nobody = self.calibration.impostors.mean
        best, chosen = np.full(shape, nobody, np.float32), np.full(shape, -1, np.int64)
        if len(faces):
            values = people @ np.asarray(self.embeddings[faces]).T  # [P, K]
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            for person, row in enumerate(values):
                _best_of_groups(row, owner, starts, faces, best[person], chosen[person])
            if len(people) > 1:
                ends = dict(zip(owner[starts].tolist(), [*starts[1:].tolist(), len(owner)], strict=True))
                for image in _conflicts(chosen, counts):
                    span = slice(ends[image] - int(counts[image]), ends[image])
                    _assign(values[:, span], faces[span], nobody, best[:, image], chosen[:, image])
        return PersonMatches(best, chosen, counts)

    def nearest_images(self, person: np.ndarray, count: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """Images that show the `count` faces most similar to a person [D]; approximate beyond `MOST_EXACT` faces.

        allowed: [rows of the image index] bool. Returns distinct rows, int64, in no order.
        """
        wanted = None if allowed is None else allowed[self.rows]
        count = min(count, len(self.rows))
        if not count:
            return np.zeros(0, np.int64)
        if self._candidates is None:
            values = self.embeddings @ person
            if wanted is not None:
                values = np.where(wanted, values, -np.inf)
            found = np.argpartition(-values, count - 1)[:count]
            return np.unique(self.rows[found[np.isfinite(values[found])]])
        _, found = self._candidates.search(person[None], count, params=probing(_PROBES, wanted))
        return np.unique(self.rows[found[found >= 0]])

    def box(self, face: int) -> tuple[list[float], list[float]]:
        """A face's x0, y0, x1, y1 in pixels of the picture, and as fractions of its width and height."""
        pixels = np.asarray(self.boxes[face], np.float64)
        width, height = (float(side) for side in self.sizes[face])
        relative = np.clip(pixels / [width, height, width, height], 0, 1)
        return [round(float(value), 1) for value in pixels], [round(float(value), 4) for value in relative]

    def _gather(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The faces of these images: number of the image in `images` [K], row of the face index [K]; and counts [R]."""
        known = np.clip(images, 0, max(self.info.images - 1, 0))
        first = self._starts[known]
        counts = (
            np.where(images < self.info.images, self._starts[known + 1] - first, 0) if self.info.images else 0 * images
        )
        owner = np.repeat(np.arange(len(images)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, first[owner] + within, counts


def load_face_index(index: Path, keys: Sequence[str], model_id: str | None = None) -> FaceIndex | None:
    """Open the folder `faces/` of an image index; None where there is none.

    Args:
        index: folder of the image index.
        keys: of all its rows.
        model_id: the face model of the people who will be looked for, where known.

    Raises:
        IndexMismatch: damaged, or made for other images.
        ModelMismatch: made with another face model.
    """
    folder = index / FOLDER
    if not folder.is_dir():
        return None
    info = read_info(folder)
    require_same_model(info.model_id, model_id, f"the faces of the index '{index}' and the people of the queries")
    if info.images > len(keys) or info.keys != keys_digest(keys[: info.images]):
        raise IndexMismatch(
            f"the faces in '{folder}' belong to other images than '{index}' holds: add them again with `idclip index_faces`"
        )
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r" if info.faces else None) for name in ARRAYS}
        if {len(array) for array in arrays.values()} != {info.faces}:
            raise ValueError("files of different lengths")
        path = folder / FAISS_FILE
        candidates = read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY) if path.exists() else None
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexMismatch(f"'{folder}' is damaged ({error}): add the faces again with `idclip index_faces`") from None
    return FaceIndex(info, arrays, candidates, load_calibration(info.model_id, folder))


def read_info(folder: Path) -> FaceIndexInfo:
    """`faces.json` of a folder; raises IndexMismatch where it cannot be read."""
    try:
        values = json.loads((folder / INFO_FILE).read_text())
        if values.pop("format") == FORMAT:
            return FaceIndexInfo(**values)
        raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexMismatch(f"'{folder}' is damaged ({error}): add the faces again with `idclip index_faces`") from None


def keys_digest(keys: Sequence[str]) -> str:
    """SHA-256 over the keys of an index's rows, in order."""
    return hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()


def _best_of_groups(
    values: np.ndarray, owner: np.ndarray, starts: np.ndarray, faces: np.ndarray, best: np.ndarray, chosen: np.ndarray
) -> None:
    """Write the largest of each group's values [K] and its face into `best` and `chosen` [R]."""
    images = owner[starts]
    best[images] = np.maximum.reduceat(values, starts)
    winners = np.flatnonzero(values == best[owner])[::-1]  # reversed: of equal ones the first is written last
    chosen[owner[winners]] = faces[winners]


def _conflicts(chosen: np.ndarray, counts: np.ndarray) -> list[int]:
    """Images in which two people chose the same face, out of [P, R]."""
    ordered = np.sort(chosen, axis=0)
    return np.flatnonzero((counts > 0) & (np.diff(ordered, axis=0) == 0).any(axis=0)).tolist()


def _assign(values: np.ndarray, faces: np.ndarray, nobody: float, best: np.ndarray, chosen: np.ndarray) -> None:
    """Give P people different faces of one image: values [P, F] -> `best` and `chosen` [P]."""
    picked = match_faces(values)
    found = picked >= 0
    chosen[:] = np.where(found, faces[picked], -1)
    best[:] = np.where(found, values[np.arange(len(values)), picked], nobody)
