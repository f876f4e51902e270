"""The verb `idclip index_compact`: what was removed from an index leaves its files too.

Role: index folder with `removed.json` -> the same folder without these rows: vectors, metadata, thumbnails and faces. The
faiss indices are built again by autofaiss from the stored embeddings; the rows that stay keep their order and get new ids.
"""

import contextlib
import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.thumbnails import FILE_NAME, Thumbnails, ThumbnailWriter
from open_clip_idplugin.retrieval.face_index.change import compact_faces
from open_clip_idplugin.retrieval.face_index.kept_face_table import FOLDER as FACE_TABLE
from open_clip_idplugin.retrieval.face_index.kept_face_table import keep_only
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.index.build import REPORT_FILE, count_synthetic
from open_clip_idplugin.retrieval.index.factory_key import why_unfit
from open_clip_idplugin.retrieval.index.faiss_build import build_faiss
from open_clip_idplugin.retrieval.index.picture_manifest import FILE_NAME as MANIFEST
from open_clip_idplugin.retrieval.index_folder.card import IndexCard, IndexMismatch, load_card
from open_clip_idplugin.retrieval.index_folder.generations import changing, link_tree, replacing
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
from open_clip_idplugin.retrieval.index_folder.removed_rows import count_rows, read_removed
from open_clip_idplugin.storage.atomic import PUBLIC
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.output_folder import building_folder, discard_building
from open_clip_idplugin.storage.reports import write_report

_TOWERS = {"img": "image", "text": "text"}  # of a folder of embeddings -> of the faiss index over it
_BLOCK = 1024  # thumbnails that are copied at a time


@dataclass(frozen=True)
class Left:
    """What left an index, and what stays."""

    images: int
    thumbnails: int
    faces: int
    images_that_stay: int


def index_compact(index: str, index_key: str | None = None) -> None:
    """Erase what `idclip index_remove` took out of an index from its files; a service goes on with the new index.

    Args:
        index: index folder.
        index_key: faiss index type of the new index (default: the type it had, or autofaiss's choice where that is not
            noted).
    """
    left = compact(Path(index), index_key)
    if not left.images:
        print(f"{index}: nothing was removed from it, so that nothing is to be erased")
        return
    print(f"{index}: {left.images} images left with {left.thumbnails} thumbnails and {left.faces} faces")
    print(f"{left.images_that_stay} images stay, in the same order; their ids (row numbers) are new")


def compact(index: Path, index_key: str | None = None) -> Left:
    """Rebuild an index without its removed rows; all or nothing.

    Raises:
        IndexMismatch: no index, or not all of its embeddings are stored.
        IdClipError: all images were removed.
    """
    index = index.resolve()
    with changing(index):
        rows, removed = count_rows(index), read_removed(index)
        stays = np.ones(rows, bool)
        stays[removed[removed < rows]] = False
        if stays.all():
            discard_building(index)
            return Left(0, 0, 0, rows)
        if not stays.any():
            raise IdClipError(f"all images of '{index}' were removed: delete the folder instead")
        plan = json_text({"compact": removed.tolist()})
        with building_folder(index, plan) as building, replacing(index, building) as folder:
            return _write(index, folder, stays, index_key)


def _write(index: Path, folder: Path, stays: np.ndarray, index_key: str | None) -> Left:
    card = load_card(index)
    _keep_metadata(index, folder, stays)
    for tower, name in _TOWERS.items():
        if (index / f"{name}.index").exists():
            _keep_embeddings(index, folder, f"{tower}_emb", stays)
            build_faiss(folder, tower, name, index_key or _noted_key(index / f"{name}.json", card, int(stays.sum())))
    partitions = card.partitions if card is not None else (len(stays),)
    ends = np.cumsum(partitions)
    parts = tuple(int(part.sum()) for part in np.split(stays, ends[:-1]))
    thumbnails = _keep_thumbnails(index, folder, stays, partitions)
    faces = compact_faces(index, folder, stays) if (index / FACES).is_dir() else 0
    _keep_report(index, folder, stays)
    _keep_lists(index, folder, stays)
    if card is not None:
        _compact_card(card, folder, parts).write(folder)
    return Left(int((~stays).sum()), thumbnails, faces, int(stays.sum()))


def _keep_metadata(index: Path, folder: Path, stays: np.ndarray) -> None:
    import pyarrow.parquet

    (folder / "metadata").mkdir()
    start = 0
    for path in sorted((index / "metadata").glob("*.parquet")):
        table = pyarrow.parquet.read_table(path)
        mask = stays[start : start + len(table)]
        start += len(table)
        if mask.any():
            pyarrow.parquet.write_table(table.filter(mask), folder / "metadata" / path.name)


def _keep_embeddings(index: Path, folder: Path, name: str, stays: np.ndarray) -> None:
    files = sorted((index / name).glob("*.npy"))
    parts = [np.load(path, mmap_mode="r") for path in files]
    if sum(map(len, parts)) != len(stays):
        raise IndexMismatch(
            f"'{index}' does not hold the embeddings ({name}/*.npy) of all {len(stays)} images, from which the index is made "
            "again: make it with `idclip index` from the pictures that stay"
        )
    (folder / name).mkdir()
    start = 0
    for path, part in zip(files, parts, strict=True):
        mask = stays[start : start + len(part)]
        start += len(part)
        if mask.any():
            np.save(folder / name / path.name, part[mask])


def _noted_key(infos: Path, card: IndexCard | None, count: int) -> str | None:
    """The type that autofaiss noted beside the index; None where it is not noted, or needs more than the `count` that stay."""
    if not infos.exists():
        return None
    key: Any = json.loads(infos.read_text()).get("index_key")
    if not isinstance(key, str) or (card is not None and why_unfit(key, card.embedding_size, count) is not None):
        return None
    return key


def _keep_thumbnails(index: Path, folder: Path, stays: np.ndarray, partitions: tuple[int, ...]) -> int:
    """Copy the thumbnails of the rows that stay; returns how many left or had been erased."""
    old = Thumbnails(index, partitions)
    if old.empty:
        return 0
    start = 0
    for number, count in enumerate(partitions):
        rows = np.flatnonzero(stays[start : start + count]) + start
        start += count
        writer = ThumbnailWriter(folder / FILE_NAME, number)
        for first in range(0, len(rows), _BLOCK):
            writer.add([jpeg or b"" for jpeg in old.get(rows[first : first + _BLOCK].tolist())])
        writer.commit()
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM thumbnails WHERE length(jpeg) = 0")
    return int((~stays).sum())


def _keep_report(index: Path, folder: Path, stays: np.ndarray) -> None:
    """The report, without the keys of images that left."""
    path = index / REPORT_FILE
    if not path.exists():
        return
    gone = {key for key, stay in zip(read_keys(index), stays.tolist(), strict=True) if not stay}
    values = json.loads(path.read_text())
    for added in values.get("added", []):
        known = added["in_the_index_already"]
        known["keys"] = [key for key in known["keys"] if key not in gone]
    values["removed"] = values.get("removed", 0) + int((~stays).sum())
    write_report(folder / REPORT_FILE, values, PUBLIC)


def _keep_lists(index: Path, folder: Path, stays: np.ndarray) -> None:
    """What names the pictures that stay: the manifest, and the face table without the faces of the others."""
    for name in (MANIFEST, FACE_TABLE):
        if (index / name).exists():
            link_tree(index / name, folder / name)
    keep_only(folder, {key for key, stay in zip(read_keys(index), stays.tolist(), strict=True) if stay})


def _compact_card(card: IndexCard, folder: Path, partitions: tuple[int, ...]) -> IndexCard:
    """The card of what stays; its plan is nobody's, since no run of `idclip index` would make this index."""
    synthetic = count_synthetic(folder / "metadata")
    return replace(
        card, images=sum(partitions), partitions=partitions, synthetic=synthetic, plan=f"{card.plan} compacted"
    )
