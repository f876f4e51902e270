"""The verb `idclip enroll_regions`: people whom a photo manager has named already."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_face_engine, load_picture
from open_clip_idplugin.gallery import Details, Gallery, fold_name
from open_clip_idplugin.gallery.bulk_enrolment import Candidate, report_place
from open_clip_idplugin.gallery.enrolment import to_photo_face
from open_clip_idplugin.gallery.folder_command import run_enrolment
from open_clip_idplugin.gallery.photo_face import PhotoFace
from open_clip_idplugin.gallery.photo_folders import BAD_NAME, photos_in
from open_clip_idplugin.pictures.names import key_of
from webdataset_tools.people.face_regions import FaceRegion, read_regions
from webdataset_tools.report import Skip

if TYPE_CHECKING:
    from open_clip_idplugin.faces import FaceEngine

UNREADABLE = "unreadable face regions"
_MARGIN = 0.75  # of the region's sides, on each side: detectors want to see some of the picture around a face


def enroll_regions(
    folder: str,
    gallery: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    crops: bool = True,
    notes: str | None = None,
    consent: str | None = None,
    consent_date: str | None = None,
    consent_until: str | None = None,
    same_face: float | None = None,
    report: str | None = None,
) -> None:
    """Remember the people whose faces a photo manager has named inside the photos (XMP face regions).

    Args:
        folder: photos, with its subfolders; names of folders do not matter.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        faces: face model, e.g. insightface:buffalo_l, insightface:miniature or insightface:<folder>.
        det_size: side of the square in which the face detector sees a region; None takes the face engine's own.
        crops: keep a small picture of each face in the gallery; --nocrops keeps embeddings alone.
        notes: anything worth knowing about all of them.
        consent: reference of everybody's consent.
        consent_date: day on which it was given, YYYY-MM-DD.
        consent_until: last day on which it holds, YYYY-MM-DD; nobody is searched for afterwards.
        same_face: warn of two people whose means have this cosine or more; above 1 never warns.
            By default the one that different people reach once in 10,000 pairs (see idclip calibrate).
        report: where the account of every photo is written (default: people_report.json, into the folder).
    """
    details = {"notes": notes, "consent": consent, "consent_date": consent_date, "consent_until": consent_until}
    Details().changed(**details)
    report_file = report_place(report, folder)
    named, skipped = find_named_regions(Path(folder))
    engine = load_face_engine(faces, det_size=det_size)
    candidates = [
        Candidate(
            name, [(key_of(photo.name), partial(read_region, photo, region, engine, crops)) for photo, region in found]
        )
        for name, found in named.items()
    ]
    run_enrolment(Gallery(gallery), candidates, engine.model_id, details, same_face, report_file, skipped)


def find_named_regions(folder: Path) -> tuple[dict[str, list[tuple[Path, FaceRegion]]], list[Skip]]:
    """Name -> photos and regions, of all photos below `folder`; and what is left out.

    Raises:
        IdClipError: no such folder, or nobody named in it.
    """
    if not folder.is_dir():
        raise IdClipError(f"there is no folder '{folder}': give one with photos")
    spellings: dict[str, str] = {}
    named: dict[str, list[tuple[Path, FaceRegion]]] = {}
    photos, skipped = photos_in(folder, subfolders=True)
    for photo in photos:
        try:
            regions = read_regions(photo)
        except IdClipError as error:
            skipped.append(Skip(key_of(photo.relative_to(folder).as_posix()), UNREADABLE, str(error)))
            continue
        for region in regions:
            try:
                name = spellings.setdefault(fold_name(region.name), region.name)
            except IdClipError as error:
                skipped.append(Skip(key_of(photo.relative_to(folder).as_posix()), BAD_NAME, str(error)))
                continue
            named.setdefault(name, []).append((photo, region))
    if not named:
        raise IdClipError(f"no photo below '{folder}' has a named face region: name faces in a photo manager first")
    return named, skipped


def read_region(photo: Path, region: FaceRegion, engine: "FaceEngine", crops: bool = True) -> PhotoFace:
    """The face of a region: found by the engine in the region and some of the picture around it.

    Raises:
        IdClipError: no picture, or no usable face whose middle lies in the region.
    """
    pixels = load_picture(photo)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = region.box[0] * width, region.box[1] * height, region.box[2] * width, region.box[3] * height
    left, top = max(0, int(x0 - _MARGIN * (x1 - x0))), max(0, int(y0 - _MARGIN * (y1 - y0)))
    right, bottom = int(x1 + _MARGIN * (x1 - x0)) + 1, int(y1 + _MARGIN * (y1 - y0)) + 1
    found = engine.the_face(pixels[top:bottom, left:right], policy="center")
    x, y = left + (found.box[0] + found.box[2]) / 2, top + (found.box[1] + found.box[3]) / 2
    if not (x0 <= x <= x1 and y0 <= y <= y1):
        raise IdClipError(f"no face was found in the region of '{region.name}'")
    return to_photo_face(key_of(photo.name), found, engine.model_id, crops)
