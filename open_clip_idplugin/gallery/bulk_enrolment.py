"""Bulk enrolment: (name, photos) -> a gallery and `EnrolmentReport`, an account of every photo; and the flags of its verbs.

Role: people one after the other. A bad photo costs an entry in the report, a bad person another one; what is finished stays
after an interruption, and a photo is never counted twice.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.command_line.verb_arguments import SharedFlag, with_flags
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.details import DETAIL_FLAGS, checked_details
from open_clip_idplugin.gallery.enrolment import enroll_faces
from open_clip_idplugin.gallery.likeness import same_face as same_face_of
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.storage.reports import Skip, write_report

REPORT_FILE = "people_report.json"
REFUSED_PHOTO = "photo without a usable face"
REFUSED_PERSON = "refused by the gallery"
NO_USABLE_PHOTO = "no usable photo"
_ALIKE_BLOCK = 1024  # people compared with all others at a time

SAME_FACE_FLAG = SharedFlag(
    "same_face",
    float | None,
    None,
    "warn of two people from this cosine on (above 1 never); by default the one that different people reach once in 10,000 "
    "pairs (see idclip calibrate).",
)
_REPORT = "where the account of every photo is written (default: people_report.json, beside what is enrolled)."
_FLAGS = (SAME_FACE_FLAG, SharedFlag("report", str | None, None, _REPORT))

PhotoReader = Callable[[], PhotoFace]  # finds the face of one photo; raises IdClipError or OSError


@dataclass(frozen=True)
class Candidate:
    """A person to enroll: each photo's label and how to read it."""

    name: str
    photos: Sequence[tuple[str, PhotoReader]]


@dataclass
class EnrolmentReport:
    """`people_report.json`: who was enrolled with how many photos, and what was left out and why."""

    gallery: str
    model_id: str
    enrolled: dict[str, int] = field(default_factory=dict)  # name -> photos used
    people_left_out: list[Skip] = field(default_factory=list)
    photos_left_out: list[Skip] = field(default_factory=list)
    alike: list[tuple[str, str, float]] = field(default_factory=list)  # two names of one face, cosine of their means

    def write(self, path: Path) -> None:
        """Write the report; it names people, so that only its owner can read it."""
        write_report(path, asdict(self))

    def lines(self) -> list[str]:
        """The report in a few words."""
        photos = sum(self.enrolled.values())
        lines = [
            f"{len(self.enrolled)} people with {photos} photos are in {self.gallery}; left out: "
            f"{len(self.people_left_out)} people, {len(self.photos_left_out)} photos"
        ]
        lines += [
            f"Warning: '{one}' and '{other}' look alike (cosine {cosine:.2f}). If they are one person: "
            f'idclip merge "{one}" "{other}"'
            for one, other, cosine in self.alike[:10]
        ]
        return lines + ([f"... and {len(self.alike) - 10} more such pairs"] if len(self.alike) > 10 else [])


@dataclass(frozen=True)
class BulkOptions:
    """What the verbs that enroll many people share.

    Attributes:
        details: of everybody, checked.
        same_face: cosine of two people's means from which they are warned of; None takes the face model's.
        report: where the account goes; None takes the default.
    """

    details: Mapping[str, str | None] = field(default_factory=dict)
    same_face: float | None = None
    report: str | None = None


DEFAULTS = BulkOptions()


def with_bulk_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the flags of `BulkOptions`, which are its last parameter."""
    details = [flag for flag in DETAIL_FLAGS if flag.name != "word"]  # people have words of their own
    return with_flags(verb, [*details, *_FLAGS], _bulk_options)


def _bulk_options(given: dict[str, Any]) -> BulkOptions:
    own = {flag.name: given.pop(flag.name) for flag in _FLAGS if flag.name in given}
    return BulkOptions(checked_details(given), **own)


def run_enrolment(
    gallery: Gallery,
    candidates: list[Candidate],
    model_id: str,
    options: BulkOptions,
    report_file: Path,
    skipped: Iterable[Skip] = (),
    passed_over: Iterable[Skip] = (),
) -> None:
    """Enroll with a progress bar, write the report and print it in short.

    `skipped` and `passed_over` were left out before: people, and files in their folders.
    """
    with tqdm(total=sum(len(person.photos) for person in candidates), unit="photo") as bar:
        report = enroll_all(gallery, candidates, model_id, options.details, options.same_face, bar.update)
    report.people_left_out = [*skipped, *report.people_left_out]
    report.photos_left_out = [*passed_over, *report.photos_left_out]
    report.write(report_file)
    print("\n".join(report.lines()))
    print(f"wrote {report_file}: every person and photo that was left out, and why")
    print(f"Next: {command('list', gallery=gallery.path)}")


def report_place(report: str | None, given: str) -> Path:
    """Where the report goes: the file `report`, else into the folder that the verb was `given`, or beside the file.

    Raises:
        IdClipError: nothing can be written there; said before any work.
    """
    source = Path(given)
    place = Path(report) if report is not None else (source if source.is_dir() else source.parent) / REPORT_FILE
    if place.parent.exists() and not os.access(place.parent, os.W_OK):
        raise IdClipError(f"the report cannot be written into '{place.parent}': name a file with --report")
    return place


def enroll_all(
    gallery: Gallery,
    candidates: Iterable[Candidate],
    model_id: str,
    details: Mapping[str, str | None],
    same_face: float | None,
    advance: Callable[[], object] = lambda: None,
) -> EnrolmentReport:
    """Enroll everybody; `advance` is called after every photo.

    Raises:
        IdClipError: the gallery holds embeddings of another face model, so that nobody could be enrolled.
    """
    gallery.require_model(model_id)
    report = EnrolmentReport(str(gallery.path), model_id)
    for candidate in candidates:
        faces = []
        for label, read in candidate.photos:
            try:
                faces.append(read())
            except (IdClipError, OSError) as error:
                report.photos_left_out.append(Skip(f"{candidate.name}/{label}", REFUSED_PHOTO, str(error)))
            advance()
        if not faces:
            report.people_left_out.append(Skip(candidate.name, NO_USABLE_PHOTO))
            continue
        try:
            person = enroll_faces(gallery, candidate.name, faces, model_id, details)
        except IdClipError as error:
            report.people_left_out.append(Skip(candidate.name, REFUSED_PERSON, str(error)))
            continue
        report.enrolled[person.name] = report.enrolled.get(person.name, 0) + len(faces)
    cosine = same_face_of(model_id) if same_face is None else same_face
    report.alike = find_alike(gallery, report.enrolled, cosine)
    return report


def find_alike(gallery: Gallery, names: Iterable[str], threshold: float) -> list[tuple[str, str, float]]:
    """Pairs of people, at least one of them among `names`, whose means have this cosine or more; best first."""
    everybody, means = gallery.means()
    new = set(names)
    pairs = []
    for start in range(0, len(everybody), _ALIKE_BLOCK):
        cosines = means[start : start + _ALIKE_BLOCK] @ means.T
        for row, column in np.argwhere(cosines >= threshold):
            one, other = everybody[start + row], everybody[column]
            if start + row < column and not new.isdisjoint((one, other)):
                pairs.append((one, other, float(cosines[row, column])))
    return sorted(pairs, key=lambda pair: -pair[2])
