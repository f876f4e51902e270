"""A folder with a folder of photos for every person -> names and photos.

Role: reads `DIR/<name>/*.jpg`, and VGGFace2's layout, in which the folders are ids and `identity_meta.csv` (in DIR or
beside it) has their names. No photo is opened here.
"""

from dataclasses import dataclass
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import fold_name
from open_clip_idplugin.pictures.keys import key_of
from open_clip_idplugin.pictures.passed_over import is_junk
from open_clip_idplugin.pictures.walk import pictures_below
from open_clip_idplugin.storage.identity_names import IDENTITY_FILE, read_identity_names
from open_clip_idplugin.storage.reports import Skip

SAME_NAME = "another folder has this name"
BAD_NAME = "no name of a person"
NO_PHOTOS = "no photos"
COPY = "exact copy of another photo"


@dataclass(frozen=True)
class PhotoFolder:
    """One person's photos, sorted."""

    name: str
    folder: Path
    photos: tuple[Path, ...]
    passed_over: tuple[Skip, ...] = ()  # other files there, and exact copies


def find_photo_folders(folder: Path) -> tuple[list[PhotoFolder], list[Skip]]:
    """Everybody below `folder` in order of the folders' names, and the folders that are left out.

    Two folders of one name are two people or one: nobody can tell, and only the first is taken.

    Raises:
        IdClipError: no such folder, nobody in it, or an `identity_meta.csv` of another form.
    """
    if not folder.is_dir():
        raise IdClipError(f"there is no folder '{folder}': give one with a folder of photos for every person")
    names = _names_of_ids(folder)
    people: dict[str, PhotoFolder] = {}
    skipped: list[Skip] = []
    for place in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_junk(entry.name)):
        label = key_of(place.name)
        name = names.get(place.name, label)
        try:
            folded = fold_name(name)
            photos, passed_over = photos_in(place)
        except (IdClipError, OSError) as error:
            skipped.append(Skip(label, BAD_NAME if isinstance(error, IdClipError) else NO_PHOTOS, str(error)))
            continue
        if not photos:
            skipped.append(Skip(label, NO_PHOTOS, "; ".join(skip.reason for skip in passed_over)))
        elif folded in people:
            skipped.append(Skip(label, SAME_NAME, f"'{name}' is {key_of(people[folded].folder.name)} already"))
        else:
            people[folded] = PhotoFolder(name, place, tuple(photos), tuple(passed_over))
    if not people:
        raise IdClipError(f"'{folder}' holds nobody's photos: lay them out as <name>/photo.jpg")
    return list(people.values()), skipped


def photos_in(folder: Path, subfolders: bool = False) -> tuple[list[Path], list[Skip]]:
    """The pictures of a folder, perhaps with those below it, sorted; and what was passed over there.

    Raises:
        OSError: the folder cannot be read.
    """
    found = pictures_below(folder, subfolders)
    skipped = [
        Skip(
            f"{key_of(folder.name)}/{entry.example}",
            entry.reason,
            f"{entry.count} x {entry.extension or 'no extension'}",
        )
        for entry in found.passed_over
    ]
    skipped += [Skip(f"{key_of(folder.name)}/{copy}", COPY, f"of {first}") for copy, first in found.copies.items()]
    return [Path(str(found.place(key))) for key in found.keys], skipped


def _names_of_ids(folder: Path) -> dict[str, str]:
    places = (folder / IDENTITY_FILE, folder.resolve().parent / IDENTITY_FILE)
    meta = next((place for place in places if place.is_file()), None)
    return read_identity_names(meta) if meta is not None else {}
