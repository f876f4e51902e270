"""Hot reload of indices: index folders -> opened indices by name, followed when another folder takes an old one's place.

Once a second at most a request looks whether another folder lies where an index was (see `generations`); a thread opens it, and
later requests get it. Requests that are being answered keep what they began with, and an index that cannot be opened leaves the
old one in its place.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.clip_retrieval import verify_hosts
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.service.monitoring import INDEX_ROWS
from open_clip_idplugin.retrieval.service.resources import IdentityResource, ResourceOpener

CHECK_SECONDS = 1.0
_ATTEMPTS = 3  # to open an index that is being replaced meanwhile
_log = logging.getLogger(__name__)

Stamp = tuple[int, ...]


def open_indices(indices: Mapping[str, str | Path], loaded: LoadedModel, mmap: bool = False) -> "ServedIndices":
    """Open index folders for searching with a loaded model.

    Raises:
        IndexMismatch: an index is damaged, or was made with another image tower.
        HostMismatchError: the installed clip-retrieval is not one that this was built for.
    """
    verify_hosts()
    return ServedIndices({name: Path(folder) for name, folder in indices.items()}, ResourceOpener(loaded, mmap))


class ServedIndices:
    """Opened indices by name; safe to use from several threads."""

    def __init__(self, folders: Mapping[str, Path], open_index: Callable[[Path], IdentityResource]) -> None:
        """Open all of them.

        Raises:
            IndexMismatch: one cannot be opened.
        """
        self._folders = dict(folders)
        self._open_index = open_index
        self._lock = threading.Lock()
        self._next_check = 0.0
        self._busy: set[str] = set()
        self._refused: dict[str, Stamp] = {}
        self._resources: dict[str, IdentityResource] = {}
        self._stamps: dict[str, Stamp] = {}
        for name in self._folders:
            self._take(name, *self._opened(name))

    def current(self) -> dict[str, IdentityResource]:
        """The indices by name, for one request; the dictionary is not changed afterwards."""
        now = time.monotonic()
        with self._lock:
            due = now >= self._next_check
            if due:
                self._next_check = now + CHECK_SECONDS
        if due:
            self._open_what_changed()
        with self._lock:
            return self._resources

    def _open_what_changed(self) -> None:
        for name, folder in self._folders.items():
            stamp = _stamp(folder)
            with self._lock:
                known = (None, self._stamps[name], self._refused.get(name))
                if stamp in known or name in self._busy:
                    continue
                self._busy.add(name)
            threading.Thread(target=self._reopen, args=(name, stamp), daemon=True).start()

    def _reopen(self, name: str, stamp: Stamp) -> None:
        try:
            self._take(name, *self._opened(name))
            _log.info("the index '%s' was replaced: requests are answered from the new one", name)
        except Exception as error:  # whatever it is, the old index must go on
            with self._lock:
                self._refused[name] = stamp
            reason = error if isinstance(error, IdClipError) else type(error).__name__
            _log.warning(
                "the index '%s' was replaced by one that cannot be served, the old one goes on: %s", name, reason
            )
        finally:
            with self._lock:
                self._busy.discard(name)

    def _opened(self, name: str) -> tuple[IdentityResource, Stamp]:
        """An index and its stamp, none of whose files belong to another one that lay there a moment before."""
        folder = self._folders[name]
        for attempt in range(_ATTEMPTS):
            before = _stamp(folder)
            try:
                resource = self._open_index(folder)
            except Exception:  # files of two indices fit in no way
                if before == _stamp(folder) or attempt == _ATTEMPTS - 1:
                    raise
                continue
            if before is not None and before == _stamp(folder):
                return resource, before
        raise IndexMismatch(f"'{folder}' is replaced again and again: wait until that has ended")

    def _take(self, name: str, resource: IdentityResource, stamp: Stamp) -> None:
        with self._lock:
            self._resources = {**self._resources, name: resource}
            self._stamps[name] = stamp
        INDEX_ROWS.labels(name).set(resource.rows)


def _stamp(folder: Path) -> Stamp | None:
    """What tells an index folder, and the folder of its faces, from others; None where there is none.

    An opened index keeps its folder open (`RemovedRows`), so that no other one gets the same number meanwhile.
    """
    try:
        status = folder.stat()
    except OSError:
        return None
    try:
        faces = (folder / FACES).stat()
    except OSError:
        return (status.st_dev, status.st_ino)
    return (status.st_dev, status.st_ino, faces.st_ino, faces.st_mtime_ns)
