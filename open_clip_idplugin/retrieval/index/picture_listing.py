"""Listing of picture folders: which files there are, how large, and when they last changed; nothing is opened.

Role: folders -> `Listing`. Names are keys (see `pictures.names`) relative to the folder that all of them share, so that several
folders make one collection. Exact copies stay in the list: comparing with the run before tells them apart.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.names import key_of
from open_clip_idplugin.pictures.passed_over import PassedOver
from open_clip_idplugin.pictures.walk import pictures_below
from open_clip_idplugin.retrieval.index.picture_manifest import KnownPicture

UNREACHABLE = "file that cannot be reached"


@dataclass(frozen=True)
class Listing:
    """The pictures of some folders, sorted by name, and what was passed over."""

    root: Path
    folders: tuple[Path, ...]
    pictures: tuple[KnownPicture, ...]
    passed_over: tuple[PassedOver, ...]


def list_pictures(folders: Sequence[str]) -> Listing:
    """List the pictures below one or more folders.

    Raises:
        IdClipError: no such folder, one inside another, or one without pictures.
    """
    places = tuple(dict.fromkeys(_existing(folder) for folder in folders))
    for place in places:
        if any(other in place.parents for other in places):
            raise IdClipError(f"'{place}' lies inside another of the folders: name the outer one alone")
    root = Path(os.path.commonpath(places))
    pictures: list[KnownPicture] = []
    passed_over: list[PassedOver] = []
    for place in places:
        before = len(pictures)
        _list_folder(place, root, pictures, passed_over)
        if len(pictures) == before:
            raise IdClipError(
                f"there are no pictures in '{place}': is it the right folder, and its disk there? Nothing was changed"
            )
    return Listing(root, places, tuple(sorted(pictures, key=lambda picture: picture.name)), tuple(passed_over))


def _existing(folder: str) -> Path:
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise IdClipError(f"there is no folder '{folder}': give a folder of pictures")
    return place.resolve()


def _list_folder(place: Path, root: Path, pictures: list[KnownPicture], passed_over: list[PassedOver]) -> None:
    found = pictures_below(place, copies=False)
    below = "" if place == root else f"{key_of(place.relative_to(root).as_posix())}/"
    passed_over += [replace(entry, example=f"{below}{entry.example}") for entry in found.passed_over]
    for key in found.keys:
        path = Path(str(found.place(key)))
        try:
            status = path.stat()
        except OSError:  # a link that leads nowhere
            passed_over.append(PassedOver(path.suffix.lower(), UNREACHABLE, 1, f"{below}{key}"))
        else:
            pictures.append(KnownPicture(f"{below}{key}", status.st_size, status.st_mtime_ns))
