"""The demo's page: tables, queries with their top images, loss curve -> one self-contained HTML file.

Role: plain values in -> `report.html` out. Pictures are embedded, so that the file can be mailed or archived by itself.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write

TEMPLATE = Path(__file__).with_name("demo_report.html.j2")


@dataclass(frozen=True)
class Row:
    """One line of a table; `ours` sets it in bold."""

    cells: Sequence[str]
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """Columns, rows and the sentences below them."""

    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Hit:
    """One retrieved image: its bytes as base64 JPEG, similarity in [-1, 1], and whether it is the one asked for."""

    jpeg_base64: str
    score: float
    name: str
    caption: str
    right: bool

    @property
    def image(self) -> str:
        """The picture as a data URL."""
        return f"data:image/jpeg;base64,{self.jpeg_base64}"


@dataclass(frozen=True)
class Query:
    """A face photo (JPEG bytes), the sentence with its placeholder, and what came back."""

    face_jpeg: bytes
    name: str
    text: str
    hits: Sequence[Hit]

    @property
    def face(self) -> str:
        """The face photo as a data URL."""
        return _data_url(self.face_jpeg, "image/jpeg")


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    title: str
    summary: str
    table: Table
    strata: Table | None
    queries: Sequence[Query]
    gallery_size: int
    losses: Mapping[str, Sequence[tuple[int, float]]]
    commands: Sequence[str]
    footer: str = ""


def write_report(report: Report, path: Path) -> None:
    """Render `report` to `path`; only the owner may read it, for it shows faces."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    curve = _data_url(draw_curves(report.losses), "image/png") if report.losses else None
    atomic_write(path, template.render(**vars(report), curve=curve), mode=PRIVATE)


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """Draw one line a curve of (step, value) points; returns PNG bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([step for step, _ in points], [value for _, value in points], label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
