"""Listing of picture folders: which files there are, how large, and when they last changed; nothing is opened.

Role: folders -> `Listing`. Names are relative to the folder that all of them share, so that several folders make one
collection.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.left_out import Skip
from open_clip_idplugin.pictures.formats import PICTURE_EXTENSIONS
from open_clip_idplugin.retrieval.picture_manifest import KnownPicture

NOT_TEXT = "name that is not UTF-8"
UNREACHABLE = "file that cannot be reached"


@dataclass(frozen=True)
class Listing:
    """The pictures of some folders, sorted by name, and what was passed over."""

    root: Path
    folders: tuple[Path, ...]
    pictures: tuple[KnownPicture, ...]
    passed_over: tuple[Skip, ...]


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
    passed_over: list[Skip] = []
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


def _list_folder(place: Path, root: Path, pictures: list[KnownPicture], passed_over: list[Skip]) -> None:
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            if path.suffix.lower().lstrip(".") not in PICTURE_EXTENSIONS:
                passed_over.append(Skip(key, f"no picture ({path.suffix.lower() or 'no extension'})"))
                continue
            try:
                key.encode()
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):  # a pipe would never end
                    raise FileNotFoundError(errno.ENOENT, "it is no file")
            except UnicodeEncodeError:
                passed_over.append(Skip(key.encode(errors="surrogateescape").decode(errors="replace"), NOT_TEXT))
            except OSError as error:
                passed_over.append(Skip(key, UNREACHABLE, error.strerror or ""))
            else:
                pictures.append(KnownPicture(key, status.st_size, status.st_mtime_ns))
