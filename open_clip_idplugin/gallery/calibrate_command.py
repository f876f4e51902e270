"""The verb `idclip calibrate`: faces of one's own -> what the cosines of a face model mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_face_engine, load_picture
from open_clip_idplugin.faces.calibrating import calibrate_scores, misfit
from open_clip_idplugin.faces.calibration import Calibration
from open_clip_idplugin.faces.calibration_files import FILE, load_calibration, user_file, write_calibration
from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.faces.score_pairs import LEAST_FACE, CollectedFaces, Scores, collect_scores
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.calibration_report import (
    MARKDOWN_FILE,
    PLOT_FILE,
    draw_scores,
    operating_table,
    summary,
)
from open_clip_idplugin.gallery.photo_folders import find_photo_folders
from open_clip_idplugin.pictures.keys import key_of
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.reports import Skip, reason_lines

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face, FaceEngine


def calibrate(
    folder: str | None = None,
    face_table: str | None = None,
    gallery: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    least_face: int = LEAST_FACE,
    output: str | None = None,
    store: bool = True,
    expected_images: float | None = None,
    highest_prior: float | None = None,
    seed: int = 0,
) -> None:
    """Measure a face model's scores of different people and of one person; thresholds are then false match rates.

    Args:
        folder: photos of known people, <name>/photo.jpg or VGGFace2's layout; the only face of a photo, or its largest.
        face_table: folder that `idclip faces` wrote: faces without names. Two of one photograph are different people.
        gallery: gallery file whose people are compared with each other.
        faces: face model that reads --folder.
        det_size: side of the square in which the face detector sees a photo; None takes the model's own.
        least_face: pixels of a face's shorter side below which it is left out, as far as boxes are known.
        output: folder for calibration.json, calibration.md and, with matplotlib, calibration.svg.
        store: keep it for this user, for everything that compares faces of this model; --nostore only prints and writes.
        expected_images: images of a collection that are expected to show a person, for probabilities.
        highest_prior: largest share of a collection that is expected to show a person, for probabilities.
        seed: of the pairs that are drawn where there are too many.
    """
    if folder is None and face_table is None and gallery is None:
        raise IdClipError("nothing to measure was given: use --folder, --face_table or --gallery, or several of them")
    parts: list[_Part] = []
    if face_table is not None:
        table = load_face_table(face_table)
        found = CollectedFaces.of_table(table, least_face, seed)
        parts.append(_Part(found, table.model_id, f"{len(found)} faces of '{table.info.input}', without names"))
    if gallery is not None:
        parts.append(_of_gallery(Gallery(gallery)))
    if folder is not None:
        parts.append(_of_folders(Path(folder), load_face_engine(faces, det_size=det_size), least_face))
    for part in parts:
        require_same_model(parts[0].model_id, part.model_id, "what is to be measured together")
    together = CollectedFaces.together([part.faces for part in parts])
    scores = collect_scores(together, seed)
    source = "; ".join(part.source for part in parts)
    measured = calibrate_scores(scores, parts[-1].model_id, source, faces=len(together), least_face=least_face)
    prior = (measured.expected_images, measured.highest_prior)
    measured = measured.with_prior(expected_images or prior[0], highest_prior or prior[1])
    _print_summary(measured, scores)
    if output is not None:
        _write(Path(output), measured, scores)
    if store:
        write_calibration(user_file(measured.model_id), measured)
        print(f"\nwrote {user_file(measured.model_id)}: from now on the scale of this face model")
        print("Next: idclip enroll, suggest, search and serve take their thresholds from it")


@dataclass(frozen=True, eq=False)
class _Part:
    """Faces of one source, their face model, and the source in words."""

    faces: CollectedFaces
    model_id: str
    source: str


def _print_summary(measured: Calibration, scores: Scores) -> None:
    print("\n".join(summary(measured)))
    print(f"\n{operating_table(measured)}")
    known = load_calibration(measured.model_id)
    reason = None if known.assumed else misfit(known, scores.impostors)
    if reason is not None:
        print(f"\nUnlike the calibration so far: {reason.partition(';')[0]}")


def _write(folder: Path, measured: Calibration, scores: Scores) -> None:
    write_calibration(folder / FILE, measured)
    text = "\n".join(["# Calibration", "", *summary(measured), "", operating_table(measured), ""])
    atomic_write(folder / MARKDOWN_FILE, text, PRIVATE)
    drawn = draw_scores(measured, scores)
    if drawn is not None:
        atomic_write(folder / PLOT_FILE, drawn, PRIVATE)
    print(
        f"\nwrote {folder}: {FILE}, {MARKDOWN_FILE}" + (f", {PLOT_FILE}" if drawn else " (no plot without matplotlib)")
    )


def _of_gallery(gallery: Gallery) -> _Part:
    """The photos of everybody whose consent holds."""
    with gallery.one_state():
        model_id = gallery.model_id
        people = [person for person in gallery.people() if not person.details.expired]
        rows = [gallery.embeddings(person.name) for person in people]
    if not people or model_id is None:
        raise IdClipError(f"the gallery '{gallery.path}' has nobody who may be compared: enroll people first")
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return _Part(_named(np.concatenate(rows), owners), model_id, f"{len(owners)} photos of {len(rows)} enrolled people")


def _of_folders(folder: Path, engine: "FaceEngine", least_face: float) -> _Part:
    """The faces of everybody's photos; what is left out is printed."""
    people, skipped = find_photo_folders(folder)
    rows, owners = [], []
    with tqdm(total=sum(len(person.photos) for person in people), unit="photo") as bar:
        for number, person in enumerate(people):
            for photo in person.photos:
                try:
                    rows.append(_embedding(engine.the_face(load_picture(photo), policy="largest"), least_face))
                    owners.append(number)
                except (IdClipError, OSError) as error:
                    skipped.append(
                        Skip(f"{person.name}/{key_of(photo.name)}", "photo without a usable face", str(error))
                    )
                bar.update()
    print("\n".join(reason_lines("left out", skipped)), end="\n" if skipped else "")
    if not rows:
        raise IdClipError(f"none of the photos below '{folder}' shows a usable face")
    words = f"{len(rows)} photos of {len(set(owners))} named people"
    return _Part(_named(np.stack(rows), np.array(owners)), engine.model_id, words)


def _embedding(face: "Face", least_face: float) -> np.ndarray:
    if min(face.box[2] - face.box[0], face.box[3] - face.box[1]) < least_face:
        raise IdClipError(f"the face is smaller than {least_face} pixels")
    if face.embedding is None:
        raise IdClipError("no embedding can be made of the face")
    return face.embedding


def _named(embeddings: np.ndarray, owners: np.ndarray) -> CollectedFaces:
    """One face a photo, whose box does not matter."""
    count = len(owners)
    boxes = np.zeros((count, 4), np.float32)
    return CollectedFaces(embeddings.astype(np.float32), owners.astype(np.int64), np.arange(count), boxes)
