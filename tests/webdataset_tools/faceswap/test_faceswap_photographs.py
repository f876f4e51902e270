"""What real photographs need of a swap: quality of faces, pairing, COCO's outlines, verification, colours of the file."""

import io
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import cv2
import faceswap_fixtures as fixtures
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image, ImageCms

from open_clip_idplugin.faces.calibration import FMR_NAMES
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.pictures import load_picture
from webdataset_tools import marking
from webdataset_tools.faceswap import face_quality, matching, reasons
from webdataset_tools.faceswap.blend import BlendSwapper
from webdataset_tools.faceswap.coco import load_subset
from webdataset_tools.faceswap.face_quality import QualityRules
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.original import open_original
from webdataset_tools.faceswap.pairing import PairRules, photos_for
from webdataset_tools.faceswap.swap_release import build_release
from webdataset_tools.faceswap.swappers import FaceInPicture
from webdataset_tools.faceswap.verification import Similarity, SimilarityRules, rules_for
from webdataset_tools.miniature.drawing import draw_face
from webdataset_tools.miniature.head_frame import FacePose
from webdataset_tools.miniature.people import sample_person, skin_group
from webdataset_tools.release_files import read_captions, read_image_id

RULES = QualityRules(35.0, 0.2, 0.12, 5.4)
PAIRS = PairRules(20.0, 15.0, 14.0)


def bare_person():
    """A drawn person without glasses, beard and fringe, on whom nothing lies that is not skin."""
    people = (sample_person(number, "train") for number in range(200))
    for person in (person for person in people if person.face.glasses == "none" and skin_group(person) == "light"):
        found = face_of(draw_face(person, FacePose(), size=240, zoom=0.7))
        if face_quality.unusable(found.landmarks, found.quality, RULES, lent=True) is None and not found.quality.fringe:
            return person
    raise AssertionError("all drawn people are covered")


def face_of(drawn, picture=None) -> FoundFace:
    picture = drawn.picture if picture is None else picture
    quality = face_quality.measure(picture, drawn.landmarks, drawn.box)
    return FoundFace(drawn.box, drawn.landmarks, 0.9, np.full(4, 0.5, np.float32), quality)


@pytest.fixture(scope="module")
def drawn():
    return draw_face(bare_person(), FacePose(), size=240, zoom=0.7)


def toned(picture: np.ndarray, tone: tuple[float, float, float]) -> np.ndarray:
    grey = picture @ np.array([0.299, 0.587, 0.114])
    return load_picture(fixtures.jpeg(np.clip(grey[:, :, None] * np.array(tone), 0, 255).astype(np.uint8), quality=85))


# One face


@pytest.mark.parametrize("tone", [(1, 1, 1), (1.05, 0.92, 0.72)])
def test_grey_and_sepia_are_known_from_colour(drawn, tone):
    assert not face_quality.is_monochrome(drawn.picture)
    assert face_quality.is_monochrome(toned(drawn.picture, tone))
    poster = drawn.picture.copy()  # a grey face in a picture with colours
    x0, y0, x1, y1 = (int(v) for v in drawn.box)
    poster[y0:y1, x0:x1] = toned(drawn.picture, (1, 1, 1))[y0:y1, x0:x1]
    assert face_of(drawn, poster).quality.monochrome and not face_of(drawn).quality.monochrome


def test_bare_faces_pass_and_each_fault_has_its_reason(drawn):
    def reason(picture=None, landmarks=None, lent=False):
        quality = face_of(drawn, picture).quality
        told = face_quality.unusable(drawn.landmarks if landmarks is None else landmarks, quality, RULES, lent)
        return told and told[0]

    assert reason() is None and reason(lent=True) is None
    eyes = float(np.hypot(*(drawn.landmarks[1] - drawn.landmarks[0])))
    nose, left, right = (drawn.landmarks[number].astype(int) for number in (2, 0, 1))
    skin = tuple(int(v) for v in drawn.picture[nose[1], left[0]])  # of the cheek

    phone = drawn.picture.copy()
    cv2.rectangle(phone, nose - int(0.5 * eyes), nose + int(0.9 * eyes), (40, 60, 90), -1)
    glasses = drawn.picture.copy()
    for eye in (left, right):
        cv2.circle(glasses, eye.tolist(), int(0.42 * eyes), (15, 15, 15), max(int(0.15 * eyes), 2))
    cv2.line(glasses, left.tolist(), right.tolist(), (15, 15, 15), max(int(0.2 * eyes), 2))
    hand = drawn.picture.copy()  # of the person's own skin: no colour tells it, but the mouth is gone
    mouth = drawn.landmarks[3:].mean(0).astype(int)
    cv2.ellipse(hand, mouth.tolist(), (int(0.9 * eyes), int(0.32 * eyes)), 0, 0, 360, skin, -1)
    assert [reason(phone), reason(glasses), reason(hand)] == [reasons.COVERED] * 3
    assert reason(cv2.GaussianBlur(drawn.picture, (0, 0), 0.16 * eyes)) == reasons.BLURRED
    profile = drawn.landmarks + np.array([(0, 0), (0, 0), (0.45 * eyes, 0), (0, 0), (0, 0)], np.float32)
    assert reason(landmarks=profile) == reasons.TURNED_AWAY
    nodding = drawn.landmarks + np.array(
        [(0, 0), (0, 0), (0, 0.5 * eyes), (0, 0.4 * eyes), (0, 0.4 * eyes)], np.float32
    )
    assert reason(landmarks=nodding) == reasons.TURNED_AWAY


def test_quality_goes_through_json_unchanged(drawn):
    found = face_of(drawn)
    assert FoundFace.from_json(json.loads(json.dumps(found.to_json()))).quality == found.quality


# Pairs


def test_pairs_of_other_pose_light_colour_are_refused_for_that_reason(drawn):
    target = face_of(drawn)
    eyes = float(np.hypot(*(drawn.landmarks[1] - drawn.landmarks[0])))
    turned = replace(
        target, landmarks=drawn.landmarks + np.array([(0, 0)] * 2 + [(0.25 * eyes, 0)] + [(0, 0)] * 2, "f4")
    )
    slightly = replace(
        target, landmarks=drawn.landmarks + np.array([(0, 0)] * 2 + [(0.1 * eyes, 0)] + [(0, 0)] * 2, "f4")
    )
    lying = replace(target, landmarks=np.stack([-drawn.landmarks[:, 1], drawn.landmarks[:, 0]], axis=1))
    lit = replace(target, quality=replace(target.quality, fall=(target.quality.fall[0] + 20, target.quality.fall[1])))
    skin = tuple(np.add(target.quality.skin, (0, 12, 12)).tolist())
    other = replace(target, quality=replace(target.quality, skin=skin))
    grey = replace(target, quality=replace(target.quality, monochrome=True))
    for photo, reason in (
        (turned, reasons.OTHER_POSE),
        (lying, reasons.OTHER_POSE),
        (lit, reasons.OTHER_LIGHT),
        (other, reasons.OTHER_SKIN),
        (grey, reasons.GREY_AND_COLOUR),
    ):
        refused = Counter()
        assert photos_for(target, {"1.jpg": photo}, PAIRS, refused) == [] and refused == {reason: 1}
        assert photos_for(target, {"1.jpg": photo}, None) == ["1.jpg"]
    assert photos_for(grey, {"1.jpg": grey}, PAIRS) == ["1.jpg"]
    photos = {"1.jpg": turned, "2.jpg": slightly, "3.jpg": target}
    assert photos_for(target, photos, PAIRS) == ["3.jpg", "2.jpg"]  # the most similar pose first


def test_ages_of_captions_match_and_a_child_matches_no_stranger():
    group = matching.age_group_of_captions
    assert group(["A baby in a chair.", "A toddler eats."]) == group(["A boy with a kite."]) == "child"
    assert group(["A little girl."]) == "child" and group(["A girl on a beach."]) is None
    assert group(["A man.", "A guy in a hat."]) == "adult" and group(["A boy.", "A young man."]) is None
    assert group(["A woman."], "old") == "old" and group(["A man."], "child") == "adult"
    face = SimpleNamespace(gender=None, age=None)
    assert matching.image_values(("gender", "age_group"), {}, ["A woman runs."], face) == {
        "gender": "female",
        "age_group": "adult",
    }
    for image, identity, fits in (
        ("adult", "young", True),
        ("adult", "old", True),
        ("adult", "child", False),
        ("child", None, False),
        (None, "child", False),
        ("adult", None, True),
        ("young", "old", False),
        (None, None, True),
    ):
        assert matching.compatible((image,), (identity,)) is fits


# COCO's annotations


def annotated(tmp_path, **changes):
    world = fixtures.write_world(tmp_path, train=1, val=0, people=0)
    instances = fixtures.read_json(world, "instances", "train2017")
    for entry in instances["annotations"]:
        entry.update(changes.get("person" if entry["category_id"] == 1 else "ball", {}))
    fixtures.write_json(world, "instances", "train2017", instances)
    if "wrist" in changes:
        points = [0] * 51
        points[27:30] = [*changes["wrist"], 2]
        fixtures.write_json(
            world, "person_keypoints", "train2017", {"annotations": [{"image_id": 1, "keypoints": points}]}
        )
    ((landmarks, box),) = next(iter(world.landmarks.values()))
    (image,) = load_subset(world.coco, "train2017").images
    return face_quality.covered_by_annotated(np.array(landmarks, "f4"), np.array(box, "f4"), image)


def test_things_hands_and_printed_faces_are_known_from_the_annotations(tmp_path):
    everywhere = [[0, 0, 192, 0, 192, 192, 0, 192]]
    assert annotated(tmp_path / "free", person={"segmentation": everywhere}) is None
    ball = {"bbox": [0, 0, 192, 192], "segmentation": everywhere}
    assert annotated(tmp_path / "ball", ball=ball) == (reasons.COVERED_BY_OBJECT, "sports ball, 100%")
    assert annotated(tmp_path / "box", ball={"bbox": [0, 0, 192, 192]})[0] == reasons.COVERED_BY_OBJECT
    assert annotated(tmp_path / "crowd", ball={**ball, "iscrowd": 1}) is None
    elsewhere = {"segmentation": [[0, 0, 5, 0, 5, 5]]}
    assert annotated(tmp_path / "print", person=elsewhere) == (reasons.NOT_THE_PERSON, "")
    world = fixtures.World(tmp_path / "free")
    known = json.loads((world.root / "landmarks.json").read_text())
    ((landmarks, _),) = next(iter(known.values()))
    chin = np.array(landmarks)[3:].mean(0) + (0, 8)
    assert annotated(tmp_path / "hand", wrist=chin.tolist()) == (reasons.HAND_AT_FACE, "")
    assert annotated(tmp_path / "hip", wrist=[chin[0], 190.0]) is None


def test_coco_files_as_people_have_them(tmp_path):
    world = fixtures.write_world(tmp_path, train=5, val=0, people=0)
    instances = fixtures.read_json(world, "instances", "train2017")
    captions = fixtures.read_json(world, "captions", "train2017")
    for entry in instances["images"]:
        entry["id"] = f"{entry['id']:012d}"
        entry["file_name"] = f"train2017/{entry['file_name']}"
    for entry in instances["annotations"]:
        entry["image_id"], entry["category_id"] = f"{entry['image_id']:012d}", str(entry["category_id"])
    for entry in captions["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    first, second = world.coco / "train2017" / "000000000001.jpg", instances["images"][0]
    first.rename(first.with_suffix(".jpeg"))
    second["file_name"] = "000000000001.jpeg"
    instances["images"][1]["file_name"] = "val2017/000000000002.jpg"  # another subset's folder
    instances["images"][2]["id"] = "three"
    captions["annotations"][0]["caption"] = "A woman\nstands\r\n there ."
    for number, broken in enumerate((None, 7, ["a", "b"], {"raw": "a"}, float("nan")), 1):
        captions["annotations"][number]["caption"] = broken
    folder = world.coco / "annotations"
    for kind, content in (("instances", instances), ("captions", captions)):
        (folder / f"{kind}_train2017.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    subset = load_subset(world.coco, "train2017")
    assert [(image.image_id, image.file_name) for image in subset.images] == [
        (1, "000000000001.jpeg"),
        (4, "000000000004.jpg"),
        (5, "000000000005.jpg"),
    ]
    assert subset.images[0].captions == ("A woman stands there .",)
    assert {skip.reason for skip in subset.skipped} == {reasons.BAD_FILE_NAME, reasons.BAD_ENTRY}
    assert not subset.others
    assert read_captions(folder / "captions_train2017.json", {1}) == {1: ["A woman stands there ."]}
    assert [read_image_id(value) for value in ("007", 7, True, 7.0, "x", "٧", None, "9" * 30)] == [7, 7] + [None] * 6


# Verification


def test_a_swap_must_be_the_person_and_no_longer_the_other(drawn):
    rules = SimilarityRules(margin=0.2, min_identity=0.35, max_original=0.35)
    for identity, original, fits in (
        (0.302, 0.3, False),  # nearer by next to nothing
        (0.9, 0.5, False),  # still the one who was there
        (0.3, 0.0, False),
        (0.45, 0.3, False),
        (0.6, 0.3, True),
    ):
        assert rules.accepts(Similarity(identity, original)) is fits
    calibration = load_calibration("insightface:miniature-1")
    told = rules_for("insightface:miniature-1", None, None, None)
    assert told.min_identity == told.max_original == calibration.threshold(FMR_NAMES)
    assert 0 < told.margin < told.min_identity
    assert rules_for(None, 0.1, 0.2, 0.3) == SimilarityRules(0.1, 0.2, 0.3)


# Colours of the file


def wide_gamut() -> bytes:
    """A matrix profile of its own primaries: sRGB's with red and green exchanged would be absurd, so a gamma of 1.2 stands in."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = bytearray(profile)
    at = data.index(b"para")
    while at >= 0:  # every parametric curve becomes a plain power
        data[at + 8 : at + 10] = (0).to_bytes(2, "big")
        data[at + 12 : at + 16] = int(1.2 * 65536).to_bytes(4, "big")
        at = data.find(b"para", at + 4)
    return bytes(data)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_pixels_outside_the_face_and_the_profile_stay(drawn, subsampling):
    profile = wide_gamut()
    scene = load_picture(Image.fromarray(drawn.picture).resize((640, 480)))
    content = fixtures.jpeg(scene, quality=88, subsampling=subsampling, icc_profile=profile)
    original = open_original(content)
    before = np.asarray(Image.open(io.BytesIO(content)))
    assert np.abs(original.picture.astype(int) - before).mean() > 8  # models see other numbers than the file's
    swapped = original.picture.copy()
    swapped[200:260, 280:340] = (200, 120, 90)
    for quality, most in ((None, 0.5), (95, 1.0)):
        jpeg = original.encode(swapped, quality, marking.COMPOSITE_SYNTHETIC)
        image = Image.open(io.BytesIO(jpeg))
        assert image.info["icc_profile"] == profile and marking.read_digital_source_type(jpeg)
        outside = np.ones(before.shape[:2], bool)
        outside[184:276, 264:356] = False  # a block of the JPEG around it
        assert np.abs(np.asarray(image).astype(int) - before)[outside].mean() <= most
        assert np.abs(load_picture(jpeg)[210:250, 290:330].astype(int) - (200, 120, 90)).mean() < 4
    image = Image.open(io.BytesIO(original.encode(swapped, None, marking.COMPOSITE_SYNTHETIC)))
    assert image.quantization == Image.open(io.BytesIO(content)).quantization


def test_pictures_of_other_kinds_become_plain_srgb(drawn):
    for kind in ("cmyk", "grey16", "rgba", "turned"):
        original = open_original(fixtures.damaged(kind, fixtures.jpeg(drawn.picture)))
        jpeg = original.encode(original.picture, None, marking.COMPOSITE_SYNTHETIC)
        assert np.abs(load_picture(jpeg).astype(int) - original.picture).mean() < 2
        assert "icc_profile" not in Image.open(io.BytesIO(jpeg)).info


# Swapping


def test_hair_and_background_of_the_photo_stay_out_of_the_scene(drawn):
    eyes = drawn.landmarks[:2].mean(0)
    width = float(np.hypot(*(drawn.landmarks[1] - drawn.landmarks[0])))
    brows, side = int(eyes[1] - 0.5 * width), int(eyes[0] + 0.85 * width)
    photo = drawn.picture.copy()
    photo[:brows], photo[:, side:] = (60, 35, 20), (20, 90, 40)  # a fringe, and leaves behind the cheek
    embedding = np.full(4, 0.5, np.float32)
    target = FaceInPicture(drawn.picture, drawn.landmarks, drawn.box, embedding)
    source = FaceInPicture(photo, drawn.landmarks, drawn.box, embedding)
    whole, own = (
        np.abs(BlendSwapper(0.25, way).swap(target, source).astype(int) - drawn.picture) for way in (True, False)
    )
    fringe = np.s_[brows - 8 : brows - 3, int(eyes[0]) - 10 : int(eyes[0]) + 10]
    leaves = np.s_[int(eyes[1] + 0.4 * width) : int(eyes[1] + 0.6 * width), side + 2 : side + 5]
    assert whole[fringe].mean() > 25 > 4 > own[fringe].mean()
    assert whole[leaves].mean() > 10 > 4 > own[leaves].mean()


def test_the_defaults_account_for_every_drawn_scene(tmp_path):
    world = fixtures.write_world(tmp_path, train=10, val=0, people=16)
    options = {"faces": "insightface:miniature", "shares": "1,0,0", "workers": 1, "min_face": 24, "people_per_image": 2}
    report = build_release(SwapOptions(world.coco, world.people, tmp_path / "out", **options))
    totals = report.splits["train"]
    left_out = {skip.key for skip in report.images_left_out}
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    tried = {row["coco_file"] for row in rows if row["identity_id"]}
    assert totals.swaps > 0 and not tried & left_out and len(tried | left_out) == 10
    assert all(skip.reason for skip in report.images_left_out + report.swaps_dropped)
    for reason, count in totals.pairs_refused.items():
        assert f"{count:,} x {reason}" in "\n".join(report.lines())
