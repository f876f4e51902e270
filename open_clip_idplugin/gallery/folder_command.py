"""The verb `idclip enroll_folder`."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.gallery import Details, Gallery
from open_clip_idplugin.gallery.bulk_enrolment import Candidate, enroll_all, report_place
from open_clip_idplugin.gallery.enrolment import read_photo
from open_clip_idplugin.gallery.photo_folders import find_photo_folders
from open_clip_idplugin.gallery.verbs import face_policy
from open_clip_idplugin.pictures.names import key_of
from open_clip_idplugin.storage.left_out import Skip


def enroll_folder(
    folder: str,
    gallery: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    face: str = "only",
    crops: bool = True,
    notes: str | None = None,
    consent: str | None = None,
    consent_date: str | None = None,
    consent_until: str | None = None,
    same_face: float | None = None,
    report: str | None = None,
) -> None:
    """Remember everybody of a folder: <name>/photo.jpg, or VGGFace2's layout with identity_meta.csv.

    Args:
        folder: holds a folder of photos for every person; identity_meta.csv in it or beside it names ids.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        faces: face model, e.g. insightface:buffalo_l, insightface:miniature or insightface:<folder>.
        det_size: side of the square in which the face detector sees a photo; None takes the face engine's own.
        face: which face of a photo is meant: only (leave out photos with several), largest or center.
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
    run_enrolment(Gallery(gallery), candidates, engine.model_id, details, same_face, report_file, skipped, passed_over)


def run_enrolment(
    gallery: Gallery,
    candidates: list[Candidate],
    model_id: str,
    details: dict[str, str | None],
    same_face: float | None,
    report_file: Path,
    skipped: Iterable[Skip] = (),
    passed_over: Iterable[Skip] = (),
) -> None:
    """Enroll with a progress bar, write the report and print it in short.

    `skipped` and `passed_over` were left out before: people, and files in their folders.
    """
    with tqdm(total=sum(len(person.photos) for person in candidates), unit="photo") as bar:
        report = enroll_all(gallery, candidates, model_id, details, same_face, bar.update)
    report.people_left_out = [*skipped, *report.people_left_out]
    report.photos_left_out = [*passed_over, *report.photos_left_out]
    report.write(report_file)
    print("\n".join(report.lines()))
    print(f"wrote {report_file}: every person and photo that was left out, and why")
    print(f"Next: {command('list', gallery=gallery.path)}")
