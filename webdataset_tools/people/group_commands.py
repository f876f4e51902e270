"""The verbs `idclip suggest` and `idclip enroll_groups`: name the people of a collection group by group."""

from functools import partial
from pathlib import Path

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_table import FaceRow, FaceTable, load_face_table
from open_clip_idplugin.gallery import Details, Gallery
from open_clip_idplugin.gallery.bulk_enrolment import Candidate
from open_clip_idplugin.gallery.enrolment import encode_crop
from open_clip_idplugin.gallery.folder_command import run_enrolment
from open_clip_idplugin.gallery.group_files import (
    CSV_FILE,
    PAGE_FILE,
    Groups,
    ShownFace,
    read_groups,
    write_groups,
)
from open_clip_idplugin.gallery.grouping import find_unknown, group_faces
from open_clip_idplugin.gallery.likeness import SAME_FACE
from open_clip_idplugin.gallery.photo_face import PhotoFace
from open_clip_idplugin.gallery.quality import quality_of
from webdataset_tools.collection_faces.collection import find_collection
from webdataset_tools.collection_faces.options import PICTURES_PER_PART
from webdataset_tools.collection_faces.picture_reading import label_of
from webdataset_tools.collection_faces.sheet import face_of, read_crops

Crops = dict[tuple[str | None, str, int], np.ndarray]


def suggest(
    face_table: str,
    output: str,
    input: str | None = None,
    gallery: str | None = None,
    same_face: float = SAME_FACE,
    min_faces: int = 3,
    show: int = 12,
) -> None:
    """Group the unknown faces of a face table, so that people can be named group by group.

    Args:
        face_table: folder that `idclip faces` wrote.
        output: folder for groups.html, groups.csv and groups.json; only their owner can read them.
        input: the pictures, as `idclip faces` took them; without them the page has file names instead of faces.
        gallery: gallery file (default: gallery.sqlite in the user's data folder); faces of its people are left out.
        same_face: cosine from which two faces are taken for one person.
        min_faces: the smallest group.
        show: most faces of a group on the page.
    """
    if min_faces < 2 or show < 1 or not 0 < same_face < 1:
        raise IdClipError("give --min_faces of at least 2, --show of at least 1 and --same_face between 0 and 1")
    table = load_face_table(face_table)
    unknown = find_unknown(table, Gallery(gallery), same_face)
    groups = [unknown[rows] for rows in group_faces(np.asarray(table.embeddings[unknown]), same_face, min_faces)]
    members = [[_row_of(table, int(row)) for row in rows[:show]] for rows in groups]
    crops = _read_crops([row for rows in members for row in rows], input)
    shown = [[_shown(row, crops) for row in rows] for rows in members]
    found = Groups(
        str(table.folder.absolute()),
        table.info.fingerprint,
        input or "",
        tuple(tuple(int(row) for row in rows) for rows in groups),
    )
    write_groups(Path(output), found, shown)
    grouped = sum(map(len, groups))
    print(
        f"{len(table.embeddings)} faces: {len(table.embeddings) - len(unknown)} of enrolled people, {grouped} in "
        f"{len(groups)} groups, {len(unknown) - grouped} alone"
    )
    print(f"wrote {output}: look at {PAGE_FILE}, write names into {CSV_FILE} (one person may have several groups)")
    print(f"Next: idclip enroll_groups {Path(output) / CSV_FILE}")


def enroll_groups(
    groups: str,
    gallery: str | None = None,
    face_table: str | None = None,
    input: str | None = None,
    crops: bool = True,
    notes: str | None = None,
    consent: str | None = None,
    consent_date: str | None = None,
    consent_until: str | None = None,
    same_face: float = SAME_FACE,
    report: str = "report.json",
) -> None:
    """Remember the people whose groups of faces were named in the groups.csv of `idclip suggest`.

    Args:
        groups: groups.csv with names; groups without one are passed over, groups of one name are one person.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        face_table: where the face table is now, if it was moved.
        input: where the pictures are now, if they were moved or not given before.
        crops: keep a small picture of each face, where the pictures are known; --nocrops keeps embeddings alone.
        notes: anything worth knowing about all of them.
        consent: reference of everybody's consent.
        consent_date: day on which it was given, YYYY-MM-DD.
        consent_until: last day on which it holds, YYYY-MM-DD; nobody is searched for afterwards.
        same_face: warn of two people whose means have this cosine or more; above 1 never warns.
        report: where the account of every photo is written.
    """
    details = {"notes": notes, "consent": consent, "consent_date": consent_date, "consent_until": consent_until}
    Details().changed(**details)
    found, names = read_groups(Path(groups))
    if not names:
        raise IdClipError(f"no group of '{groups}' has a name yet: fill in the column name")
    table = load_face_table(face_table or found.face_table)
    Gallery(gallery).require_model(table.model_id)
    if table.info.fingerprint != found.fingerprint:
        raise IdClipError(f"the face table '{table.folder}' is not the one that was grouped: run idclip suggest again")
    numbers: dict[str, list[int]] = {}
    for group, name in names.items():
        numbers.setdefault(name, []).extend(found.groups[group - 1])
    rows = {name: [(number, _row_of(table, number)) for number in some] for name, some in numbers.items()}
    pictures = _read_crops([row for some in rows.values() for _, row in some], input or found.input)
    candidates = [
        Candidate(
            name, [(_place(row), partial(_photo_face, table, number, row, pictures, crops)) for number, row in some]
        )
        for name, some in rows.items()
    ]
    run_enrolment(Gallery(gallery), candidates, table.model_id, details, same_face, Path(report))


def _row_of(table: FaceTable, embedding_row: int) -> FaceRow:
    return table.row(int(table.face_of_embedding[embedding_row]))


def _place(row: FaceRow) -> str:
    return label_of(row.shard, row.key)


def _read_crops(rows: list[FaceRow], pictures: str | None) -> Crops:
    return read_crops(rows, find_collection(pictures, PICTURES_PER_PART)) if rows and pictures else {}


def _shown(row: FaceRow, crops: Crops) -> ShownFace:
    crop = crops.get(face_of(row))
    return ShownFace(_place(row), None if crop is None else encode_crop(crop))


def _photo_face(table: FaceTable, number: int, row: FaceRow, crops: Crops, keep: bool) -> PhotoFace:
    """A face of the table as the gallery keeps it; without its picture the quality leaves sharpness out."""
    crop = crops.get(face_of(row))
    quality = quality_of(row.score, row.box, row.landmarks, crop)
    picture = encode_crop(crop) if keep and crop is not None else None
    return PhotoFace(_place(row), np.array(table.embeddings[number]), quality, picture)
