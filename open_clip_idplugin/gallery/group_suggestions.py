"""Suggestions of people: the unknown faces of a table -> groups, shown so that they can be named.

Role: face table + gallery -> the three files of `group_files`, and named groups -> people to enroll. Where the faces'
pictures are is the caller's matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_table import FaceRow, FaceTable
from open_clip_idplugin.faces.grouping import group_faces
from open_clip_idplugin.faces.row_crops import Crops, face_of
from open_clip_idplugin.faces.score_pairs import LEAST_FACE
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.bulk_enrolment import Candidate
from open_clip_idplugin.gallery.enrolment import encode_crop
from open_clip_idplugin.gallery.group_files import Groups, ShownFace, write_groups
from open_clip_idplugin.gallery.quality import quality_of
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.pictures.keys import label_of

_BLOCK = 1 << 16  # faces compared with the enrolled people at a time
CropReader = Callable[[Sequence[FaceRow]], Crops]


@dataclass(frozen=True)
class SuggestOptions:
    """How faces are grouped: cosine from which two are neighbours, the smallest group, most faces shown of one, and the
    pixels of a face's shorter side below which it is left out."""

    same_face: float
    min_faces: int = 3
    show: int = 12
    least_face: float = LEAST_FACE


@dataclass(frozen=True)
class Suggested:
    """How many faces are whose."""

    faces: int
    enrolled: int
    groups: int
    grouped: int
    small: int = 0  # too small to tell whose they are

    def lines(self) -> list[str]:
        """The same in words."""
        alone = self.faces - self.enrolled - self.grouped - self.small
        small = f", {self.small} too small" if self.small else ""
        return [
            f"{self.faces} faces: {self.enrolled} of enrolled people, {self.grouped} in {self.groups} groups, "
            f"{alone} alone{small}"
        ]


def suggest_groups(
    table: FaceTable,
    gallery: Gallery,
    output: Path,
    options: SuggestOptions,
    read_crops: CropReader,
    pictures: str = "",
    graph: Path | None = None,
) -> Suggested:
    """Group the faces that are nobody enrolled, and write groups.html, groups.csv and groups.json to `output`.

    pictures: where the collection is, as it is noted for `enroll_groups`; empty where that is not known.
    graph: file in which the comparisons of faces are kept for the next time.

    Raises:
        ModelMismatch: the gallery's face model is another one.
        IdClipError: `output` holds groups already.
    """
    strangers = find_unknown(table, gallery, options.same_face)
    unknown = strangers[_sides(table)[strangers] >= options.least_face]  # smaller ones look alike to a face model
    grouped = group_faces(np.asarray(table.embeddings[unknown]), options.same_face, options.min_faces, graph)
    groups = [unknown[rows] for rows in grouped]
    members = [[row_of(table, int(row)) for row in rows[: options.show]] for rows in groups]
    crops = read_crops([row for rows in members for row in rows])
    found = Groups(
        str(table.folder.absolute()),
        table.info.fingerprint,
        pictures,
        tuple(tuple(int(row) for row in rows) for rows in groups),
    )
    write_groups(output, found, [[_shown(row, crops) for row in rows] for rows in members])
    count = len(table.embeddings)
    small = len(strangers) - len(unknown)
    return Suggested(count, count - len(strangers), len(groups), sum(map(len, groups)), small)


def _sides(table: FaceTable) -> np.ndarray:
    """[N] pixels of the shorter side of the face of each row of the embeddings."""
    boxes = table.column("box")[table.face_of_embedding]
    return np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def candidates_of(
    table: FaceTable, groups: Groups, names: Mapping[int, str], read_crops: CropReader, keep_crops: bool = True
) -> list[Candidate]:
    """Who is to be enrolled: the people whose groups were named; groups of one name are one person.

    names: number of the group -> name. keep_crops: the gallery keeps a small picture of each face that can be read.

    Raises:
        IdClipError: a group has a face that the table does not have.
    """
    if any(row >= len(table.embeddings) for rows in groups.groups for row in rows):
        raise IdClipError(
            f"the face table '{table.folder}' has fewer faces than were grouped: run idclip suggest again"
        )
    numbers: dict[str, list[int]] = {}
    for group, name in names.items():
        numbers.setdefault(name, []).extend(groups.groups[group - 1])
    rows = {name: [(number, row_of(table, number)) for number in some] for name, some in numbers.items()}
    crops = read_crops([row for some in rows.values() for _, row in some])
    return [
        Candidate(
            name,
            [(place_of(row), partial(_photo_face, table, number, row, crops, keep_crops)) for number, row in some],
        )
        for name, some in rows.items()
    ]


def row_of(table: FaceTable, embedding_row: int) -> FaceRow:
    """The row of the table to which a row of the embeddings belongs."""
    return table.row(int(table.face_of_embedding[embedding_row]))


def place_of(row: FaceRow) -> str:
    """Where a face is from, for people."""
    return label_of(row.shard, row.key)


def _shown(row: FaceRow, crops: Crops) -> ShownFace:
    crop = crops.get(face_of(row))
    return ShownFace(place_of(row), None if crop is None else encode_crop(crop))


def _photo_face(table: FaceTable, number: int, row: FaceRow, crops: Crops, keep: bool) -> PhotoFace:
    """A face of the table as the gallery keeps it; without its picture the quality leaves sharpness out."""
    crop = crops.get(face_of(row))
    quality = quality_of(row.score, row.box, row.landmarks, crop)
    picture = encode_crop(crop) if keep and crop is not None else None
    return PhotoFace(place_of(row), np.array(table.embeddings[number]), quality, picture)


def find_unknown(table: FaceTable, gallery: Gallery, threshold: float) -> npt.NDArray[np.int64]:
    """Rows of the table's embeddings whose cosine with every enrolled person's mean is below the threshold.

    Raises:
        ModelMismatch: the gallery's face model is another one.
    """
    with gallery.one_state():
        model_id, (names, means) = gallery.model_id, gallery.means()
    if model_id is not None:
        table.require_model(model_id, f"the gallery '{gallery.path}'")
    count = len(table.embeddings)
    if not names:
        return np.arange(count)
    known = [
        (table.embeddings[start : start + _BLOCK] @ means.T).max(axis=1) >= threshold
        for start in range(0, count, _BLOCK)
    ]
    return np.flatnonzero(~np.concatenate([*known, np.zeros(0, bool)]))
