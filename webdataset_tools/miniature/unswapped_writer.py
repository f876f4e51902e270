"""The miniature before any face swap: a plan -> COCO's layout, identity photos and attributes, as `idclip swap` takes them.

Role: the drawing over worker processes, and the text files. Output does not depend on the number of workers; what is already
drawn is kept, so that a killed run goes on where it stopped.

    train2017/, val2017/                     scenes, each with the face of its own person
    annotations/                             instances_*.json (to the pixel) and captions_*.json
    identities/<identity id>/*.jpg           photos, and identity_meta.csv
    identity_attributes.csv, image_attributes.csv
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.contact_sheet import CONTACT_SHEET
from webdataset_tools.faceswap.coco import SUBSETS
from webdataset_tools.miniature.coco_annotations import coco_instances, scene_annotations
from webdataset_tools.miniature.identity_photos import draw_identity_photo, photo_name
from webdataset_tools.miniature.people import Person
from webdataset_tools.miniature.picture_folder import (
    chunks,
    claimed_world,
    encode_picture,
    write_picture,
)
from webdataset_tools.miniature.release_plan import PlannedScene, ReleaseSize
from webdataset_tools.miniature.release_writer import VERSION, coco_captions, identity_table
from webdataset_tools.miniature.scenes import draw_scene, sample_scene
from webdataset_tools.miniature.unswapped_plan import (
    IDENTITY_ATTRIBUTES,
    IMAGE_ATTRIBUTES,
    UnswappedPlan,
    identity_attributes,
    image_attributes,
    plan_unswapped,
)
from webdataset_tools.miniature.world_sheets import draw_unswapped_sheet
from webdataset_tools.release import IDENTITY_FILE, SPLITS
from webdataset_tools.worker_pool import Tick, run_tasks

IDENTITIES = "identities"
_Task = Sequence[PlannedScene] | Sequence[Person]
_Annotations = dict[int, list[dict[str, Any]]]  # by image id


@dataclass(frozen=True)
class UnswappedSummary:
    """What was written: scenes and people of each split, and the strata's shares over all scenes."""

    scenes: dict[str, int]
    people: dict[str, int]
    strata: dict[str, float]


def write_unswapped(output: Path, size: ReleaseSize, seed: int, workers: int) -> tuple[UnswappedPlan, UnswappedSummary]:
    """Write (or finish) the world from which a face swap can make a release of `size`.

    Raises IdClipError when the folder holds something else.
    """
    with claimed_world(output, {"version": VERSION, "unswapped": True, "seed": seed, "size": asdict(size)}):
        world = plan_unswapped(size, seed)
        if not (output / CONTACT_SHEET).exists():  # the last file
            _write_texts(output, world, _draw(output, world, workers))
            atomic_write(output / CONTACT_SHEET, encode_picture(draw_unswapped_sheet(world)))
    return world, _summarise(world)


def _draw(output: Path, world: UnswappedPlan, workers: int) -> _Annotations:
    """Draw photos and scenes; return the scenes' annotations."""
    for subset in SUBSETS.values():
        (output / subset).mkdir(parents=True, exist_ok=True)
    plan = world.plan
    tasks: list[_Task] = [*chunks(plan.people), *chunks(plan.scenes)]
    annotations: _Annotations = {}
    prepare = partial(_Painter, output, plan.photos_per_person)
    total = len(plan.people) * plan.photos_per_person + len(plan.scenes)
    with tqdm(total=total, desc="drawing", unit="pictures") as bar:
        for part in run_tasks(prepare, tasks, workers, bar):
            annotations.update(part)
    return annotations


class _Painter:
    """The work of one process: draws people's photos; draws scenes and annotates them."""

    def __init__(self, output: Path, photos_per_person: int) -> None:
        self._output = output
        self._photos = photos_per_person

    def __call__(self, task: _Task, tick: Tick) -> _Annotations:
        """Draw a task; return the annotations of its scenes, if it is about scenes."""
        annotations = {}
        for item in task:
            if isinstance(item, Person):
                self._photograph(item, tick)
            else:
                path = self._output / SUBSETS[item.split] / item.file_name
                if not path.exists():
                    write_picture(path, draw_scene(sample_scene(item.scene_seed), item.body).picture)
                annotations[item.image_id] = scene_annotations(item)
                tick()
        return annotations

    def _photograph(self, person: Person, tick: Tick) -> None:
        folder = self._output / IDENTITIES / person.identity_id
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(self._photos):
            path = folder / photo_name(index)
            if not path.exists():
                write_picture(path, draw_identity_photo(person, index).picture)
            tick()


def _write_texts(output: Path, world: UnswappedPlan, annotations: _Annotations) -> None:
    """Write annotations, captions, names and attributes."""
    for subset in dict.fromkeys(SUBSETS.values()):
        scenes = [planned for planned in world.plan.scenes if SUBSETS[planned.split] == subset]
        captions = coco_captions(scenes)
        common = {name: value for name, value in captions.items() if name != "annotations"}
        instances = coco_instances(scenes, annotations, common)
        atomic_write(output / "annotations" / f"captions_{subset}.json", json_text(captions))
        atomic_write(output / "annotations" / f"instances_{subset}.json", json_text(instances))
    photos = {person.identity_id: world.plan.photos_per_person for person in world.plan.people}
    atomic_write(output / IDENTITIES / IDENTITY_FILE, identity_table(world.plan, photos))
    atomic_write(output / IDENTITY_ATTRIBUTES, identity_attributes(world))
    atomic_write(output / IMAGE_ATTRIBUTES, image_attributes(world))


def _summarise(world: UnswappedPlan) -> UnswappedSummary:
    scenes = world.plan.scenes
    people = Counter(world.splits().values())
    strata = Counter(sample_scene(planned.scene_seed).stratum for planned in scenes)
    return UnswappedSummary(
        {split: sum(planned.split == split for planned in scenes) for split in SPLITS},
        {split: people[split] for split in SPLITS},
        {name: count / max(1, len(scenes)) for name, count in sorted(strata.items())},
    )
