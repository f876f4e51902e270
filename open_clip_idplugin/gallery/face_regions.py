"""Named face regions of a photo: picture file and side-cars -> names, boxes and the frames they may be meant for.

Three places are read: the XMP packet in the picture, `photo.jpg.xmp` and `photo.xmp` beside it. The first of `photo.jpg.xmp`,
`photo.xmp` and the picture that has a list of regions counts, alone: programs write side-cars in order to leave pictures as
they are, so that a side-car is the later word. What it overrules is reported.
"""

import glob
from dataclasses import dataclass, replace
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery.region_frames import UPRIGHT, Frames, find_frames
from open_clip_idplugin.gallery.region_metadata import NotedFace, RegionNotes, read_notes
from open_clip_idplugin.pictures import ImageRejected, open_image, orientation_of, xmp_of
from open_clip_idplugin.pictures.keys import key_of
from open_clip_idplugin.pictures.xmp import MOST_BYTES

SIDE_CAR = ".xmp"
_EMBEDDED = "the picture itself"


@dataclass(frozen=True)
class PhotoRegions:
    """The named faces of a photo.

    Attributes:
        faces: as they were noted; some with a `fault`.
        frames: the ways to lay them on the upright picture.
        people: names among the keywords of all places; they confirm, and never place a face.
        overruled: faces of places that do not count, under names that the one that counts does not have.
        mismatch: why the regions are those of other pixels; empty where they may be believed.
    """

    faces: tuple[NotedFace, ...] = ()
    frames: Frames = UPRIGHT
    people: frozenset[str] = frozenset()
    overruled: tuple[NotedFace, ...] = ()
    mismatch: str = ""


def read_regions(path: Path) -> PhotoRegions:
    """The named faces written in a picture file or beside it.

    Raises:
        IdClipError: the file cannot be opened, or one of the places cannot be read.
    """
    try:
        image = open_image(path)
    except ImageRejected as error:
        raise IdClipError(error.reason) from None
    packet, stored, orientation = xmp_of(image), image.size, orientation_of(image)
    notes = {key_of(side_car.name): _side_car_notes(side_car) for side_car in _side_cars(path)}
    # a side-car of another file of this name (a raw file's beside its JPEG) says nothing about these pixels
    notes = {place: note for place, note in notes.items() if note.extension in ("", path.suffix.lower().lstrip("."))}
    if packet:
        notes[_EMBEDDED] = read_notes(packet)
    return _joined(notes, stored, orientation)


def _joined(notes: dict[str, RegionNotes], stored: tuple[int, int], orientation: int) -> PhotoRegions:
    people = frozenset().union(*(note.people for note in notes.values()))
    telling = [(place, note) for place, note in notes.items() if note.faces is not None]
    if not telling:
        return PhotoRegions(people=people)
    place, counting = telling[0]
    faces = counting.faces or ()
    names = {face.name for face in faces}
    overruled = {
        face.name: replace(face, fault=f"{place} has other regions than {other}, and counts before it")
        for other, note in telling[1:]
        for face in note.faces or ()
        if face.name not in names
    }
    frames = find_frames(stored, orientation, counting.size)
    return PhotoRegions(
        faces, frames, people, tuple(overruled.values()), "" if frames.claimed else _mismatch(stored, counting.size)
    )


def _mismatch(stored: tuple[int, int], noted: tuple[float, float] | None) -> str:
    width, height = noted or stored
    return (
        f"they were noted for {width:g}x{height:g} pixels, and the picture has {stored[0]}x{stored[1]}: a program turned or cut "
        "it and left the regions; name the faces again, or enroll this photo by hand"
    )


def _side_cars(path: Path) -> list[Path]:
    """`photo.jpg.xmp` before `photo.xmp`.

    Raises:
        IdClipError: `photo.xmp` may belong to several files.
    """
    own = [name for name in _spellings(path.name) if (path.parent / name).is_file()][:1]
    shared = [name for name in _spellings(path.stem) if (path.parent / name).is_file()][:1]
    found = [path.parent / name for name in (*own, *shared)]
    if shared and not _side_car_notes(path.parent / shared[0]).extension:
        namesakes = [
            key_of(other.name)
            for other in path.parent.glob(f"{glob.escape(path.stem)}.*")
            if other.name != path.name and other.suffix.lower() != SIDE_CAR and other.is_file()
        ]
        if namesakes:
            raise IdClipError(
                f"'{key_of(shared[0])}' may belong to this photo or to '{sorted(namesakes)[0]}': call it "
                f"'{key_of(path.name)}{SIDE_CAR}'"
            )
    return found


def _spellings(name: str) -> tuple[str, str]:
    return name + SIDE_CAR, name + SIDE_CAR.upper()


def _side_car_notes(path: Path) -> RegionNotes:
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    try:
        return read_notes(content)
    except IdClipError as error:
        raise IdClipError(f"'{key_of(path.name)}': {error}") from None
