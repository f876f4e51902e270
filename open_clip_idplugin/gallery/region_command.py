"""The verb `idclip enroll_regions`: faces that a photo manager has named -> people in a gallery."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.gallery import Gallery, fold_name
from open_clip_idplugin.gallery.bulk_enrolment import (
    DEFAULTS,
    BulkOptions,
    Candidate,
    PhotoReader,
    report_place,
    run_enrolment,
    with_bulk_flags,
)
from open_clip_idplugin.gallery.face_regions import SIDE_CAR, PhotoRegions, read_regions
from open_clip_idplugin.gallery.photo_folders import photos_in
from open_clip_idplugin.gallery.region_faces import NamedFace, read_named_faces
from open_clip_idplugin.gallery.region_identity import check_identities
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.pictures.keys import key_of, place_of
from open_clip_idplugin.storage.reports import Skip, reason_lines

if TYPE_CHECKING:
    from open_clip_idplugin.faces import FaceEngine

UNREADABLE = "unreadable face regions"


@with_bulk_flags
def enroll_regions(
    folder: str,
    gallery: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    crops: bool = True,
    options: BulkOptions = DEFAULTS,
) -> None:
    """Remember the people whose faces a photo manager has named in photos or in side-car files (XMP face regions).

    Args:
        folder: photos, with its subfolders; names of folders do not matter.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        faces: face model, e.g. insightface:buffalo_l, insightface:miniature or insightface:<folder>.
        det_size: side of the square in which the face detector sees a region; None takes the face engine's own.
        crops: keep a small picture of each face in the gallery; --nocrops keeps embeddings alone.
    """
    report_file = report_place(options.report, folder)
    named, left = find_named_regions(Path(folder))
    engine = load_face_engine(faces, det_size=det_size)
    store = Gallery(gallery)
    store.require_model(engine.model_id)
    found, unplaced = read_all(Path(folder), named, engine, crops)
    kept, doubtful = check_identities(found, store, engine.model_id)
    candidates = _candidates(named, kept)
    left += unplaced + doubtful
    run_enrolment(store, candidates, engine.model_id, options, report_file, passed_over=left)


def find_named_regions(folder: Path) -> tuple[dict[str, PhotoRegions], list[Skip]]:
    """Path below `folder` -> regions of every photo there that notes people, and what is left out. No pixel is decoded.

    Raises:
        IdClipError: no such folder, or nobody named in it.
    """
    if not folder.is_dir():
        raise IdClipError(f"there is no folder '{folder}': give one with photos")
    named: dict[str, PhotoRegions] = {}
    photos, passed_over = photos_in(folder, subfolders=True)
    skipped = [skip for skip in passed_over if not skip.key.lower().endswith(SIDE_CAR)]
    for photo in photos:
        key = key_of(photo.relative_to(folder).as_posix())
        try:
            regions = read_regions(photo)
        except (IdClipError, OSError) as error:
            skipped.append(Skip(key, UNREADABLE, str(error)))
            continue
        if regions.faces or regions.overruled or regions.people:
            named[key] = regions
    if not any(regions.faces for regions in named.values()):
        unread = "".join(f"; {line}" for line in reason_lines("left out", skipped))
        raise IdClipError(
            f"no photo below '{folder}' has a named face region: name faces in a photo manager first{unread}"
        )
    return named, skipped


def read_all(
    folder: Path, named: dict[str, PhotoRegions], engine: "FaceEngine", crops: bool = True
) -> tuple[list[NamedFace], list[Skip]]:
    """The faces of all photos, with a progress bar; a photo that cannot be read costs an entry."""
    found: list[NamedFace] = []
    left: list[Skip] = []
    for key, regions in tqdm(named.items(), unit="photo"):
        try:
            faces, skips = read_named_faces(Path(str(place_of(folder, key))), key, regions, engine, crops)
        except (IdClipError, OSError) as error:
            left.append(Skip(key, UNREADABLE, str(error)))
            continue
        found += faces
        left += skips
    return found, left


def _candidates(named: dict[str, PhotoRegions], faces: list[NamedFace]) -> list[Candidate]:
    """Everybody who is named, in order, also those of whom no face is left: the report says so."""
    people: dict[str, tuple[str, list[tuple[str, PhotoReader]]]] = {}
    for name in [noted.name for regions in named.values() for noted in regions.faces]:
        try:
            people.setdefault(fold_name(name), (name, []))
        except IdClipError:
            continue  # in the report already
    for face in faces:
        people[fold_name(face.name)][1].append((face.key, partial(_kept, face.face)))
    return [Candidate(name, readers) for name, readers in people.values()]


def _kept(face: PhotoFace) -> PhotoFace:
    return face
