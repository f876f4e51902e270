"""COCO in its folder (or at a URL) -> the images that show exactly one person, with their captions.

Role: reads `annotations/instances_*.json` and `captions_*.json` of one subset and joins them. Nothing is decoded here;
whether a face detector agrees is found out by `face_scan`. Boxes are x0, y0, x1, y1 in pixels.
"""

import contextlib
import json
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools.faceswap import reasons
from webdataset_tools.release_files import ReleaseError, encodable, read_captions, read_image_id

Box = tuple[float, float, float, float]
Outline = tuple[tuple[float, ...], ...]  # polygons, each x, y, x, y, ... in pixels

SUBSETS = {"train": "train2017", "val": "val2017", "test": "val2017"}  # of each split, as in the published release
_LARGEST_ID = 10**12  # image ids have twelve digits at most in file names
_KEYPOINTS, _WRISTS = 17, (9, 10)  # of a person in COCO's files


@dataclass(frozen=True)
class CocoImage:
    """One image with one annotated person.

    size        width and height as annotated, in pixels; None where COCO's file does not tell
    person_box  x0, y0, x1, y1 in pixels
    captions    on one line each, in file order, at least one
    person      outline of the person; none where COCO's file has no polygons of it
    objects     name and outline of whatever else is annotated within the person's box
    wrists      x, y in pixels; known where the folder has COCO's person_keypoints_*.json
    """

    subset: str
    image_id: int
    file_name: str
    size: tuple[int, int] | None
    person_box: Box
    captions: tuple[str, ...]
    person: Outline = ()
    objects: tuple[tuple[str, Outline], ...] = ()
    wrists: tuple[tuple[float, float], ...] = ()

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
    content = _read_json(coco / "annotations" / f"instances_{name}.json", _with_arrays)
    entries = _read_images(content, name, skipped)
    people, others = _single_people(content, entries)
    captions = read_captions(_existing(coco / "annotations" / f"captions_{name}.json"), people.keys())
    objects = _objects_near(content, people)
    wrists = _read_wrists(coco / "annotations" / f"person_keypoints_{name}.json", people)
    files = {entry.name for entry in locations.list_folder(folder)}
    images = []
    for image_id, (box, outline) in sorted(people.items()):
        file_name, size = entries[image_id]
        label = f"{name}/{file_name}"
        if file_name not in files:
            skipped.append(Skip(label, reasons.MISSING_IMAGE))
        elif image_id not in captions:
            skipped.append(Skip(label, reasons.MISSING_CAPTIONS, f"image {image_id} has no caption"))
        else:
            around, hands = objects.get(image_id, ()), wrists.get(image_id, ())
            told = tuple(captions[image_id])
            images.append(CocoImage(name, image_id, file_name, size, box, told, outline, around, hands))
    return CocoSubset(name, folder, images, skipped, others)


def captions_of(coco: Location, name: str, wanted: set[int]) -> dict[str, Any]:
    """Return COCO's captions file of a subset, restricted to the images `wanted`, otherwise as it is."""
    content = _read_json(coco / "annotations" / f"captions_{name}.json")
    kept = {
        part: [e for e in content.get(part) or [] if isinstance(e, dict) and read_image_id(e.get(key)) in wanted]
        for part, key in (("images", "id"), ("annotations", "image_id"))
    }
    return {**content, **kept}


def _existing(path: Location) -> Location:
    if not locations.is_file(path):
        raise ReleaseError(f"COCO's file {path} is missing; unpack annotations_trainval2017.zip there")
    return path


def _read_json(path: Location, object_hook: Callable[[dict], dict] | None = None) -> dict[str, Any]:
    """Read one of COCO's files whole.

    ijson would need megabytes where this needs 1.8 GB for COCO's instances, but parses the file once for its images, once for its
    categories and twice for its annotations, which takes more than twice as long.
    """
    try:
        content = json.loads(_existing(path).read_text(encoding="utf-8-sig"), object_hook=object_hook)
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
            image_id, file_name = read_image_id(image["id"]), image["file_name"]
            if image_id is None or not isinstance(file_name, str):
                raise ValueError("the id must be a whole number, the file name a text")
            file_name = _without_folder(file_name, name)
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


def _single_people(content: dict, entries: dict[int, Any]) -> tuple[dict[int, tuple[Box, Outline]], dict[str, int]]:
    """Return image id -> box and outline of its only person, and how many images show no, several or a crowd of people."""
    people = [number for number, name in _categories(content).items() if name == "person"]
    boxes: dict[int, list[dict]] = {}
    crowds: set[int] = set()
    seen: set[str] = set()
    for entry in content["annotations"]:
        if not isinstance(entry, dict) or read_image_id(entry.get("category_id")) not in people:
            continue
        image_id, number = read_image_id(entry.get("image_id")), json_text(entry.get("id"))
        if image_id is None or image_id not in entries:
            continue
        if number != "null" and number in seen:  # the same annotation twice is still one person
            continue
        seen.add(number)
        if entry.get("iscrowd"):
            crowds.add(image_id)
        boxes.setdefault(image_id, []).append(entry)
    others: Counter[str] = Counter()
    single = {}
    for image_id in entries:
        found = boxes.get(image_id, [])
        box = _corners(found[0].get("bbox")) if len(found) == 1 else None
        if image_id in crowds:
            others[reasons.CROWD] += 1
        elif len(found) > 1:
            others[reasons.SEVERAL_PEOPLE] += 1
        elif box is None:
            others[reasons.NO_PERSON] += 1
        else:
            single[image_id] = box, _polygons(found[0].get("segmentation"))
    return single, dict(sorted(others.items()))


def _categories(content: dict) -> dict[int | None, str]:
    """Return category id -> name; without categories, 1 is COCO's person."""
    named = content.get("categories") or [{"id": 1, "name": "person"}]
    return {read_image_id(c.get("id")): str(c.get("name")) for c in named if isinstance(c, dict)}


def _objects_near(content: dict, people: dict[int, tuple[Box, Outline]]) -> dict[int, tuple[tuple[str, Outline], ...]]:
    """Return image id -> name and outline of the things within its person's box; a box stands for an outline of no polygons."""
    categories = _categories(content)
    found: dict[int, list[tuple[str, Outline]]] = {}
    for entry in content["annotations"]:
        image_id = read_image_id(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None or image_id not in people or entry.get("iscrowd"):
            continue
        name = categories.get(read_image_id(entry.get("category_id")), "thing")
        box, person = _corners(entry.get("bbox")), people[image_id][0]
        if name == "person" or box is None or not _overlap(box, person):
            continue
        x0, y0, x1, y1 = box
        outline = _polygons(entry.get("segmentation")) or ((x0, y0, x1, y0, x1, y1, x0, y1),)
        found.setdefault(image_id, []).append((name, outline))
    return {image_id: tuple(things) for image_id, things in found.items()}


def _read_wrists(path: Location, people: dict[int, Any]) -> dict[int, tuple[tuple[float, float], ...]]:
    """Return image id -> the labelled wrists of its person; nothing where COCO's keypoints are not there."""
    if not locations.is_file(path):
        return {}
    found: dict[int, tuple[tuple[float, float], ...]] = {}
    for entry in _read_json(path, _with_arrays)["annotations"]:
        image_id = read_image_id(entry.get("image_id")) if isinstance(entry, dict) else None
        points = entry.get("keypoints") if image_id in people else None
        if image_id is None or not isinstance(points, list) or len(points) != _KEYPOINTS * 3:
            continue
        places = [points[3 * number : 3 * number + 3] for number in _WRISTS]
        numbers = all(isinstance(value, (int, float)) for place in places for value in place)
        found[image_id] = tuple((float(x), float(y)) for x, y, seen in places if seen) if numbers else ()
    return found


def _with_arrays(entry: dict) -> dict:
    """Put polygons, most of what COCO's file holds, into arrays: half the memory of the whole, and faster than lists."""
    if isinstance(entry.get("segmentation"), list):
        with contextlib.suppress(TypeError, OverflowError):  # no numbers: left to `_polygons`
            entry["segmentation"] = [array("d", polygon) for polygon in entry["segmentation"]]
    return entry


def _polygons(segmentation: Any) -> Outline:
    """Return the polygons of an annotation; none where it has another form (run lengths, of crowds)."""
    polygons = segmentation if isinstance(segmentation, list) else []
    return tuple(
        tuple(float(value) for value in polygon)
        for polygon in polygons
        if isinstance(polygon, (list, array))
        and len(polygon) >= 6
        and all(isinstance(v, (int, float)) for v in polygon)
    )


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _without_folder(file_name: str, subset: str) -> str:
    """Return a file's name as it lies in the subset's folder: some files of COCO's form say `val2017/x.jpg`."""
    for folder in (f"images/{subset}/", f"{subset}/"):
        if file_name.startswith(folder):
            return file_name.removeprefix(folder)
    return file_name


def _corners(box: Any) -> Box | None:
    """Return x0, y0, x1, y1 of COCO's x, y, width, height; None when it is no box."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        return None
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None
