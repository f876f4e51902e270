"""The worst queries of a recipe with their pictures: keys from a cell, thumbnails from the shards.

Role: what a number hides. Every failure shows the identity photo, the right image and the first images found. All of it was
drawn by a program, and the pictures say so in their metadata.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from benchmarks.recipes.findings import HYBRID, Findings
from benchmarks.recipes.pages import Picture, Section, ShownFailure, Thumbnail
from benchmarks.recipes.summary import BY_FACE
from benchmarks.recipes.world import World
from open_clip_idplugin.pictures import load_image
from webdataset_tools.contact_sheet import Cell, draw_sheet
from webdataset_tools.miniature.picture_folder import encode_picture
from webdataset_tools.sample_format import Sample, parse_key, read_samples

SIDE = 96  # of a thumbnail, pixels
FOUND = 5
ROWS_OF_SHEET = 4
DRAWN = "Every picture is drawn by a program; nobody in it exists."
_TITLES = {BY_FACE: "Worst queries by caption and face token", HYBRID: "Worst queries of the hybrid ranking"}


@dataclass(frozen=True)
class Seen:
    """A sample's pictures, RGB uint8 [SIDE, SIDE, 3]; face is None without a crop."""

    image: np.ndarray
    face: np.ndarray | None


def failure_sections(findings: Findings, world: World | None) -> list[Section]:
    """A section for every ranking of the default recipe that has failures; without a world words alone."""
    cell = findings.cell_of(findings.default)
    by_ranking = cell.splits[findings.split].get("failures", {}) if cell else {}
    chosen = {name: by_ranking[name] for name in _TITLES if by_ranking.get(name)}
    keys = {key for entries in chosen.values() for entry in entries for key in (entry["key"], *entry["retrieved"])}
    seen = load_pictures(world, findings.split, keys) if world and keys else {}
    return [_section(findings, name, entries, seen) for name, entries in chosen.items()]


def load_pictures(world: World, split: str, keys: Iterable[str]) -> dict[str, Seen]:
    """Key -> its pictures, of those that the shards hold."""
    wanted, seen = set(keys), {}
    for sample in read_samples(world.shards(split)):
        if sample.key in wanted:
            seen[sample.key] = _seen(sample)
        if len(seen) == len(wanted):
            break
    return seen


def _section(findings: Findings, name: str, entries: Sequence[Mapping[str, Any]], seen: Mapping[str, Seen]) -> Section:
    cell = findings.cell_of(findings.default)
    assert cell is not None  # there would be no entries
    notes = (
        f"Recipe `{cell.recipe}`, seed {cell.seed}, split {findings.split}: the queries whose right image ranks lowest, with "
        f"what came first instead. {DRAWN}",
    )
    failures = [_failure(entry, seen) for entry in entries]
    sheet = _sheet(name, _one_a_scene(entries)[:ROWS_OF_SHEET], seen) if seen else None
    return Section(_TITLES[name], notes=notes, failures=failures, sheet=sheet)


def _one_a_scene(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The worst of each scene: what is hard about a scene is hard with everybody in it."""
    worst: dict[int | str, Mapping[str, Any]] = {}
    for entry in entries:
        pair = parse_key(entry["key"])
        worst.setdefault(pair[0] if pair else entry["key"], entry)
    return list(worst.values())


def _failure(entry: Mapping[str, Any], seen: Mapping[str, Seen]) -> ShownFailure:
    thumbnails = [
        Thumbnail(None if picture is None else encode_picture(picture), label, right)
        for picture, label, right in _cells(entry, seen)
    ]
    return ShownFailure(entry["query"], int(entry["rank"]), thumbnails)


def _cells(entry: Mapping[str, Any], seen: Mapping[str, Seen]) -> list[tuple[np.ndarray | None, str, bool]]:
    """Pictures of a failure with label and whether it is the right one: identity photo, right image, what was found."""
    right = entry["key"]
    own = seen.get(right)
    cells = [(own.face if own else None, "identity photo", False)]
    cells.append((own.image if own else None, f"right: rank {entry['rank']}", True))
    for place, key in enumerate(entry["retrieved"][:FOUND], start=1):
        picture = seen.get(key)
        cells.append((picture.image if picture else None, f"{place}: {_what(key, right)}", key == right))
    return cells


def _what(found: str, right: str) -> str:
    """What a wrong image has in common with the right one."""
    if found == right:
        return "the right one"
    pair = parse_key(found), parse_key(right)
    if not all(pair):
        return found
    (scene, person), (right_scene, right_person) = pair  # type: ignore[misc]
    if scene == right_scene:
        return "other person"
    return "other scene" if person == right_person else "both differ"


def _sheet(name: str, entries: Sequence[Mapping[str, Any]], seen: Mapping[str, Seen]) -> Picture:
    """A few queries as one picture, a row each."""
    sheet = draw_sheet([[Cell(picture, label) for picture, label, _ in _cells(entry, seen)] for entry in entries], SIDE)
    queries = "; ".join(f"{number}. `{entry['query']}`" for number, entry in enumerate(entries, start=1))
    return Picture(
        f"failures_{name}.jpg",
        encode_picture(sheet),
        f"{_TITLES[name]}, one a scene: a row a query, with identity photo, right image and the first {FOUND} images found",
        f"The queries, from the top: {queries}",
    )


def _seen(sample: Sample) -> Seen:
    face = None if sample.face_crop_bytes is None else _small(sample.face_crop_bytes)
    return Seen(_small(sample.image_bytes), face)


def _small(content: bytes) -> np.ndarray:
    return cv2.resize(np.asarray(load_image(content)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
