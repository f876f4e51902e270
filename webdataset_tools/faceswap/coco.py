"""COCO in its folder (or at a URL) -> the images that show exactly one person, with their captions.

Role: reads `annotations/instances_*.json` and `captions_*.json` of one subset and joins them. Nothing is decoded here;
whether a face detector agrees is found out by `face_scan`. Boxes are x0, y0, x1, y1 in pixels.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_idplugin import locations
from open_clip_idplugin.locations import Location
from webdataset_tools.faceswap import reasons
from webdataset_tools.release_files import ReleaseError, encodable, read_captions
from webdataset_tools.report import Skip

SUBSETS = {"train": "train2017", "val": "val2017", "test": "val2017"}  # of each split, as in the published release
_LARGEST_ID = 10**12  # image ids have twelve digits at most in file names


@dataclass(frozen=True)
class CocoImage:
    """One image with one annotated person.

    size        width and height as annotated, in pixels; None where COCO's file does not tell
    person_box  x0, y0, x1, y1 in pixels
    captions    stripped, in file order, at least one
    """

    subset: str
    image_id: int
    file_name: str
    size: tuple[int, int] | None
    person_box: tuple[float, float, float, float]
    captions: tuple[str, ...]

    @property
    def label(self) -> str:
        """How reports call the image."""
        return f"{self.subset}/{self.file_name}"


@dataclass(frozen=True)
class CocoSubset:
    """The images of one subset that show one person, sorted by id, and why others are not there."""

    name: str
    folder: Location
    images: list[CocoImage]
    skipped: list[Skip] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)  # reason of NOT_ONE_PERSON -> images


def load_subset(coco: Location, name: str) -> CocoSubset:
    """Read subset `name` (train2017 or val2017) of the COCO folder.

    Raises ReleaseError when a file is missing or is no COCO file.
    """
    folder = next((path for path in (coco / name, coco / "images" / name) if locations.is_folder(path)), None)
    if folder is None:
        raise ReleaseError(f"{coco} holds no folder {name} with images; give COCO's folder with {name}/ in it")
    skipped: list[Skip] = []
    content = _read_json(coco / "annotations" / f"instances_{name}.json")
    entries = _read_images(content, name, skipped)
    boxes, others = _single_people(content, entries)
    captions = read_captions(_existing(coco / "annotations" / f"captions_{name}.json"), boxes.keys())
    files = {entry.name for entry in locations.list_folder(folder)}
    images = []
    for image_id, box in sorted(boxes.items()):
        file_name, size = entries[image_id]
        label = f"{name}/{file_name}"
        if file_name not in files:
            skipped.append(Skip(label, reasons.MISSING_IMAGE))
        elif image_id not in captions:
            skipped.append(Skip(label, reasons.MISSING_CAPTIONS, f"image {image_id} has no caption"))
        else:
            images.append(CocoImage(name, image_id, file_name, size, box, tuple(captions[image_id])))
    return CocoSubset(name, folder, images, skipped, others)


def captions_of(coco: Location, name: str, wanted: set[int]) -> dict[str, Any]:
    """Return COCO's captions file of a subset, restricted to the images `wanted`, otherwise as it is."""
    content = _read_json(coco / "annotations" / f"captions_{name}.json")
    kept = {
        part: [
            entry for entry in content.get(part) or [] if isinstance(entry, dict) and _is_one_of(entry.get(key), wanted)
        ]
        for part, key in (("images", "id"), ("annotations", "image_id"))
    }
    return {**content, **kept}


def _is_one_of(image_id: object, wanted: set[int]) -> bool:
    return isinstance(image_id, int) and image_id in wanted


def _existing(path: Location) -> Location:
    if not locations.is_file(path):
        raise ReleaseError(f"COCO's file {path} is missing; unpack annotations_trainval2017.zip there")
    return path


def _read_json(path: Location) -> dict[str, Any]:
    try:
        content = json.loads(_existing(path).read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ReleaseError(f"{path} cannot be read as JSON ({error}); unpack it again") from None
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ReleaseError(f"{path} is no COCO file: it holds no list of annotations")
    return content


def _read_images(content: dict, name: str, skipped: list[Skip]) -> dict[int, tuple[str, tuple[int, int] | None]]:
    """Return image id -> (file name, size) of the usable entries."""
    found: dict[int, tuple[str, tuple[int, int] | None]] = {}
    images = content.get("images")
    for image in images if isinstance(images, list) else []:
        try:
            image_id, file_name = int(image["id"]), str(image["file_name"])
            size = (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            skipped.append(
                Skip(f"{name}/{encodable(str(image)[:60])}", reasons.BAD_ENTRY, f"{type(error).__name__}: {error}")
            )
            continue
        label = f"{name}/{encodable(file_name)}"
        if not 0 <= image_id < _LARGEST_ID:
            skipped.append(Skip(label, reasons.BAD_ENTRY, f"image id {image_id}"))
        elif Path(file_name).name != file_name or "\\" in file_name:  # a path could lead out of the folder
            skipped.append(Skip(label, reasons.BAD_FILE_NAME))
        elif encodable(file_name) != file_name:
            skipped.append(Skip(label, reasons.BAD_CHARACTERS))
        elif image_id in found:
            skipped.append(Skip(label, reasons.DUPLICATE_ID, f"image id {image_id}; the first one is kept"))
        else:
            found[image_id] = (file_name, size)
    return found


def _single_people(
    content: dict, entries: dict[int, Any]
) -> tuple[dict[int, tuple[float, float, float, float]], dict[str, int]]:
    """Return image id -> box of its only person, and how many images show no, several or a crowd of people."""
    categories = content.get("categories") or []
    named = [c.get("id") for c in categories if isinstance(c, dict) and c.get("name") == "person"]
    people = named if categories else [1]
    boxes: dict[int, list] = {}
    crowds: set[int] = set()
    seen: set[str] = set()
    for entry in content["annotations"]:
        if not isinstance(entry, dict) or entry.get("category_id") not in people:
            continue
        image_id, number = entry.get("image_id"), json.dumps(entry.get("id"))
        if not isinstance(image_id, int) or image_id not in entries:
            continue
        if number != "null" and number in seen:  # the same annotation twice is still one person
            continue
        seen.add(number)
        if entry.get("iscrowd"):
            crowds.add(image_id)
        boxes.setdefault(image_id, []).append(entry.get("bbox"))
    others: Counter[str] = Counter()
    single = {}
    for image_id in entries:
        found = boxes.get(image_id, [])
        box = _corners(found[0]) if len(found) == 1 else None
        if image_id in crowds:
            others[reasons.CROWD] += 1
        elif len(found) > 1:
            others[reasons.SEVERAL_PEOPLE] += 1
        elif box is None:
            others[reasons.NO_PERSON] += 1
        else:
            single[image_id] = box
    return single, dict(sorted(others.items()))


def _corners(box: Any) -> tuple[float, float, float, float] | None:
    """Return x0, y0, x1, y1 of COCO's x, y, width, height; None when it is no box."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        return None
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None
