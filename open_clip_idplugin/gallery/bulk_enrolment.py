"""Many people into the gallery, one after the other, and an account of every photo.

Role: (name, photos) -> a gallery and `EnrolmentReport`. A bad photo costs an entry in the report, a bad person another
one; what is finished stays after an interruption, and a photo is never counted twice.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.enrolment import enroll_faces
from open_clip_idplugin.gallery.likeness import same_face as same_face_of
from open_clip_idplugin.gallery.photo_face import PhotoFace
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.left_out import Skip

REPORT_FILE = "people_report.json"
REFUSED_PHOTO = "photo without a usable face"
REFUSED_PERSON = "refused by the gallery"
NO_USABLE_PHOTO = "no usable photo"
_ALIKE_BLOCK = 1024  # people compared with all others at a time

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
        atomic_write(path, json_text(asdict(self), indent=1, ensure_ascii=False) + "\n", PRIVATE)

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
