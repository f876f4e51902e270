"""A plan -> a release on disk, in exactly the layout of PROTOCOL.md section 4 plus photos and attributes.

Role: the drawing of many pictures over worker processes, and the release's text files. Output does not depend on the number of
workers; what is already drawn is kept, so that a killed run goes on where it stopped.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.contact_sheet import CONTACT_SHEET
from webdataset_tools.miniature.captions import scene_captions
from webdataset_tools.miniature.identity_photos import (
    Embedder,
    draw_identity_photo,
    engine_embedder,
    photo_name,
    stored_photo,
)
from webdataset_tools.miniature.people import Person
from webdataset_tools.miniature.picture_folder import (
    chunks,
    claimed_world,
    encode_picture,
    write_picture,
)
from webdataset_tools.miniature.release_plan import PlannedScene, ReleasePlan, ReleaseSize, plan_release
from webdataset_tools.miniature.scenes import SIZE, draw_scene, face_box, sample_scene
from webdataset_tools.miniature.streams import stream
from webdataset_tools.miniature.world_sheets import draw_release_sheet
from webdataset_tools.release import (
    ATTRIBUTES_FILE,
    COCO_FOLDER,
    IDENTITY_FILE,
    IDENTITY_FOLDER,
    PHOTO_FOLDER,
    SPLITS,
    swapped_file_name,
)
from webdataset_tools.release_face_model import ReleaseFaceModel, write_face_model
from webdataset_tools.sample_format import sample_key
from webdataset_tools.worker_pool import Tick, run_tasks

VERSION = 2  # of the drawings: raise it when equal settings give other pictures
_Task = Sequence[PlannedScene] | Sequence[Person]


@dataclass(frozen=True)
class ReleaseSummary:
    """What was written: images and people of each split, and the strata's shares over all images."""

    images: dict[str, int]
    people: dict[str, int]
    strata: dict[str, float]


def write_release(
    output: Path,
    size: ReleaseSize,
    seed: int,
    workers: int,
    face_model: str,
    make_embedder: Callable[[], Embedder] | None = None,
) -> ReleaseSummary:
    """Write (or finish) a miniature release in folder `output`.

    `make_embedder` replaces the face engine `face_model`; it is called once in each worker and must be picklable. Raises
    IdClipError when the folder holds something else.
    """
    settings = {"version": VERSION, "seed": seed, "face_model": face_model, "size": asdict(size)}
    with claimed_world(output, settings):
        plan = plan_release(size, seed)
        if not all(path.exists() for path in _text_files(output)):
            embeddings = _draw(output, plan, workers, make_embedder or partial(engine_embedder, face_model))
            _write_texts(output, plan)
            if make_embedder is None:
                engine = load_face_engine(face_model)
                write_face_model(output, ReleaseFaceModel(engine.model_id, engine.embedding_size))
            for split in SPLITS:
                _write_features(output, plan, split, embeddings)
            atomic_write(output / CONTACT_SHEET, encode_picture(draw_release_sheet(plan)))
    return _summarise(plan)


def _text_files(output: Path) -> list[Path]:
    """Return the files that are written after all pictures; the contact sheet is the last."""
    coco = output / COCO_FOLDER
    names = [coco / name for split in SPLITS.values() for name in (split.captions, split.features)]
    return [*names, output / IDENTITY_FOLDER / IDENTITY_FILE, output / ATTRIBUTES_FILE, output / CONTACT_SHEET]


def _draw(
    output: Path, plan: ReleasePlan, workers: int, make_embedder: Callable[[], Embedder]
) -> dict[str, np.ndarray]:
    """Draw photos and scenes; return the photos' embeddings [photos, D] by identity id."""
    for split in SPLITS.values():
        (output / COCO_FOLDER / split.images).mkdir(parents=True, exist_ok=True)
    tasks: list[_Task] = [*chunks(plan.people), *chunks(plan.scenes)]
    total = len(plan.people) * plan.photos_per_person + sum(len(scene.faces) for scene in plan.scenes)
    embeddings: dict[str, np.ndarray] = {}
    prepare = partial(_Painter, output, plan.photos_per_person, make_embedder)
    with tqdm(total=total, desc="drawing", unit="pictures") as bar:
        for part in run_tasks(prepare, tasks, workers, bar):
            embeddings.update(part)
    return embeddings


class _Painter:
    """The work of one process: draws scenes; draws people's photos and embeds them."""

    def __init__(self, output: Path, photos_per_person: int, make_embedder: Callable[[], Embedder]) -> None:
        self._output = output
        self._photos = photos_per_person
        self._make_embedder = make_embedder
        self._embedder: Embedder | None = None

    def __call__(self, task: _Task, tick: Tick) -> dict[str, np.ndarray]:
        """Draw a task; return the embeddings of its people, if it is about people."""
        embeddings = {}
        for item in task:
            if isinstance(item, Person):
                embeddings[item.identity_id] = self._photograph(item, tick)
            else:
                self._draw_scene(item, tick)
        return embeddings

    def _photograph(self, person: Person, tick: Tick) -> np.ndarray:
        folder = self._output / PHOTO_FOLDER / person.identity_id
        folder.mkdir(parents=True, exist_ok=True)
        photos = []
        for index in range(self._photos):
            path, drawn = folder / photo_name(index), draw_identity_photo(person, index)
            if not path.exists():
                write_picture(path, drawn.picture)
            photos.append(stored_photo(path, drawn))
            tick()
        if self._embedder is None:
            self._embedder = self._make_embedder()
        return self._embedder(photos)

    def _draw_scene(self, planned: PlannedScene, tick: Tick) -> None:
        scene = sample_scene(planned.scene_seed)
        folder = self._output / COCO_FOLDER / SPLITS[planned.split].images
        for person in planned.faces:
            path = folder / swapped_file_name(planned.image_id, person.identity_id)
            if not path.exists():
                write_picture(path, draw_scene(scene, planned.body, person).picture)
            tick()


def _write_texts(output: Path, plan: ReleasePlan) -> None:
    """Write captions, names and attributes."""
    for name, splits in (("train", {"train"}), ("val", {"val", "test"})):
        scenes = [scene for scene in plan.scenes if scene.split in splits]
        atomic_write(output / COCO_FOLDER / SPLITS[name].captions, json_text(coco_captions(scenes)))
    samples = Counter(person.identity_id for scene in plan.scenes for person in scene.faces)
    atomic_write(output / IDENTITY_FOLDER / IDENTITY_FILE, identity_table(plan, samples))
    attributes = {key: value for scene in plan.scenes for key, value in _attributes(plan, scene)}
    atomic_write(output / ATTRIBUTES_FILE, json_text(attributes))


def identity_table(plan: ReleasePlan, samples: Mapping[str, int]) -> str:
    """Return identity_meta.csv in VGGFace2's form, with the number of `samples` a person; Flag is 0 for those of test."""
    unseen = {person.identity_id for scene in plan.scenes if scene.split == "test" for person in scene.faces}
    lines = ["Class_ID, Name, Sample_Num, Flag, Gender"]
    for person in plan.people:
        name, flag = person.name.replace(" ", "_"), int(person.identity_id not in unseen)
        lines.append(f'{person.identity_id}, "{name}", {samples[person.identity_id]}, {flag}, {person.gender}')
    return "\n".join(lines) + "\n"


def coco_captions(scenes: list[PlannedScene]) -> dict[str, Any]:
    """Return a COCO captions file of `scenes`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for planned in scenes:
        size = {"height": SIZE, "width": SIZE}
        images.append({"license": 1, "file_name": planned.file_name, "id": planned.image_id, **size})
        scene, rng = sample_scene(planned.scene_seed), stream(planned.scene_seed, "captions")
        for caption in scene_captions(scene, planned.body.gender, rng):
            annotations.append({"image_id": planned.image_id, "id": len(annotations) + 1, "caption": caption})
    info = {"description": "Miniature COCO-PFS: drawn people in drawn scenes", "version": str(VERSION), "year": 2026}
    licenses = [{"id": 1, "name": "MIT License", "url": "https://opensource.org/license/mit"}]
    return {"info": info, "licenses": licenses, "images": images, "annotations": annotations}


def _attributes(plan: ReleasePlan, planned: PlannedScene) -> list[tuple[str, dict[str, Any]]]:
    """Return key -> notes of each swapped image of a scene."""
    scene = sample_scene(planned.scene_seed)
    rows = []
    for person in planned.faces:
        box = face_box(scene, person)
        notes = {
            "stratum": scene.stratum,
            "face_height": round(float(box[3] - box[1]), 1),
            "face_box": [round(float(v), 1) for v in box],
            "yaw": round(scene.pose.yaw, 1),
            "look_alike": planned.look_alike,
            "gender": planned.body.gender,
            "photo": photo_name(_photo_of(plan, planned, person)),
        }
        rows.append((sample_key(planned.image_id, person.identity_id), notes))
    return rows


def _photo_of(plan: ReleasePlan, planned: PlannedScene, person: Person) -> int:
    """Return which photo of `person` the swapped image's embedding was made from."""
    rng = stream(plan.seed, "photo choice", planned.image_id, int(person.identity_id[1:]))
    return int(rng.integers(plan.photos_per_person))


def _write_features(output: Path, plan: ReleasePlan, split: str, embeddings: dict[str, np.ndarray]) -> None:
    """Write key -> [[D floats]] of one split."""
    rows = []
    for planned in plan.scenes:
        for person in planned.faces if planned.split == split else ():
            vector = embeddings[person.identity_id][_photo_of(plan, planned, person)]
            numbers = ", ".join(f"{value:.6f}" for value in vector.tolist())
            rows.append(f'"{sample_key(planned.image_id, person.identity_id)}": [[{numbers}]]')
    atomic_write(output / COCO_FOLDER / SPLITS[split].features, "{" + ",\n".join(rows) + "}", PRIVATE)


def _summarise(plan: ReleasePlan) -> ReleaseSummary:
    images: Counter[str] = Counter()
    people: dict[str, set[str]] = {split: set() for split in SPLITS}
    strata: Counter[str] = Counter()
    for planned in plan.scenes:
        images[planned.split] += len(planned.faces)
        strata[sample_scene(planned.scene_seed).stratum] += len(planned.faces)
        people[planned.split].update(person.identity_id for person in planned.faces)
    total = max(1, sum(strata.values()))
    return ReleaseSummary(
        dict(images),
        {split: len(ids) for split, ids in people.items()},
        {k: v / total for k, v in sorted(strata.items())},
    )
