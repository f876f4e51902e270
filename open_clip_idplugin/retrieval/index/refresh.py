"""Incremental indexing of a folder: an index takes in what is new, changed, renamed or gone, and leaves the rest alone.

Role: listed files + index folder + model -> the same folder as if it had been made from these files. Every step is one of the
index's own changes (`build_index`, `add_images`, `remove_rows`, `rename_images`, `compact`), each whole or not at all, and a
service that is running picks each up. What is being embedded is noted beside the index first, so that a killed run
is continued with the very list that it began with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.retrieval.face_index.kept_face_table import keep_only
from open_clip_idplugin.retrieval.index.partitions import CANNOT_READ, EmbedOptions, PartitionReport
from open_clip_idplugin.retrieval.index.picture_changes import Changes, find_changes, hash_file, unreadable
from open_clip_idplugin.retrieval.index.picture_manifest import (
    COPY,
    FILE_NAME,
    INDEXED,
    LEAVING,
    UNREADABLE,
    KnownPicture,
    read_manifest,
    write_manifest,
)
from open_clip_idplugin.retrieval.index.rename import rename_images
from open_clip_idplugin.retrieval.index.sources import ImageSource
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.generations import changing
from open_clip_idplugin.retrieval.index_folder.removed_rows import (
    count_rows,
    keys_left,
    read_removed,
    remove_rows,
    rows_of_keys,
)
from open_clip_idplugin.storage.reports import Skip

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints.loading import LoadedModel

_FEW = 10  # pictures that may be gone without a question
_WORTHWHILE = 0.2  # share of removed rows from which an index is written anew without them
_PENDING = "pending.parquet"  # beside the index: what a run has set out to embed


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did."""

    images: int  # in the index now
    new: int = 0
    changed: int = 0
    renamed: int = 0
    gone: int = 0
    hidden: int = 0  # taken out with `idclip index_remove`, and left so
    compacted: bool = False
    copies: list[Skip] = field(default_factory=list)
    unreadable: list[Skip] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether the index was as the files are."""
        return not (self.new or self.changed or self.renamed or self.gone)


class IndexRefresh:
    """One folder of pictures and the index that follows it."""

    def __init__(
        self,
        index: Path,
        root: Path,
        load: "Callable[[], LoadedModel]",
        options: EmbedOptions,
        accept_gone: bool = False,
    ) -> None:
        """`root`: the pictures' names are below it. `load`: called when something must be embedded. `accept_gone`: also
        follow files of which most are gone, which may be a disk that is not there."""
        self._index, self._root = index, root
        self._load = load
        self._options = replace(options, hash_files=True)
        self._accept_gone = accept_gone

    def run(self, listed: Sequence[KnownPicture]) -> Refreshed:
        """Bring the index to the files of today: name, size and time of change of each.

        Raises:
            NothingReadable: there is no index yet, and none of the files could be read.
            IndexMismatch: the index was made with another model.
            IdClipError: more than half of the pictures are gone, and that was not accepted.
        """
        if self._index.exists() and not self._manifest.exists():
            raise IndexMismatch(f"'{self._index}' was not made by `idclip open`: choose another --output")
        self._finish_pending()
        before = self._indexed_pictures()
        changes = find_changes(before, listed, lambda picture: hash_file(Path(str(place_of(self._root, picture.name)))))
        self._check_gone(changes, before)
        self._remove(changes)
        self._rename(changes, before)
        self._add(changes)
        compacted = self._compact()
        after = self._indexed_pictures()
        alive = keys_left(self._index)
        with changing(self._index):
            keep_only(self._index, alive)  # also without the faces of what was hidden by hand
        indexed = {picture.name for picture in after if picture.state == INDEXED}
        added = {picture.name for picture in changes.add} & indexed
        changed = added & set(changes.changed)
        return Refreshed(
            images=len(alive),
            new=len(added - changed),
            changed=len(changed),
            renamed=len(changes.rename),
            gone=len(changes.gone),
            hidden=len(indexed - alive),
            compacted=compacted,
            copies=[Skip(picture.name, COPY, picture.detail) for picture in after if picture.state == COPY],
            unreadable=[Skip(each.name, CANNOT_READ, each.detail) for each in after if each.state == UNREADABLE],
        )

    @property
    def _manifest(self) -> Path:
        return self._index / FILE_NAME

    @property
    def _pending(self) -> Path:
        return self._index.with_name(f"{self._index.name}.{_PENDING}")

    def _indexed_pictures(self) -> list[KnownPicture]:
        """The manifest without what is leaving, whose rows are hidden once more: a killed run may not have come to it."""
        known = read_manifest(self._manifest) or []
        self._hide([picture.name for picture in known if picture.state == LEAVING])
        return [picture for picture in known if picture.state != LEAVING]

    def _finish_pending(self) -> None:
        """Embed what a killed run had set out to embed; what changed meanwhile is found afterwards."""
        pending = read_manifest(self._pending)
        if pending is None:
            return
        known = {(picture.name, picture.size, picture.mtime_ns) for picture in self._indexed_pictures()}
        self._embed([each for each in pending if (each.name, each.size, each.mtime_ns) not in known])

    def _check_gone(self, changes: Changes, before: Sequence[KnownPicture]) -> None:
        if not self._accept_gone and len(changes.gone) > max(len(before) / 2, _FEW):
            raise IdClipError(
                f"the files of {len(changes.gone)} of {len(before)} pictures are gone (for example '{changes.gone[0]}'), and "
                "nothing was changed: is the disk there? If they are to leave the index, say --accept_gone"
            )

    def _remove(self, changes: Changes) -> None:
        if not changes.remove:
            return
        known = read_manifest(self._manifest) or []
        leaving = set(changes.remove)
        marked = [replace(each, state=LEAVING) if each.name in leaving else each for each in known]
        write_manifest(self._manifest, marked)
        self._hide(changes.remove)

    def _hide(self, keys: Sequence[str]) -> None:
        if keys:
            remove_rows(self._index, lambda: rows_of_keys(self._index, set(keys))[0])

    def _rename(self, changes: Changes, before: Sequence[KnownPicture]) -> None:
        """Give rows their new keys; the manifest then has everything but what is to be added."""
        if not self._index.exists():
            return
        if changes.rename:
            rename_images(self._index, changes.rename, lambda folder: write_manifest(folder / FILE_NAME, changes.kept))
        elif set(changes.kept) != set(before) or changes.remove:
            write_manifest(self._manifest, changes.kept)

    def _add(self, changes: Changes) -> None:
        if not changes.add:
            return
        first = not self._index.exists()
        write_manifest(self._pending, changes.add)
        self._embed(changes.add)
        if first and changes.kept:
            write_manifest(self._manifest, [*self._indexed_pictures(), *changes.kept])

    def _embed(self, add: Sequence[KnownPicture]) -> None:
        """Embed files and add them to index and manifest; then nothing is pending any more."""
        if add:
            # Not at the top: a run that finds nothing new does without torch and the hosts, which take seconds to import.
            from open_clip_idplugin.retrieval.index.add import add_images
            from open_clip_idplugin.retrieval.index.build import NothingReadable, build_index

            keys, sizes = zip(*((picture.name, picture.size) for picture in add))
            source = ImageSource(folder=self._root, keys=keys, sizes=sizes)
            try:
                if self._index.exists():
                    finish = _Finish(add)
                    add_images(self._index, source, self._load(), self._options, finish=finish)
                else:
                    build_index(source, self._load(), self._index, self._options, finish=_Finish(add))
            except NothingReadable as error:
                self._pending.unlink(missing_ok=True)
                if not self._index.exists():
                    raise
                _Finish(add)(self._index, error.reports)
        self._pending.unlink(missing_ok=True)

    def _compact(self) -> bool:
        removed, rows = len(read_removed(self._index)), count_rows(self._index)
        if removed == rows or removed < _WORTHWHILE * rows or not removed:
            return False
        from open_clip_idplugin.retrieval.index.compact import compact

        compact(self._index)
        return True


class _Finish:
    """Joins files that were embedded to the manifest of a folder."""

    def __init__(self, added: Sequence[KnownPicture]) -> None:
        self._added = added

    def __call__(self, folder: Path, reports: Sequence[PartitionReport]) -> None:
        hashes = {key: digest for report in reports for key, digest in report.hashes.items()}
        skipped = {key for report in reports for key in report.skipped}
        reasons = {key: reason for report in reports for key, reason in report.reasons.items()}
        entries = {picture.name: picture for picture in read_manifest(folder / FILE_NAME) or []}
        for picture in self._added:
            hashed = replace(picture, sha256=picture.sha256 or hashes.get(picture.name, ""))
            reason = reasons.get(picture.name, CANNOT_READ)
            entries[picture.name] = unreadable(hashed, reason) if picture.name in skipped else hashed
        write_manifest(folder / FILE_NAME, entries.values())
