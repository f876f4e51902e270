"""The verb `idclip enroll_folder`: a folder of photos for every person -> people in a gallery."""

from functools import partial
from pathlib import Path

from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.bulk_enrolment import (
    DEFAULTS,
    BulkOptions,
    Candidate,
    report_place,
    run_enrolment,
    with_bulk_flags,
)
from open_clip_idplugin.gallery.enrolment import read_photo
from open_clip_idplugin.gallery.photo_folders import find_photo_folders
from open_clip_idplugin.gallery.verbs import face_policy
from open_clip_idplugin.pictures.keys import key_of


@with_bulk_flags
def enroll_folder(
    folder: str,
    gallery: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    face: str = "only",
    crops: bool = True,
    options: BulkOptions = DEFAULTS,
) -> None:
    """Remember everybody of a folder: <name>/photo.jpg, or VGGFace2's layout with identity_meta.csv.

    Args:
        folder: holds a folder of photos for every person; identity_meta.csv in it or beside it names ids.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        faces: face model, e.g. insightface:buffalo_l, insightface:miniature or insightface:<folder>.
        det_size: side of the square in which the face detector sees a photo; None takes the face engine's own.
        face: which face of a photo is meant: only (leave out photos with several), largest or center.
        crops: keep a small picture of each face in the gallery; --nocrops keeps embeddings alone.
    """
    report_file = report_place(options.report, folder)
    policy = face_policy(face)
    people, skipped = find_photo_folders(Path(folder))
    engine = load_face_engine(faces, det_size=det_size)
    candidates = [
        Candidate(
            person.name,
            [(key_of(photo.name), partial(read_photo, photo, engine, policy, crops)) for photo in person.photos],
        )
        for person in people
    ]
    passed_over = [skip for person in people for skip in person.passed_over]
    run_enrolment(Gallery(gallery), candidates, engine.model_id, options, report_file, skipped, passed_over)
