"""The miniature world before any face swap: COCO's layout, exact annotations, and the whole way to shards."""

import csv
import json
import shlex
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from open_clip_idplugin import cli
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import load_picture
from webdataset_tools.contact_sheet import CONTACT_SHEET
from webdataset_tools.faceswap.coco import load_subset
from webdataset_tools.faceswap.identities import load_identities, read_attribute_table
from webdataset_tools.marking import read_digital_source_type
from webdataset_tools.miniature import command
from webdataset_tools.miniature.coco_annotations import scene_annotations
from webdataset_tools.miniature.people import sample_person, skin_group
from webdataset_tools.miniature.release_plan import PlannedScene, ReleaseSize, SplitSize, plan_release
from webdataset_tools.miniature.release_writer import write_release
from webdataset_tools.miniature.scenes import PERSON, PLACE, THING, draw_scene, sample_scene, visible_parts
from webdataset_tools.miniature.unswapped_plan import (
    ANYBODY,
    IDENTITY_ATTRIBUTES,
    IMAGE_ATTRIBUTES,
    UnswappedPlan,
    plan_unswapped,
    swap_command,
)
from webdataset_tools.miniature.unswapped_writer import write_unswapped
from webdataset_tools.release import load_release
from webdataset_tools.sample_format import read_samples

SIZE = ReleaseSize(SplitSize(12, 12), SplitSize(4, 8), SplitSize(24, 20), faces_per_scene=2, photos_per_person=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, UnswappedPlan]:
    folder = tmp_path_factory.mktemp("unswapped") / "world"
    return folder, write_unswapped(folder, SIZE, seed=3, workers=1)[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def idclip(*words: str) -> int:
    return cli.run(cli.VERBS, words, "idclip")


# The folder


def test_the_swap_reads_every_scene_and_identity(world):
    folder, planned = world
    for subset, splits in (("train2017", {"train"}), ("val2017", {"val", "test"})):
        coco = load_subset(folder, subset)
        wanted = [scene for scene in planned.plan.scenes if scene.split in splits]
        assert not coco.skipped and not any(coco.others.values())
        assert [image.image_id for image in coco.images] == sorted(scene.image_id for scene in wanted)
        for image in coco.images:
            picture = load_picture(coco.folder / image.file_name)
            assert image.size == picture.shape[1::-1] and len(image.captions) == 5
    people = load_identities(folder / "identities", folder / IDENTITY_ATTRIBUTES)
    assert not people.skipped
    assert [identity.identity_id for identity in people.identities] == [p.identity_id for p in planned.plan.people]
    for identity, person in zip(people.identities, planned.plan.people):
        assert identity.name == person.name and len(identity.photos) == 2
        assert identity.attributes["gender"] == {"f": "female", "m": "male"}[person.gender]
        assert identity.attributes["skin_group"] == skin_group(person)
    people_by_id = {identity.identity_id: identity for identity in people.identities}
    notes = read_attribute_table(folder / IMAGE_ATTRIBUTES)
    for scene in planned.plan.scenes:
        note = notes[str(scene.image_id)]
        assert note["stratum"] == sample_scene(scene.scene_seed).stratum and note["split"] == scene.split
        assert note["skin_group"] == skin_group(scene.body)
        family = {people_by_id[person.identity_id].attributes["cast"] for person in scene.faces}
        assert (note["cast"] in people_by_id) == (note["look_alike"] == "yes") == scene.look_alike
        assert family == {note["cast"]}
    assert {read_digital_source_type(path.read_bytes()) for path in folder.glob("*2017/*.jpg")} == {
        "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
    }


def test_it_is_the_world_of_the_swapped_miniature():
    swapped, unswapped = plan_release(SIZE, seed=3), plan_unswapped(SIZE, seed=3)
    scenes = {scene.image_id: scene for scene in unswapped.plan.scenes}
    for scene in swapped.scenes:
        assert scenes[scene.image_id].scene_seed == scene.scene_seed
        assert scene.split != "train" or scenes[scene.image_id].body == scene.body
    assert len(scenes) > len(swapped.scenes)
    assert {p.identity_id for p in swapped.people} <= {p.identity_id for p in unswapped.plan.people}


def test_workers_and_interruptions_change_nothing(world, tmp_path):
    again = tmp_path / "again"
    write_unswapped(again, SIZE, seed=3, workers=2)
    assert contents(again) == contents(world[0])
    for path in [*sorted(again.rglob("*.jpg"))[::3], *again.glob("annotations/*"), again / IMAGE_ATTRIBUTES]:
        path.unlink()
    (again / CONTACT_SHEET).unlink(missing_ok=True)
    write_unswapped(again, SIZE, seed=3, workers=1)
    assert contents(again) == contents(world[0])
    with pytest.raises(IdClipError, match="other settings"):
        write_unswapped(again, SIZE, seed=4, workers=1)
    with pytest.raises(IdClipError, match="other settings"):
        write_release(again, SIZE, seed=3, workers=1, face_model="insightface:miniature")


# Annotations


def scene_of(seed: int) -> PlannedScene:
    return PlannedScene("train", 1000 + seed, seed, sample_person(seed, "val"), (), False)


def test_parts_are_what_the_person_changes():
    for seed in range(0, 60, 3):
        scene, body = sample_scene(seed, "plain"), sample_person(seed, "val")
        parts = visible_parts(scene, body)
        assert set(np.unique(parts).tolist()) == {PLACE, PERSON, *([THING] if scene.held else [])}
        drawn, other = draw_scene(scene, body), draw_scene(scene, sample_person(seed + 900, "val"))
        changed = (np.abs(drawn.picture.astype(int) - other.picture).max(2) > 80) & (parts == PLACE)
        elsewhere = visible_parts(scene, sample_person(seed + 900, "val")) == PLACE
        assert (changed & elsewhere).sum() <= 0.002 * parts.size  # edges alone
        x, y = drawn.landmarks[2].astype(int)
        assert parts[y, x] == PERSON


def test_annotations_are_exact():
    seen: Counter[int] = Counter()
    for seed in range(60):
        planned = scene_of(seed)
        parts = visible_parts(sample_scene(seed), planned.body)
        for annotation, part in zip(scene_annotations(planned), (PERSON, THING)):
            mask = parts == part
            y, x = np.nonzero(mask)
            assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            filled = np.zeros(mask.shape, np.uint8)
            cv2.fillPoly(filled, [np.array(p).reshape(-1, 2) for p in annotation["segmentation"]], 1)
            lost = (mask & (filled == 0)).sum()  # specks and lines of less than three corners
            assert lost <= max(8, 0.02 * annotation["area"])
            seen[annotation["category_id"]] += 1
    assert seen[1] == 60 and len(seen) > 8


def test_what_stands_before_a_person_is_not_the_person():
    for seed in range(400):
        scene = sample_scene(seed)
        if scene.occluder not in ("pillar", "mask"):
            continue
        frame = draw_scene(scene, sample_person(seed, "val"))
        x, y = frame.landmarks[:, 0].astype(int), frame.landmarks[:, 1].astype(int)
        hidden = (visible_parts(scene, sample_person(seed, "val"))[y, x] != PERSON).any()
        assert hidden == (scene.occluder == "pillar") or scene.held


def test_instances_name_their_categories(world):
    for subset in ("train2017", "val2017"):
        content = json.loads((world[0] / "annotations" / f"instances_{subset}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        assert names[1] == "person" and {a["category_id"] for a in content["annotations"]} <= names.keys()
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert len(ids) == len(set(ids)) and {image["width"] for image in content["images"]} == {192}
        people = Counter(a["image_id"] for a in content["annotations"] if a["category_id"] == 1)
        assert people == Counter(image["id"] for image in content["images"])


# The whole way


@pytest.mark.slow
def test_the_printed_command_makes_such_a_release(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = "--train-images 12 --train-people 12 --val-images 6 --val-people 12 --test-images 15 --test-people 24"
    words = f"miniature --unswapped --output world {numbers} --faces-per-scene 3 --photos-per-person 2 --workers 1"
    assert idclip(*shlex.split(words)) == 0
    command = shlex.split(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))[6:])
    assert command[:2] == ["idclip", "swap"]
    assert idclip(*command[1:], "--workers", "1") == 0
    command = shlex.split(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))[6:])
    assert idclip(*command[1:], "--workers", "1") == 0
    told = {row["identity_id"]: row for row in rows(Path("world") / IDENTITY_ATTRIBUTES)}
    images = {int(row["image_id"]): row for row in rows(Path("world") / IMAGE_ATTRIBUTES)}
    for split, wanted in (("train", 12), ("val", 6), ("test", 15)):
        samples = load_release(Path("RELEASE"), split, 512).samples
        assert 0.5 * wanted <= len(samples) <= 1.5 * wanted
        for sample in samples:
            person, image = told[sample.identity_id], images[sample.image_id]
            assert person["split"] == image["split"] == split
            assert (person["gender"], person["cast"]) == (image["gender"], image["cast"])
            assert {name: sample.attributes[name] for name in ("stratum", "look_alike")} == {
                name: image[name] for name in ("stratum", "look_alike")
            }
    shard = next(iter(sorted(Path("SHARDS").glob("*.tar"))))
    assert all(sample.record.attributes["stratum"] for sample in read_samples(shard))


def test_skin_groups_are_matched_where_there_are_people_enough():
    assert {cast for cast in plan_unswapped(SIZE, 0).casts().values() if not cast.startswith("n")} == {ANYBODY}
    large = ReleaseSize(SplitSize(400, 300), SplitSize(0, 20), SplitSize(0, 20))
    world = plan_unswapped(large, 0)
    assert set(world.casts().values()) == {"light", "tan", "dark"}
    for planned in world.plan.scenes:
        assert world.cast_of(planned) == skin_group(planned.body)
        assert {world.casts()[person.identity_id] for person in planned.faces} == {world.cast_of(planned)}
    words = swap_command(Path("W"), world, "insightface:miniature", 0)
    assert "--keep-skin 1 " in words and "--shares 300,0,0" in words and "--test-images" not in words


def test_more_photos_are_drawn_where_photos_are_swapped_in(monkeypatch, tmp_path):
    sizes = []
    monkeypatch.setattr(command, "_write_unswapped", lambda folder, size, *_: sizes.append(size))
    monkeypatch.setattr(command, "_write_release", lambda folder, size, *_: sizes.append(size))
    for options in ({"unswapped": True}, {}, {"unswapped": True, "photos_per_person": 2}):
        command.miniature(str(tmp_path), "demo", **options)
    assert [size.photos_per_person for size in sizes] == [8, 3, 2]
