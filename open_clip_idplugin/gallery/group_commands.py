"""The verbs `idclip suggest` and `idclip enroll_groups`: face table -> groups to be named -> people in a gallery."""

from collections.abc import Sequence
from pathlib import Path

from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.calibration import FMR_WARNINGS
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.faces.face_table import FaceRow, load_face_table
from open_clip_idplugin.faces.row_crops import Crops, read_crops
from open_clip_idplugin.faces.score_pairs import LEAST_FACE
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.bulk_enrolment import (
    DEFAULTS,
    BulkOptions,
    report_place,
    run_enrolment,
    with_bulk_flags,
)
from open_clip_idplugin.gallery.group_files import (
    CSV_FILE,
    PAGE_FILE,
    read_groups,
)
from open_clip_idplugin.gallery.group_suggestions import SuggestOptions, candidates_of, suggest_groups
from open_clip_idplugin.pictures.collection import PICTURES_PER_PART, find_collection


def suggest(
    face_table: str,
    output: str,
    input: str | None = None,
    gallery: str | None = None,
    same_face: float | None = None,
    fmr: float = FMR_WARNINGS,
    min_faces: int = 3,
    show: int = 12,
    least_face: int = LEAST_FACE,
) -> None:
    """Group the unknown faces of a face table, so that people can be named group by group.

    Args:
        face_table: folder that `idclip faces` wrote.
        output: folder for groups.html, groups.csv and groups.json; only their owner can read them.
        input: the pictures, as `idclip faces` took them; without them the page has file names instead of faces.
        gallery: gallery file (default: gallery.sqlite in the user's data folder); faces of its people are left out.
        same_face: cosine from which two faces are taken for one person, in place of --fmr.
        fmr: false match rate of that: how often different people are taken for one.
        min_faces: the smallest group.
        show: most faces of a group on the page.
        least_face: pixels of a face's shorter side below which it is left out: small faces look alike.
    """
    if min_faces < 2 or show < 1 or not (same_face is None or 0 < same_face < 1):
        raise IdClipError("give --min_faces of at least 2, --show of at least 1 and --same_face between 0 and 1")
    table = load_face_table(face_table)
    calibration = load_calibration(table.model_id, table.folder)
    if same_face is None:
        same_face = calibration.threshold(fmr)
        print(f"faces from cosine {same_face:.3f} on are one person: false match rate {fmr:g}, {calibration.source}")
    found = suggest_groups(
        table,
        Gallery(gallery),
        Path(output),
        SuggestOptions(same_face, min_faces, show, least_face),
        lambda rows: _read_crops(rows, input),
        input or "",
    )
    print("\n".join(found.lines()))
    print(f"wrote {output}: look at {PAGE_FILE}, write names into {CSV_FILE} (one person may have several groups)")
    print(f"Next: {command('enroll_groups', str(Path(output) / CSV_FILE), gallery=gallery)}")


@with_bulk_flags
def enroll_groups(
    groups: str,
    gallery: str | None = None,
    face_table: str | None = None,
    input: str | None = None,
    crops: bool = True,
    options: BulkOptions = DEFAULTS,
) -> None:
    """Remember the people whose groups of faces were named in the groups.csv of `idclip suggest`.

    Args:
        groups: groups.csv with names; groups without one are passed over, groups of one name are one person.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        face_table: where the face table is now, if it was moved.
        input: where the pictures are now, if they were moved or not given before.
        crops: keep a small picture of each face, where the pictures are known; --nocrops keeps embeddings alone.
    """
    report_file = report_place(options.report, groups)
    found, names = read_groups(Path(groups))
    if not names:
        raise IdClipError(f"no group of '{groups}' has a name yet: fill in the column name")
    table = load_face_table(face_table or found.face_table)
    Gallery(gallery).require_model(table.model_id)
    if table.info.fingerprint != found.fingerprint:
        raise IdClipError(f"the face table '{table.folder}' is not the one that was grouped: run idclip suggest again")
    candidates = candidates_of(table, found, names, lambda rows: _read_crops(rows, input or found.input), crops)
    run_enrolment(Gallery(gallery), candidates, table.model_id, options, report_file)


def _read_crops(rows: Sequence[FaceRow], pictures: str | None) -> Crops:
    return read_crops(rows, find_collection(pictures, PICTURES_PER_PART)) if rows and pictures else {}
