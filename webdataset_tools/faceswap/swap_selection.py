"""Selection for a swap: scanned photos and images -> the people and the images that can be used.

Role: inputs + options -> identities with usable photos (`Lenders`) and, for each split, the scenes with a usable
face. Images are looked at in a seeded order until a split's limit of usable ones is reached; what lies behind it does
not count, so that neither the number of workers nor of images looked at at once changes anything.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from open_clip_idplugin.faces import ModelMismatch
from open_clip_idplugin.faces.model_identity import agreed_model
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap import coco, matching, reasons
from webdataset_tools.faceswap.assignment import shuffled
from webdataset_tools.faceswap.coco import CocoImage
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_scan import EngineLoader, ImageScanner, PhotoScanner, ScanRules, read_entry
from webdataset_tools.faceswap.identities import SPLIT
from webdataset_tools.faceswap.inputs import SwapInputs
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.swap_folder import Task, chunked
from webdataset_tools.release import SPLITS

_SCAN_CHUNK = 16  # images a record
_PEOPLE_CHUNK = 4
_SPLIT_NUMBERS = 10**5  # first record number of the second split, and so on

# (stage, tasks, prepare, title) -> records in order; see `swap_folder.run_stage`
RunStage = Callable[[str, Sequence[Task[Any]], Callable[[], Any], str], list[dict[str, Any]]]
Values = dict[str, str | None]


@dataclass(frozen=True)
class Scene:
    """A COCO image that can be used, its face, and the values by which it is matched."""

    image: CocoImage
    face: FoundFace
    values: Values


@dataclass(frozen=True)
class Lenders:
    """The identities that can be used: usable photos (photo -> face) and matched values by id; and what cannot be used."""

    photos: dict[str, dict[str, FoundFace]]
    values: dict[str, Values]
    skipped: list[Skip]
    skipped_photos: list[Skip]
    face_model: str | None


def select_people(inputs: SwapInputs, options: SwapOptions, load: EngineLoader, run: RunStage) -> Lenders:
    """Look at everybody's photos."""
    prepare = partial(PhotoScanner, load, inputs.people.folder, _rules(options))
    records = run("people", chunked(inputs.people.identities, _PEOPLE_CHUNK), prepare, "looking at photos")
    given = {identity.identity_id: identity.attributes for identity in inputs.people.identities}
    skipped, skipped_photos = list(inputs.people.skipped), list(inputs.people.skipped_photos)
    lenders = Lenders({}, {}, skipped, skipped_photos, _one_model(records, None))
    for entry in (entry for record in records for entry in record["identities"]):
        key = entry["identity_id"]
        lenders.skipped_photos.extend(Skip(**skip) for skip in entry["skipped"])
        faces = {photo: FoundFace.from_json(face) for photo, face in entry["photos"].items()}
        values = matching.identity_values(options.matched, given[key], faces.values())
        if not faces:
            lenders.skipped.append(Skip(key, reasons.NO_USABLE_PHOTO))
        elif missing := _unknown(values, options):
            lenders.skipped.append(Skip(key, reasons.UNKNOWN_ATTRIBUTE, missing))
        else:
            lenders.photos[key], lenders.values[key] = faces, values
    return lenders


@dataclass
class SplitSelection:
    """The images of one split while they are looked at; `tasks` in the order of looking."""

    split: str
    tasks: list[Task[CocoImage]]
    limit: int | None
    scenes: list[Scene] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    looked_at: int = 0  # tasks
    pairs_refused: Counter[str] = field(default_factory=Counter)  # reason -> pairs of a scene and a person

    def wants_more(self) -> bool:
        """Whether the limit is not reached."""
        return self.limit is None or len(self.scenes) < self.limit

    def next_tasks(self) -> list[Task[CocoImage]]:
        """Return what to look at next: a little more than what is missing needs at the rate so far."""
        if not self.wants_more():
            return []
        count = len(self.tasks)
        if self.limit is not None:
            rate = len(self.scenes) / self.looked_at if self.scenes else _SCAN_CHUNK / 2
            count = max(4, math.ceil(1.2 * (self.limit - len(self.scenes)) / rate))
        return self.tasks[self.looked_at : self.looked_at + count]


def select_scenes(
    inputs: SwapInputs, options: SwapOptions, load: EngineLoader, run: RunStage, face_model: str | None
) -> list[SplitSelection]:
    """Look at COCO's images, split by split, until each has enough or is exhausted.

    Raises ModelMismatch when the face pack is not the one (`face_model`) that looked at the photos.
    """
    selections = [
        SplitSelection(split, chunked(images, _SCAN_CHUNK, place * _SPLIT_NUMBERS), options.limit(split))
        for place, (split, images) in enumerate(_deal_images(inputs, options).items())
    ]
    prepare = partial(ImageScanner, load, {name: s.folder for name, s in inputs.subsets.items()}, _rules(options))
    while waves := [(selection, tasks) for selection in selections if (tasks := selection.next_tasks())]:
        records = run("images", [task for _, tasks in waves for task in tasks], prepare, "looking at images")
        _one_model(records, face_model)
        left = iter(records)
        for selection, tasks in waves:
            selection.looked_at += len(tasks)
            for task in tasks:
                for image, entry in zip(task[1], next(left)["images"]):
                    if selection.wants_more():
                        _take_or_leave_out(image, read_entry(entry), selection, inputs, options)
    return selections


def _take_or_leave_out(
    image: CocoImage, found: FoundFace | Skip, selection: SplitSelection, inputs: SwapInputs, options: SwapOptions
) -> None:
    if isinstance(found, Skip):
        selection.skipped.append(found)
        return
    values = matching.image_values(options.matched, inputs.notes.get(image.image_id, {}), image.captions, found)
    if missing := _unknown(values, options):
        selection.skipped.append(Skip(image.label, reasons.UNKNOWN_ATTRIBUTE, missing))
    else:
        selection.scenes.append(Scene(image, found, values))


def _deal_images(inputs: SwapInputs, options: SwapOptions) -> dict[str, list[CocoImage]]:
    """Return the images of each split, disjoint, in the order in which they are looked at.

    An image goes where the user's table has it, if that split is made of its subset; the others are dealt by the shares.
    """
    shares = {split: share for split, share in options.split_shares.items() if share > 0}
    dealt: dict[str, list[CocoImage]] = {split: [] for split in SPLITS if split in shares}
    for name, subset in inputs.subsets.items():
        splits = [split for split in dealt if coco.SUBSETS[split] == name]
        by_id = {image.image_id: image for image in subset.images}
        told = {image_id: inputs.notes.get(image_id, {}).get(SPLIT) for image_id in by_id}
        order = shuffled([image_id for image_id in by_id if told[image_id] not in splits], options.seed, name)
        start, cumulated = 0, 0.0
        for split in splits:
            cumulated += shares[split]
            end = round(len(order) * cumulated / sum(shares[other] for other in splits))
            fixed = [image_id for image_id in by_id if told[image_id] == split]
            chosen = shuffled([*order[start:end], *fixed], options.seed, name) if fixed else order[start:end]
            dealt[split] = [by_id[image_id] for image_id in chosen]
            start = end
    return dealt


def _rules(options: SwapOptions) -> ScanRules:
    return ScanRules(
        options.min_face, options.min_score, options.min_inside, options.quality_rules, options.photos_per_identity
    )


def _unknown(values: Values, options: SwapOptions) -> str:
    """Return the names of the attributes that stop a match, or nothing."""
    missing = [name for name, value in values.items() if value is None]
    return ", ".join(missing) if options.unknown == "skip" else ""


def _one_model(records: Sequence[dict[str, Any]], before: str | None) -> str | None:
    """Return the face model of all records; embeddings of two models must never be compared."""
    try:
        return agreed_model([before, *(record["face_model"] for record in records)], "this run")
    except ModelMismatch as error:
        raise ModelMismatch(
            f"The face pack changed during the run; delete the --output and start anew. {error}"
        ) from None
