"""Change detection between a manifest and the files of today: new, changed, renamed, copied and gone pictures.

Role: known pictures + listed files -> `Changes`. Files whose name, size and time of change are as before are not read; of the
others only those are hashed that can be copies or renamed, which must have the size of another file.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from open_clip_idplugin.retrieval.index.picture_manifest import COPY, INDEXED, UNREADABLE, KnownPicture
from open_clip_idplugin.storage.file_hash import file_sha256

_BLOCK = 1 << 20

Hasher = Callable[[KnownPicture], str]  # reads a file; "" where that fails


@dataclass(frozen=True)
class Changes:
    """What a refresh must do, and the manifest that holds afterwards.

    Attributes:
        remove: keys whose rows leave the index: gone files, and the former content of changed ones.
        rename: old key -> new key of rows that stay.
        add: files to embed, by name; `sha256` is empty where it was not needed yet.
        kept: all other files of today as the manifest will have them.
        changed: names in `add` that had another content before.
        gone: names of which no file has the content any more.
    """

    remove: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    add: tuple[KnownPicture, ...] = ()
    kept: tuple[KnownPicture, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether the index stays as it is."""
        return not (self.remove or self.rename or self.add)


def find_changes(known: Iterable[KnownPicture], listed: Sequence[KnownPicture], hasher: Hasher) -> Changes:
    """Compare the files of a manifest with those of today.

    known: of the manifest, without what is leaving. listed: the files there are, with name, size and time of change.
    """
    before = {picture.name: picture for picture in known}
    today = _with_hashes(before, listed, hasher)
    names: dict[str, list[str]] = {}  # of each content, sorted as they were listed
    for picture in today.values():
        names.setdefault(_content(picture), []).append(picture.name)
    taken: dict[str, KnownPicture] = {}  # content -> what the manifest says of it
    for picture in before.values():
        if picture.state != COPY:
            taken.setdefault(_content(picture), picture)
    rename, kept, gone = {}, [], []
    for content, old in taken.items():
        if content not in names:
            gone.append(old)
            continue
        key = old.name if old.name in names[content] else names[content][0]
        if key != old.name and old.state == INDEXED:
            rename[old.name] = key
        kept.append(replace(today[key], sha256=old.sha256, state=old.state, detail=old.detail))
        kept += _copies(key, names[content], today)
    add: list[KnownPicture] = []
    for content, group in names.items():
        if content not in taken:
            add.append(today[group[0]])
            kept += _copies(group[0], group, today)
    added = {picture.name for picture in add}
    changed = tuple(sorted(picture.name for picture in before.values() if picture.name in added))
    return Changes(
        remove=tuple(sorted(picture.name for picture in gone if picture.state == INDEXED)),
        rename=rename,
        add=tuple(sorted(add, key=lambda picture: picture.name)),
        kept=tuple(kept),
        changed=changed,
        gone=tuple(sorted(picture.name for picture in gone if picture.name not in today)),
    )


def _copies(original: str, names: Sequence[str], today: Mapping[str, KnownPicture]) -> list[KnownPicture]:
    return [replace(today[name], state=COPY, detail=original) for name in names if name != original]


def _content(picture: KnownPicture) -> str:
    """What tells the contents of files apart; a file that nobody had to hash is like no other."""
    return picture.sha256 or f"{picture.name}\0{picture.size}\0{picture.mtime_ns}"


def _with_hashes(
    before: Mapping[str, KnownPicture], listed: Sequence[KnownPicture], hasher: Hasher
) -> dict[str, KnownPicture]:
    """The files of today by name; hashed where the manifest has the hash, or another file the same size."""
    sizes = Counter(picture.size for picture in listed)
    sizes.update({picture.size for picture in before.values()})
    today: dict[str, KnownPicture] = {}
    for picture in listed:
        old = before.get(picture.name)
        if old is not None and (old.size, old.mtime_ns) == (picture.size, picture.mtime_ns):
            refused = old.state == UNREADABLE and not old.sha256  # the system did, and may have changed its mind
            today[picture.name] = replace(picture, sha256=hasher(picture) if refused else old.sha256)
        else:
            alone = sizes[picture.size] == 1
            today[picture.name] = picture if alone else replace(picture, sha256=hasher(picture))
    return today


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; empty where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def unreadable(picture: KnownPicture, reason: str) -> KnownPicture:
    """A file that gave no row, as the manifest remembers it."""
    return replace(picture, state=UNREADABLE, detail=reason)
