"""Faces of named regions: a photo with regions and a face engine -> the face of each name, or the reason why not.

Role: finds all faces of the picture, and once more around each region that has none (small faces in large pictures), places the
regions on them and embeds those that are named.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_picture
from open_clip_idplugin.gallery.enrolment import to_photo_face
from open_clip_idplugin.gallery.face_regions import PhotoRegions
from open_clip_idplugin.gallery.person_names import fold_name
from open_clip_idplugin.gallery.photo_folders import BAD_NAME
from open_clip_idplugin.gallery.region_frames import lay
from open_clip_idplugin.gallery.region_metadata import NotedFace
from open_clip_idplugin.gallery.region_placing import fit_regions, overlap, place_regions
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.pictures.keys import key_of
from open_clip_idplugin.storage.reports import Skip

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face, FaceEngine

UNUSABLE = "unusable face region"
OVERRULED = "face region overruled"
OTHER_PIXELS = "face region of other pixels"
NOT_PLACED = "face region without a face of its own"
KEYWORD_ALONE = "person named by a keyword alone"
_MARGIN = 0.75  # of a region's sides, on each side: detectors want to see some of the picture around a face
_SAME = 0.4  # overlap from which two detections are one face


@dataclass(frozen=True, eq=False)
class NamedFace:
    """A face under the name that a region gives it; `key` is the photo's path below the folder.

    confirmed: the picture shows one face, and a keyword of the picture names the same person.
    """

    name: str
    key: str
    face: PhotoFace
    confirmed: bool = False


def read_named_faces(
    photo: Path, key: str, regions: PhotoRegions, engine: "FaceEngine", crops: bool = True
) -> tuple[list[NamedFace], list[Skip]]:
    """The named faces of one photo, and what of its regions is left out.

    Raises:
        IdClipError: the picture cannot be read.
    """
    named, left = _usable(key, regions)
    people = {fold_name(name) for name in regions.people if _is_name(name)}
    if not named:
        return [], left
    names, boxes = [name for name, _ in named], np.array([face.box for _, face in named])
    pixels = load_picture(photo)
    sides = np.tile((pixels.shape[1], pixels.shape[0]), 2)
    found = _find_faces(pixels, names, [lay(boxes, turn) for turn in regions.frames.claimed], engine)
    placing = place_regions(names, boxes, _boxes_of(found) / sides, regions.frames)
    alone = len(found) == 1 and set(people) == set(names)
    embedded = dict(zip(placing.faces, engine.embed([found[face] for face in placing.faces.values()])))
    faces: dict[tuple[str, int], NamedFace] = {}  # a region that is written twice is one
    for row, (name, noted) in enumerate(named):
        if row in placing.reasons:
            left.append(Skip(f"{noted.name}/{key}", NOT_PLACED, placing.reasons[row]))
            continue
        try:
            face = to_photo_face(key_of(photo.name), _aligned(embedded[row]), engine.model_id, crops)
        except IdClipError as error:
            left.append(Skip(f"{noted.name}/{key}", NOT_PLACED, str(error)))
            continue
        faces.setdefault((name, placing.faces[row]), NamedFace(noted.name, key, face, alone))
    return list(faces.values()), left


def _usable(key: str, regions: PhotoRegions) -> tuple[list[tuple[str, NotedFace]], list[Skip]]:
    """Regions that may be looked for, with their folded names; and the others."""
    left = [Skip(f"{face.name}/{key}", OVERRULED, face.fault) for face in regions.overruled]
    named, seen = [], set()
    for face in regions.faces:
        try:
            name = fold_name(face.name)
        except IdClipError as error:
            left.append(Skip(key, BAD_NAME, str(error)))
            continue
        seen.add(name)
        if face.fault:
            left.append(Skip(f"{face.name}/{key}", UNUSABLE, face.fault))
        elif regions.mismatch:
            left.append(Skip(f"{face.name}/{key}", OTHER_PIXELS, regions.mismatch))
        else:
            named.append((name, face))
    alone = [name for name in sorted(regions.people) if _is_name(name) and fold_name(name) not in seen]
    return named, left + [Skip(f"{name}/{key}", KEYWORD_ALONE, "no region says where") for name in alone]


def _aligned(face: "Face") -> "Face":
    if not face.aligned:
        raise IdClipError("the face in the region cannot be aligned")
    return face


def _find_faces(pixels: np.ndarray, names: list[str], laid: list[np.ndarray], engine: "FaceEngine") -> list["Face"]:
    """The faces of the whole picture, and those around regions that lie on none of them."""
    height, width = pixels.shape[:2]
    sides = np.tile((width, height), 2)
    found = engine.find(pixels)
    for boxes in laid:
        fit = fit_regions(names, boxes, _boxes_of(found) / sides)
        for row in set(range(len(boxes))) - fit.faces.keys() - fit.shared.keys():
            x0, y0, x1, y1 = boxes[row] * sides
            left, top = max(0, int(x0 - _MARGIN * (x1 - x0))), max(0, int(y0 - _MARGIN * (y1 - y0)))
            right, bottom = int(x1 + _MARGIN * (x1 - x0)) + 1, int(y1 + _MARGIN * (y1 - y0)) + 1
            found += _new(found, _find_within(pixels[top:bottom, left:right], left, top, engine))
    return found


def _find_within(part: np.ndarray, left: int, top: int, engine: "FaceEngine") -> list["Face"]:
    try:
        faces = engine.find(part)
    except IdClipError:  # too small or too elongated a region to be a picture: no face is found there
        return []
    shift = np.array([left, top], np.float32)
    return [replace(face, box=face.box + np.tile(shift, 2), landmarks=face.landmarks + shift) for face in faces]


def _new(known: list["Face"], others: list["Face"]) -> list["Face"]:
    if not known or not others:
        return others
    seen = overlap(_boxes_of(others), _boxes_of(known)).max(axis=1) >= _SAME
    return [face for face, already in zip(others, seen) if not already]


def _boxes_of(faces: list["Face"]) -> np.ndarray:
    return np.array([face.box for face in faces], np.float64).reshape(-1, 4)


def _is_name(text: str) -> bool:
    try:
        return bool(fold_name(text))
    except IdClipError:
        return False
