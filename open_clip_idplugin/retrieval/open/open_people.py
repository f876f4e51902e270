"""The people of `idclip open`: named folders and named groups into the gallery, unknown faces into groups.

Role: gallery + face table of the index -> who is known, and who may be named next. Each step is left out when what it reads
is as it was in the run before.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip_idplugin.faces.calibrating import calibrate_beside
from open_clip_idplugin.faces.calibration import FMR_WARNINGS, Calibration
from open_clip_idplugin.faces.calibration_files import FILE as CALIBRATION_FILE
from open_clip_idplugin.faces.calibration_files import load_calibration, read_calibration
from open_clip_idplugin.faces.face_table import FaceTable, load_face_table
from open_clip_idplugin.faces.finding import FaceFinding
from open_clip_idplugin.faces.row_crops import crops_below
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.bulk_enrolment import REPORT_FILE, BulkOptions, run_enrolment
from open_clip_idplugin.gallery.folder_command import enroll_folder
from open_clip_idplugin.gallery.group_files import CSV_FILE, read_groups
from open_clip_idplugin.gallery.group_suggestions import Suggested, SuggestOptions, candidates_of, suggest_groups
from open_clip_idplugin.retrieval.face_index.kept_face_table import FOLDER as FACE_TABLE
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES

GROUPS = "groups"
_STALE = "groups-of-before"
_NEIGHBOURS = "neighbours.safetensors"  # which faces look alike, so that the next run compares new ones only


class OpenPeople:
    """Gallery and groups of one output folder."""

    def __init__(self, folder: Path, index: Path, root: Path, gallery: Path, state: Mapping[str, Any]) -> None:
        """`root`: the pictures' names are below it. `state`: that of the run before, as `state` gives it now."""
        self._folder, self._root = folder, root
        self.index = index
        self.gallery = Gallery(gallery)
        self._before = dict(state)
        self.state = dict(state)
        """What the next run compares with."""

    def enroll_named_groups(self) -> None:
        """Enroll the people whose groups were given names in groups.csv since the run before."""
        csv = self._folder / GROUPS / CSV_FILE
        if not csv.exists() or not self._table_is_there():
            return
        groups, names = read_groups(csv)
        if not names:
            return
        table = self._table()
        if table.info.fingerprint != groups.fingerprint:  # a killed run had changed the faces already
            shutil.rmtree(self._folder / _STALE, ignore_errors=True)
            (self._folder / GROUPS).rename(self._folder / _STALE)
            print(f"the names in {csv} are of faces that have changed since: write them into the new groups")
            return
        candidates = candidates_of(table, groups, names, lambda rows: crops_below(self._root, rows))
        run_enrolment(
            self.gallery,
            candidates,
            table.model_id,
            BulkOptions(same_face=self._threshold(table)),
            self._folder / REPORT_FILE,
        )

    def enroll_folder(self, people: str | None, finding: FaceFinding) -> None:
        """Enroll a folder of named people where it has changed since the run before."""
        if people is None:
            return
        now = f"{finding.spec} {_describe(Path(people).expanduser())}"
        if now != self._before.get("people") or not self.gallery.path.exists():
            enroll_folder(
                people,
                str(self.gallery.path),
                finding.spec,
                finding.det_size,
                report=str(self._folder / REPORT_FILE),
            )
        self.state["people"] = now

    def calibrate(self) -> str | None:
        """Measure a face model that nobody has measured on the faces of the collection; returns a sentence about it."""
        folder = self.index / FACES
        said = calibrate_beside(self._table(), folder)
        if said is None and (folder / CALIBRATION_FILE).exists():  # measured when the index was built
            said = f"thresholds are those of this collection: {read_calibration(folder / CALIBRATION_FILE).source}"
        return said

    def suggest(self) -> Suggested | None:
        """Group the unknown faces anew where faces or people have changed; None where the groups are as before."""
        table = self._table()
        people = (
            [(person.name, person.photos) for person in self.gallery.people()] if self.gallery.path.exists() else []
        )
        now = hashlib.sha256(repr((table.info.fingerprint, people)).encode()).hexdigest()
        target = self._folder / GROUPS
        self.state["groups"] = now
        if now == self._before.get("groups") and target.is_dir():
            return None
        building = self._folder / f".{GROUPS}"
        shutil.rmtree(building, ignore_errors=True)
        found = suggest_groups(
            table,
            self.gallery,
            building,
            SuggestOptions(self._threshold(table)),
            lambda rows: crops_below(self._root, rows),
            str(self._root),
            self._folder / _NEIGHBOURS,
        )
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)
        return found

    def _table_is_there(self) -> bool:
        return (self.index / FACE_TABLE).is_dir()

    def _table(self) -> FaceTable:
        return load_face_table(self.index / FACE_TABLE)

    def _threshold(self, table: FaceTable) -> float:
        calibration: Calibration = load_calibration(table.model_id, self.index / FACES)
        return calibration.threshold(FMR_WARNINGS)


def _describe(folder: Path) -> str:
    """A hash over the names, sizes and times of change of a folder's files."""
    digest = hashlib.sha256(str(folder.resolve()).encode(errors="replace"))
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()
