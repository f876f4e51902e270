"""The miniature world: people, drawings, captions and the release on disk."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import Face
from open_clip_idplugin.faces.alignment import ARCFACE_LANDMARKS
from webdataset_tools.contact_sheet import CONTACT_SHEET
from webdataset_tools.miniature import identity_photos, people, scenes
from webdataset_tools.miniature.captions import alt_text, scene_captions
from webdataset_tools.miniature.command import miniature
from webdataset_tools.miniature.drawing import DrawnFace, FacePose, draw_face
from webdataset_tools.miniature.identity_photos import aligned_crop, identity_photo
from webdataset_tools.miniature.palette import CLOTHES
from webdataset_tools.miniature.people import face_vector, look_alike, sample_person, skin_group
from webdataset_tools.miniature.places import PLACES, draw_place
from webdataset_tools.miniature.release_plan import ReleasePlan, ReleaseSize, SplitSize, plan_release
from webdataset_tools.miniature.release_writer import ReleaseSummary, write_release
from webdataset_tools.miniature.scenes import STRATA, draw_scene, face_box, sample_scene
from webdataset_tools.release import SPLITS, load_release

SIZE = ReleaseSize(SplitSize(30, 12), SplitSize(8, 8), SplitSize(40, 20), faces_per_scene=2, photos_per_person=2)
_PROJECTION = np.random.default_rng(0).standard_normal((28 * 28 * 3, 512)).astype(np.float32)


def embed_pixels(photos: list[DrawnFace]) -> np.ndarray:
    """Embed aligned crops by a random projection: the face pack is not what is tested here."""
    rows = np.stack([aligned_crop(photo)[::4, ::4].reshape(-1) for photo in photos]).astype(np.float32) / 255 - 0.5
    rows = rows @ _PROJECTION
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_embedder():
    return embed_pixels


def write(folder: Path, workers: int = 1) -> ReleaseSummary:
    return write_release(folder, SIZE, seed=3, workers=workers, face_model="pixels", make_embedder=make_embedder)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "release"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def plan() -> ReleasePlan:
    return plan_release(SIZE, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestPeople:
    def test_equal_numbers_give_equal_people_and_pools_differ(self):
        assert sample_person(17, "train") == sample_person(17, "train")
        assert sample_person(17, "train").face != sample_person(17, "val").face
        ids = {sample_person(n, pool).identity_id for pool in people.POOLS for n in (0, 17, 99_999)}
        assert len(ids) == 3 * len(people.POOLS)
        assert all(re.fullmatch(r"n\d{6}", identity) for identity in ids)

    def test_each_property_has_its_own_stream(self, monkeypatch):
        before = [sample_person(n, "test") for n in range(40)]
        monkeypatch.setattr(people, "GLASSES", {"round": 1})
        monkeypatch.setattr(people, "HAIR_STYLES", {"m": {"afro": 1}, "f": {"bob": 1}})
        after = [sample_person(n, "test") for n in range(40)]
        assert before != after
        for old, new in zip(before, after):
            same = replace(new, face=replace(new.face, glasses=old.face.glasses))
            assert replace(same, head=replace(new.head, hair_style=old.head.hair_style)) == old

    def test_look_alikes_resemble(self):
        pairs, strangers = [], []
        for n in range(60):
            person, other = sample_person(n, "test"), sample_person(1000 + n, "test")
            double = look_alike(person, 1000 + n, 0.8)
            assert (double.gender, double.identity_id) == (person.gender, other.identity_id)
            pairs.append(np.linalg.norm(face_vector(person) - face_vector(double)))
            strangers.append(np.linalg.norm(face_vector(person) - face_vector(other)))
        assert np.mean(pairs) < 0.6 * np.mean(strangers)
        assert min(pairs) > 0  # alike, not the same
        person = sample_person(5, "test")
        assert look_alike(person, 9, 1.0).face.eye_spacing == person.face.eye_spacing

    def test_family_names_tell_a_little_about_looks(self):
        by_family: dict[str, list[np.ndarray]] = {}
        for n in range(2000):
            person = sample_person(n, "clip")
            by_family.setdefault(person.name.split()[1], []).append(face_vector(person))
        within = np.mean(
            [np.var(np.stack(group), axis=0, ddof=1).mean() for group in by_family.values() if len(group) > 3]
        )
        total = np.var(np.concatenate([np.stack(group) for group in by_family.values()]), axis=0).mean()
        assert 1 - within / total == pytest.approx(people.NAME_LEAK**2, abs=0.06)

    def test_bad_requests_are_refused(self):
        with pytest.raises(IdClipError, match="pool"):
            sample_person(1, "nowhere")
        with pytest.raises(IdClipError, match="out of range"):
            sample_person(100_000, "train")
        with pytest.raises(IdClipError, match="closeness"):
            look_alike(sample_person(1, "train"), 2, 1.5)


class TestFaces:
    def test_frontal_faces_fit_the_arcface_frame(self):
        drawn = np.mean([draw_face(sample_person(n, "faces"), FacePose()).landmarks for n in range(80)], axis=0)
        assert np.abs(drawn - ARCFACE_LANDMARKS).max() < 0.8

    @pytest.mark.parametrize(
        "pose", [FacePose(), FacePose(roll=20), FacePose(yaw=25, pitch=10), FacePose(yaw=-22, roll=-15)]
    )
    def test_landmarks_are_where_the_features_are_drawn(self, pose):
        darker = []
        for n in range(12):
            person = sample_person(n, "faces")
            person = replace(person, face=replace(person.face, glasses="none", beard="none", skin_tone=-1.0))
            picture, landmarks, box = draw_face(person, replace(pose, light=0.0), size=224)
            assert (box[:2] < landmarks.min(0)).all() and (landmarks.max(0) < box[2:]).all()
            for x, y in landmarks[:2].round().astype(int):
                assert np.median(picture[y - 2 : y + 3, x - 2 : x + 3]) < 60  # the pupil
            lips = [picture[y, x].astype(int) for x, y in landmarks[3:].round().astype(int)]
            x, y = landmarks[[0, 3]].mean(0).round().astype(int)
            cheek = picture[y, x].astype(int)
            darker += [corner.sum() < cheek.sum() for corner in lips]
        assert np.mean(darker) > 0.85  # some lips are as pale as the skin

    def test_alignment_by_landmarks_gives_a_normal_crop(self):
        rng = np.random.default_rng(0)
        faces = [draw_face(sample_person(n, "faces"), FacePose()) for n in range(8)]
        moved = [np.abs(aligned_crop(face).astype(int) - face.picture).mean() for face in faces]
        assert np.mean(moved) < 20
        crop = aligned_crop(identity_photo(sample_person(8, "faces"), rng))
        assert crop.shape == (112, 112, 3) and crop.std() > 10

    def test_photos_are_reproducible_and_vary(self):
        person = sample_person(4, "test")
        first, again = (identity_photo(person, np.random.default_rng(1)) for _ in range(2))
        other = identity_photo(person, np.random.default_rng(2))
        assert all((a == b).all() for a, b in zip(first, again))
        assert (first.picture != other.picture).mean() > 0.5
        assert first.picture.dtype == np.uint8 and first.landmarks.dtype == first.box.dtype == np.float32
        height = first.box[3] - first.box[1]
        assert 0.3 < height / len(first.picture) < 0.7


class TestScenes:
    @pytest.mark.parametrize("place", PLACES)
    def test_places_cover_the_whole_canvas(self, place):
        black, white = np.zeros((96, 96, 3), np.uint8), np.full((96, 96, 3), 255, np.uint8)
        for seed in range(4):
            draw_place(black, place, np.random.default_rng(seed))
            draw_place(white, place, np.random.default_rng(seed))
            assert (black == white).all()

    def test_each_property_has_its_own_stream(self, monkeypatch):
        before = [sample_scene(n) for n in range(60)]
        monkeypatch.setattr(scenes, "PLACES", {"lake": PLACES["lake"]})
        monkeypatch.setattr(scenes, "GARMENTS", ("coat",))
        for old, new in zip(before, [sample_scene(n) for n in range(60)]):
            assert replace(new, place=old.place, garment=old.garment) == old
        monkeypatch.undo()
        for name in STRATA:
            forced, free = sample_scene(7, name), before[7]
            for kept in ("place", "activity", "held", "held_colour", "garment", "top_colour", "mirrored"):
                assert getattr(forced, kept) == getattr(free, kept)

    def test_scenes_tell_nothing_about_the_gender_of_the_person_of_the_same_number(self):
        women = np.array([sample_person(n, "train").gender == "f" for n in range(600)])
        sampled = [sample_scene(n) for n in range(600)]
        for name in ("place", "activity", "top_colour", "stratum"):
            values = np.array([getattr(scene, name) for scene in sampled])
            for value in set(values.tolist()):
                count = (values == value).sum()
                assert abs(women[values == value].mean() - women.mean()) < 4 * 0.5 / np.sqrt(count)

    def test_shares_of_the_strata(self):
        drawn = [sample_scene(n).stratum for n in range(1500)]
        for name, share in STRATA.items():
            assert drawn.count(name) / len(drawn) == pytest.approx(share / 100, abs=0.035)
        assert 0.38 < 1 - drawn.count("plain") / len(drawn) < 0.46

    def test_a_swap_changes_the_face_region_alone(self):
        for n in range(40):
            scene, body = sample_scene(n, "plain"), sample_person(n, "val")
            scene = replace(scene, pose=replace(scene.pose, blur=0.0))
            before = draw_scene(scene, body)
            after = draw_scene(scene, body, sample_person(500 + n, "val"))
            assert (before.picture == draw_scene(scene, body).picture).all()
            changed = np.argwhere((before.picture != after.picture).any(2))[:, ::-1]
            low = np.minimum(before.face_box, after.face_box)[:2]
            high = np.maximum(before.face_box, after.face_box)[2:]
            # Temples of glasses, a bald forehead; a long nose stands out further once the head is turned.
            room = (0.16 if abs(scene.pose.yaw) < 25 else 0.25) * (high - low)
            assert len(changed) > 0.3 * np.prod(high - low)
            assert (changed >= low - room).all() and (changed <= high + room).all()
            assert np.allclose(after.face_box, face_box(scene, sample_person(500 + n, "val")))

    def test_faces_of_plain_scenes_are_large_and_small_ones_small(self):
        for n in range(80):
            for stratum, low, high in (("plain", 0.19, 0.47), ("small", 0.06, 0.15)):
                box = face_box(sample_scene(n, stratum), sample_person(n, "val"))
                assert low < (box[3] - box[1]) / scenes.SIZE < high

    def test_hard_strata_are_hard(self):
        person = sample_person(3, "val")
        plain, dark, blurred = (
            draw_scene(sample_scene(11, name), person).picture for name in ("plain", "dark", "blurred")
        )
        assert dark.mean() < 0.5 * plain.mean()
        edges = [cv2.Laplacian(picture, cv2.CV_64F).std() for picture in (plain, blurred)]
        assert edges[1] < 0.4 * edges[0]
        assert all(abs(sample_scene(n, "turned").pose.yaw) >= 48 for n in range(20))
        assert sample_scene(11, "occluded").occluder is not None


def nearest_colour(pixels: np.ndarray) -> str:
    """Name of the clothes colour that most of `pixels` [n, 3] are nearest to."""
    table = np.array(list(CLOTHES.values()))
    nearest = np.argmin(((pixels[:, None].astype(int) - table) ** 2).sum(2), axis=1)
    return list(CLOTHES)[int(np.bincount(nearest).argmax())]


class TestCaptions:
    WOMEN, MEN = {"woman", "lady", "girl", "female"}, {"man", "guy", "male"}

    def test_named_colours_are_the_drawn_colours(self):
        """Redraw a scene with another colour: the pixels that change are the thing's, and had the colour that is named."""
        checked = 0
        for n in range(60):
            scene, body = replace(sample_scene(n, "plain"), pose=FacePose(light=0.0)), sample_person(n, "train")
            picture = draw_scene(scene, body).picture
            said = " ".join(scene_captions(scene, body.gender, np.random.default_rng(n)))
            for kind in ("top_colour", "held_colour"):
                named = getattr(scene, kind)
                thing = scene.garment if kind == "top_colour" else scene.held
                other = "black" if named == "white" else "white"
                change: dict[str, Any] = {kind: other}
                changed = (draw_scene(replace(scene, **change), body).picture != picture).any(2)
                for colour in re.findall(rf"(\w+) {thing}\b", said):
                    if colour in CLOTHES and changed.sum() > 60:
                        assert colour == named == nearest_colour(picture[changed])
                        checked += 1
        assert checked > 150

    def test_words_have_the_gender_of_the_body_and_things_are_those_of_the_scene(self):
        for n in range(300):
            scene = sample_scene(n)
            for gender, wrong in (("m", self.WOMEN), ("f", self.MEN)):
                captions = scene_captions(scene, gender, np.random.default_rng(n))
                assert len(captions) == len(set(captions)) == 5
                words = set(re.findall(r"\w+", " ".join(captions).lower()))
                assert not words & wrong
                assert all(caption[0].isupper() and caption.endswith(".") for caption in captions)
                assert all(str(scene.held) in caption for caption in captions if "holding" in caption)

    def test_half_of_the_captions_hold_one_keyword_once(self):
        from open_clip_idplugin.prompts import KEYWORDS

        pattern = re.compile(rf"\b({'|'.join(KEYWORDS)})\b", re.IGNORECASE)
        rng = np.random.default_rng(0)
        texts = [text for n in range(300) for text in scene_captions(sample_scene(n), "mf"[n % 2], rng)]
        share = np.mean([len(pattern.findall(text)) == 1 for text in texts])
        assert 0.42 < share < 0.58
        assert any(len(pattern.findall(text)) > 1 for text in texts)

    def test_alt_texts_name_looks_scenes_and_celebrities(self):
        rng = np.random.default_rng(0)
        texts, named = [], []
        for n in range(200):
            person, scene = sample_person(n, "clip"), sample_scene(n)
            texts.append(alt_text(person, scene, rng, with_name=False))
            named.append(alt_text(person, scene, rng, with_name=True))
            assert person.name in named[-1] and person.name not in texts[-1]
            if "beard" in texts[-1]:
                assert person.face.beard == "full"
            if "glasses" in texts[-1]:
                assert person.face.glasses != "none" or scene.occluder == "sunglasses"
        assert sum("hair" in text for text in texts) > 20
        assert max(len(text.split()) for text in texts + named) < 40


class TestRelease:
    def test_every_sample_is_whole(self, release, plan):
        for split in SPLITS:
            read = load_release(release, split)
            expected = {(s.image_id, p.identity_id) for s in plan.scenes if s.split == split for p in s.faces}
            assert {(s.image_id, s.identity_id) for s in read.samples} == expected
            assert not read.skipped
            for sample in read.samples:
                assert len(sample.captions) == 5 and sample.identity_name.count(" ") == 1
                assert sample.face.shape == (512,) and np.linalg.norm(sample.face) == pytest.approx(1, abs=1e-3)
                picture = cv2.imread(str(read.images / sample.file_name))
                assert picture.shape == (scenes.SIZE, scenes.SIZE, 3)
                assert sample.attributes["stratum"] in STRATA and sample.attributes["face_height"] > 5

    def test_photos_lie_apart_and_give_the_embeddings(self, release):
        sample = load_release(release, "test").samples[0]
        folder = release / "vggface_test_kaggle" / "photos" / sample.identity_id
        assert sorted(path.name for path in folder.iterdir()) == ["0001_01.jpg", "0002_01.jpg"]
        person = {p.identity_id: p for s in plan_release(SIZE, 3).scenes for p in s.faces}[sample.identity_id]
        index = int(sample.attributes["photo"][:4]) - 1
        photo = identity_photos.stored_photo(
            folder / sample.attributes["photo"], identity_photos.draw_identity_photo(person, index)
        )
        assert float(embed_pixels([photo])[0] @ sample.face) == pytest.approx(1, abs=1e-4)

    def test_the_face_engine_embeds_what_it_finds_and_drawn_landmarks_what_it_misses(self, monkeypatch):
        class Engine:
            def detect_many(self, pictures):
                small = Face(
                    np.array([0, 0, 9, 9], np.float32), np.zeros((5, 2), np.float32), 0.9, pictures[0], np.ones(4)
                )
                large = replace(small, box=np.array([0, 0, 90, 90], np.float32), embedding=np.full(4, 2.0))
                return [[], [small, large]]

            def embed_crops(self, crops):
                assert [crop.shape for crop in crops] == [(112, 112, 3)]
                return np.full((1, 4), 3.0)

        asked: dict[str, Any] = {}
        monkeypatch.setattr(
            identity_photos, "load_face_engine", lambda spec, **options: asked.update(options, spec=spec) or Engine()
        )
        embed = identity_photos.engine_embedder("insightface:miniature")
        photos = [identity_photos.draw_identity_photo(sample_person(1, "test"), index) for index in range(2)]
        assert embed(photos)[:, 0].tolist() == [3.0, 2.0]
        assert asked == {"spec": "insightface:miniature", "det_size": 192, "threads": 1}

    def test_people_and_scenes_of_the_splits_are_disjoint(self, plan):
        people_of = {
            split: {p.identity_id for s in plan.scenes if s.split == split for p in s.faces} for split in SPLITS
        }
        bodies = {s.body.identity_id for s in plan.scenes}
        scene_seeds = [s.scene_seed for s in plan.scenes]
        assert not people_of["train"] & people_of["val"] and not people_of["train"] & people_of["test"]
        assert not people_of["val"] & people_of["test"] and not bodies & set().union(*people_of.values())
        assert len(set(scene_seeds)) == len(scene_seeds) == len({s.image_id for s in plan.scenes})
        names = [p.name for p in plan.people]
        assert len([n for n in names if names.count(n) > 1]) <= 2  # distinct within a split

    def test_casting(self):
        plan = plan_release(ReleaseSize(SplitSize(600, 100), SplitSize(0, 0), SplitSize(400, 100)), seed=0)
        for scene in plan.scenes:
            assert {p.gender for p in scene.faces} == {scene.body.gender}
            assert len({p.identity_id for p in scene.faces}) == 5
        same_group = [skin_group(p) == skin_group(s.body) for s in plan.scenes for p in s.faces if not s.look_alike]
        assert np.mean(same_group) > 0.95
        uses = [sum(p in s.faces for s in plan.scenes) for p in plan.people]
        assert np.mean(np.array(uses) >= 2) > 0.97  # several scenes a person
        alike = [s for s in plan.scenes if s.look_alike]
        assert len(alike) == 20 and {s.split for s in alike} == {"test"}

        def spread(scene):
            vectors = np.stack([face_vector(p) for p in scene.faces])
            return np.linalg.norm(vectors - vectors.mean(0), axis=1).mean()

        others = [s for s in plan.scenes if not s.look_alike]
        assert np.mean([spread(s) for s in alike]) < 0.75 * np.mean([spread(s) for s in others])

    def test_files_are_valid_coco_and_vggface(self, release):
        coco = json.loads((release / "coco_dataset/annotations/captions_val2017.json").read_text())
        assert set(coco) == {"info", "licenses", "images", "annotations"}
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"]) == 5 * len(coco["images"])
        assert {a["image_id"] for a in coco["annotations"]} == {i["id"] for i in coco["images"]}
        assert all(re.fullmatch(r"\d{12}\.jpg", image["file_name"]) for image in coco["images"])
        header, *rows = (release / "vggface_test_kaggle/identity_meta.csv").read_text().splitlines()
        assert header == "Class_ID, Name, Sample_Num, Flag, Gender"
        assert all(re.fullmatch(r'n\d{6}, "\w+_\w+", \d+, [01], [mf]', row) for row in rows)

    def test_a_stopped_run_goes_on_and_any_number_of_workers_gives_the_same(self, release, tmp_path):
        whole = contents(release)
        folder = tmp_path / "release"
        write(folder, workers=2)
        assert contents(folder) == whole
        victims = [folder / name for name in whole if name.endswith(".jpg")][::3]
        for path in [*victims, folder / "attributes.json", folder / CONTACT_SHEET]:
            path.unlink(missing_ok=True)
        (victims[0].parent / f".{victims[0].name}.1.part").write_bytes(b"half a picture")
        kept = next(path for path in folder.rglob("*.jpg") if path.is_file())
        modified = kept.stat().st_mtime_ns
        write(folder)
        assert contents(folder) == whole
        assert kept.stat().st_mtime_ns == modified  # not drawn again

    def test_other_folders_are_left_alone(self, release, tmp_path):
        (tmp_path / "note.txt").write_text("mine")
        with pytest.raises(IdClipError, match="not empty"):
            write(tmp_path)
        with pytest.raises(IdClipError, match="other settings"):
            write_release(release, SIZE, 4, 1, "pixels", make_embedder)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": "huge"}, "size"),
            ({"train_images": 7}, "multiple"),
            ({"test_people": 3}, "test_people"),
            ({"workers": 0}, "workers"),
            ({"faces_per_scene": 0}, "at least 1"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_bad_options_are_explained(self, tmp_path, options, message):
        with pytest.raises(IdClipError, match=message):
            miniature(str(tmp_path / "out"), **options)
        assert not (tmp_path / "out").exists()

    def test_traits_are_dozens(self):
        assert sum(field.type is float for field in fields(people.FaceTraits)) >= 35
