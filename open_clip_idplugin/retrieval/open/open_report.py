"""What `idclip open` did, for a reader and as JSON.

Role: counts and what was left out by reason -> `open_report.json` and a few lines. The report names pictures and people, so
that only its owner can read it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from open_clip_idplugin.gallery.group_suggestions import Suggested
from open_clip_idplugin.pictures.passed_over import PassedOver, passed_over_lines, to_json
from open_clip_idplugin.retrieval.index.refresh import Refreshed
from open_clip_idplugin.storage.reports import reason_lines, with_counts, write_report

REPORT_FILE = "open_report.json"


@dataclass
class OpenReport:
    """The account of one run."""

    pictures: Sequence[str]  # folders
    refreshed: Refreshed
    passed_over: Sequence[PassedOver] = ()
    faces: int = 0
    pictures_with_faces: int = 0
    face_model: str = ""
    people: int = 0
    calibration: str | None = None  # a sentence, where thresholds were measured now or could not be
    groups: Suggested | None = None  # None: as in the run before
    state: Mapping[str, Any] = field(default_factory=dict)  # what later runs compare with

    def write(self, folder: Path) -> None:
        """Write open_report.json."""
        values = asdict(self.refreshed)
        for name in ("copies", "unreadable"):
            values[name] = with_counts(getattr(self.refreshed, name), "files")
        report = {
            "pictures": list(self.pictures),
            "index": values,
            "passed_over": to_json(self.passed_over),
            "faces": {"count": self.faces, "pictures": self.pictures_with_faces, "model": self.face_model},
            "people": self.people,
            "groups": None if self.groups is None else asdict(self.groups),
            "calibration": self.calibration,
            "state": dict(self.state),
        }
        write_report(folder / REPORT_FILE, report)

    def lines(self) -> list[str]:
        """The report in a few lines."""
        done = self.refreshed
        names = ("new", "changed", "renamed", "gone")
        changes = ", ".join(f"{getattr(done, name):,} {name}" for name in names if getattr(done, name))
        lines = [f"{done.images:,} pictures ({changes or 'all as before'})"]
        if done.hidden:
            lines[0] += f", {done.hidden:,} hidden with idclip index_remove"
        lines.append(f"{self.faces:,} faces in {self.pictures_with_faces:,} of them, by {self.face_model}")
        lines += reason_lines("left out", [*done.unreadable, *done.copies])
        lines += passed_over_lines(self.passed_over)
        if self.calibration is not None:
            lines.append(self.calibration)
        lines.append(f"{self.people:,} people are enrolled")
        return lines + (self.groups.lines() if self.groups is not None else [])


def read_state(folder: Path) -> dict[str, Any]:
    """`state` of the report of the run before; empty where there is none."""
    try:
        state = json.loads((folder / REPORT_FILE).read_text())["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return state if isinstance(state, dict) else {}
