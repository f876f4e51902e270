"""The parts of a face swap, each alone: reading, matching, assignment, geometry, blending, marks, swappers."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace
from xml.dom import minidom

import faceswap_fixtures as fixtures
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from open_clip_idplugin.errors import IdClipError
from webdataset_tools import marking
from webdataset_tools.faceswap import matching, reasons, swappers
from webdataset_tools.faceswap.assignment import assign, split_by_share
from webdataset_tools.faceswap.blend import BlendSwapper
from webdataset_tools.faceswap.coco import load_subset
from webdataset_tools.faceswap.face_records import FoundFace
from webdataset_tools.faceswap.face_skin import map_skin
from webdataset_tools.faceswap.geometry import SwapFailed
from webdataset_tools.faceswap.identities import load_identities, read_attribute_table
from webdataset_tools.faceswap.swappers import FaceInPicture, SwapperSettings
from webdataset_tools.faceswap.verification import verify
from webdataset_tools.miniature.drawing import draw_face
from webdataset_tools.miniature.head_frame import FacePose
from webdataset_tools.miniature.people import Person, sample_person, skin_group
from webdataset_tools.miniature.scenes import draw_scene, sample_scene


@pytest.fixture(scope="module")
def pair() -> tuple[FaceInPicture, FaceInPicture]:
    """A drawn scene and a portrait of somebody else."""
    return _pair(sample_person(6, "train"), sample_person(3, "test"))


def _pair(body: Person, lender: Person) -> tuple[FaceInPicture, FaceInPicture]:
    drawn = draw_scene(sample_scene(6, "plain"), body)
    photo = draw_face(lender, FacePose(), size=200, zoom=0.7)
    embedding = np.full(8, 8**-0.5, np.float32)
    return (
        FaceInPicture(drawn.picture, drawn.landmarks, drawn.face_box, embedding),
        FaceInPicture(photo.picture, photo.landmarks, photo.box, embedding),
    )


# Reading


def test_only_images_of_one_person_with_captions_are_taken(tmp_path):
    world = fixtures.write_world(tmp_path, train=7, val=0, people=0)
    instances = fixtures.read_json(world, "instances", "train2017")
    people = [entry for entry in instances["annotations"] if entry["category_id"] == 1]
    extra = [
        {**people[1], "id": 501},
        {**people[2], "id": 502, "iscrowd": 1},
        dict(people[0]),
    ]  # the last one: repeated
    instances["annotations"] = [e for e in instances["annotations"] if e is not people[3]] + extra
    instances["images"] += [
        {"id": 5, "file_name": "again.jpg"},
        {"id": 90, "file_name": "../../etc/passwd"},
        {"id": "x"},
    ]
    fixtures.write_json(world, "instances", "train2017", instances)
    captions = fixtures.read_json(world, "captions", "train2017")
    captions["annotations"] = [entry for entry in captions["annotations"] if entry["image_id"] != 6]
    fixtures.write_json(world, "captions", "train2017", captions)
    (world.coco / "train2017" / "000000000007.jpg").unlink()

    subset = load_subset(world.coco, "train2017")
    assert [image.image_id for image in subset.images] == [1, 5]
    assert subset.others == {reasons.CROWD: 1, reasons.NO_PERSON: 1, reasons.SEVERAL_PEOPLE: 1}
    told = {skip.reason for skip in subset.skipped}
    assert told == {
        reasons.DUPLICATE_ID, reasons.BAD_FILE_NAME, reasons.BAD_ENTRY, reasons.MISSING_CAPTIONS, reasons.MISSING_IMAGE,
    }  # fmt: skip
    x, y, width, height = people[0]["bbox"]
    assert subset.images[0].person_box == (x, y, x + width, y + height) and len(subset.images[0].captions) == 6


def test_what_is_missing_in_coco_is_one_sentence(tmp_path):
    world = fixtures.write_world(tmp_path, train=1, val=0, people=0)
    path = world.coco / "annotations" / "instances_train2017.json"
    path.write_text("{")
    with pytest.raises(IdClipError, match="cannot be read as JSON"):
        load_subset(world.coco, "train2017")
    path.unlink()
    with pytest.raises(IdClipError, match="is missing; unpack"):
        load_subset(world.coco, "train2017")
    with pytest.raises(IdClipError, match="no folder test2017"):
        load_subset(world.coco, "test2017")


def test_identities_with_odd_names_and_ids(tmp_path):
    world = fixtures.write_world(tmp_path, train=0, val=0, people=6, photos=1)
    for odd in ("n1.5", "Ярослава", "it's"):
        (world.people / odd).mkdir()
        (world.people / odd / "1.jpg").write_bytes(b"")
    (world.people / "empty").mkdir()
    table = tmp_path / "groups.csv"
    table.write_text("identity_id, Ethnicity, gender\nn200001, B, \nn200001, A, m\nn200002,  a , unsure\n")
    found = load_identities(world.people, table)
    assert [identity.name for identity in found.identities][: len(fixtures.SPECIAL_NAMES)] == fixtures.SPECIAL_NAMES
    known = {identity.identity_id: identity.attributes for identity in found.identities}
    genders = {"f": "female", "m": "male"}
    assert known["n200001"] == {"gender": genders[world.genders["n200001"]], "ethnicity": "b"}  # the first row counts
    assert known["n200002"]["ethnicity"] == "a"
    assert sorted(skip.reason for skip in found.skipped) == [reasons.BAD_IDENTITY_ID] * 3 + [reasons.NO_PHOTOS]


def test_attribute_tables_of_another_form_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    for content in ("a,b\n1,2\n", "{", '{"1": "male"}', ""):
        path.write_text(content)
        with pytest.raises(IdClipError):
            read_attribute_table(path)
    path.write_text('{"7": {"Gender": "F", "stratum": "Small"}}')
    assert read_attribute_table(path) == {"7": {"gender": "female", "stratum": "small"}}
    path.write_text('{"7": {"gender": null, "stratum": ["a", "b"], "place": {"a": 1}, "number": 3, "day": "Monday"}}')
    assert read_attribute_table(path) == {"7": {"day": "monday"}}


# Matching and assignment


def test_gender_comes_from_the_file_then_the_captions_then_the_engine():
    face = SimpleNamespace(gender="male", age=33.0)
    names = ("gender", "age_group")
    assert matching.image_values(names, {"gender": "female"}, ["A man."], face)["gender"] == "female"
    assert matching.image_values(names, {}, ["A woman in a manor."], face) == {"gender": "female", "age_group": "young"}
    assert matching.image_values(names, {}, ["Somebody."], face)["gender"] == "male"
    assert matching.image_values(names, {}, ["A man.", "A woman."], None)["gender"] is None
    votes = [SimpleNamespace(gender=gender, age=None) for gender in ("male", "female", "male")]
    assert matching.identity_values(names, {}, votes) == {"gender": "male", "age_group": None}
    assert matching.identity_values(("gender",), {}, votes[:2]) == {"gender": None}


def test_splits_share_out_every_group_and_overlap_nowhere():
    ids = {f"n{number:03d}": ("female" if number % 4 else "male",) for number in range(200)}
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    parts = split_by_share(ids, shares, seed=1)
    assert sorted(key for part in parts.values() for key in part) == sorted(ids)
    for split, share in shares.items():
        assert abs(len(parts[split]) - 200 * share) <= 1
        assert abs(sum(ids[key] == ("male",) for key in parts[split]) - 50 * share) <= 1
    assert parts == split_by_share(dict(reversed(ids.items())), shares, seed=1)
    assert parts != split_by_share(ids, shares, seed=2)
    assert split_by_share(ids, {"train": 1.0, "val": 0.0, "test": 0.0}, 0)["test"] == []
    fixed = {"n001": "test", "n002": "val", "n199": "test"}
    parts = split_by_share(ids, shares, 1, fixed)
    assert all(key in parts[split] for key, split in fixed.items())
    assert sorted(key for part in parts.values() for key in part) == sorted(ids)
    assert abs(len(parts["train"]) - 197 * 0.7) <= 1


def test_identities_match_and_get_several_contexts():
    images = {number: ("female" if number % 3 else "male", "a") for number in range(60)}
    people = {f"n{n:03d}": ("female" if n % 2 else "male", "b" if n % 5 == 0 else "a") for n in range(400)}
    chosen = assign(images, people, per_image=5, contexts=4, seed=3)
    used: dict[str, int] = {}
    for number, members in chosen.items():
        assert len(set(members)) == 5
        for key in members:
            assert people[key] == images[number]
            used[key] = used.get(key, 0) + 1
    assert min(used.values()) >= 4 and max(used.values()) <= 5
    assert chosen == assign(dict(reversed(images.items())), dict(reversed(people.items())), 5, 4, 3)
    assert chosen != assign(images, people, 5, 4, 4)


def test_unknown_values_match_everybody_and_no_match_gives_nobody():
    people = {"a": ("male",), "b": ("female",), "c": (None,)}
    chosen = assign({1: (None,), 2: ("male",), 3: ("female",)}, people, per_image=3, contexts=1, seed=0)
    assert sorted(chosen[1]) == ["a", "b", "c"] and sorted(chosen[2]) == ["a", "c"] and sorted(chosen[3]) == ["b", "c"]
    assert assign({1: ("male",)}, {"b": ("female",)}, 5, 4, 0) == {1: []}


# Geometry and blending


def test_a_swapped_face_is_cut_as_its_encoder_cuts_faces():
    class Boxes:
        """An encoder of the box as it is, without any alignment."""

        def crop_at(self, picture, box, landmarks):
            x0, y0, x1, y1 = box.astype(int)
            return picture[y0:y1, x0:x1] if np.isfinite(landmarks).all() else None

        def embed_crops(self, crops):
            return np.stack([crop.mean((0, 1)) / np.linalg.norm(crop.mean((0, 1))) for crop in crops])

    picture = np.zeros((60, 60, 3), np.uint8)
    picture[20:40, 10:30] = (0, 3, 4)
    points = np.zeros((5, 2), np.float32)
    rows = np.eye(3, dtype=np.float32)
    face = FoundFace(np.array([10, 20, 30, 40], np.float32), points, 1.0, rows[1], quality=None)
    similarity = verify(Boxes(), picture, face, rows[2])
    assert (similarity.identity, similarity.original) == pytest.approx((0.8, 0.6))
    with pytest.raises(SwapFailed, match="cannot be aligned"):
        verify(Boxes(), picture, replace(face, landmarks=points * np.nan), rows[2])


def test_only_the_face_changes_and_inputs_stay(pair):
    target, source = pair
    before = target.picture.copy(), source.picture.copy()
    result = BlendSwapper().swap(target, source)
    assert result.shape == target.picture.shape and result.dtype == np.uint8
    np.testing.assert_array_equal(target.picture, before[0])
    np.testing.assert_array_equal(source.picture, before[1])
    changed = np.abs(result.astype(int) - target.picture).max(2) > 0
    y, x = np.nonzero(changed)
    x0, y0, x1, y1 = target.box
    slack = 0.05 * (y1 - y0) + 1
    assert x.min() >= x0 - slack and x.max() <= x1 + slack and y.min() >= y0 - slack and y.max() <= y1 + slack
    inner = np.zeros_like(changed)
    left, top, right, bottom = (int(v) for v in (*target.landmarks.min(0), *target.landmarks.max(0)))
    inner[top:bottom, left:right] = True
    assert changed[inner].mean() > 0.8
    np.testing.assert_array_equal(result, BlendSwapper().swap(target, source))


def test_colours_follow_the_scene():
    bare = [person for person in (sample_person(n, "train") for n in range(60)) if person.face.glasses == "none"]
    light = next(person for person in bare if skin_group(person) == "light")
    lender = next(person for person in bare if skin_group(person) == "dark")
    target, source = _pair(light, lender)
    dark = FaceInPicture((target.picture * 0.3).astype(np.uint8), target.landmarks, target.box, target.embedding)
    left, top, right, bottom = (int(v) for v in (*target.landmarks.min(0), *target.landmarks.max(0)))
    cut = np.s_[top:bottom, left:right]
    means = [float(BlendSwapper(keep_skin=0).swap(scene, source)[cut].mean()) for scene in (target, dark)]
    assert abs(means[0] - target.picture[cut].mean()) < 25 and abs(means[1] - dark.picture[cut].mean()) < 15


def test_a_share_of_the_skin_stays_but_light_does_not():
    bare = [person for person in (sample_person(n, "train") for n in range(60)) if person.face.glasses == "none"]
    light = next(person for person in bare if skin_group(person) == "light")
    lender = next(person for person in bare if skin_group(person) == "tan")
    target, source = _pair(light, lender)

    def lightness(face: FaceInPicture, picture: np.ndarray) -> float:
        left, top, right, bottom = (int(v) for v in (*face.landmarks.min(0), *face.landmarks.max(0)))
        return float(np.median(picture[top:bottom, left:right].mean(2)))

    swapped = [lightness(target, BlendSwapper(kept).swap(target, source)) for kept in (0, 0.5, 1)]
    # Where the person's skin is known from other photos, it counts, not this photo's light: here it is as the scene's.
    skin = map_skin(target.picture, target.landmarks, target.box).skin
    own, scene = lightness(source, source.picture), lightness(target, target.picture)
    assert own < swapped[2] + 12 and swapped[2] < swapped[1] - 5 < swapped[0] - 10 and abs(swapped[0] - scene) < 15
    elsewhere = FaceInPicture(source.picture, source.landmarks, source.box, source.embedding, skin)
    assert abs(lightness(target, BlendSwapper(1).swap(target, elsewhere)) - lightness(target, target.picture)) < 12
    night = FaceInPicture((target.picture * 0.1).astype(np.uint8), target.landmarks, target.box, target.embedding)
    assert lightness(night, BlendSwapper(1).swap(night, source)) < own - 20


@pytest.mark.parametrize("shift", [(-70, 0), (0, -60), (75, 60)])
def test_faces_cut_by_the_border_are_swapped_where_they_are(pair, shift):
    target, source = pair
    moved = np.roll(target.picture, shift[::-1], (0, 1))
    offset = np.array(shift, np.float32)
    cut = FaceInPicture(moved, target.landmarks + offset, target.box + np.tile(offset, 2), target.embedding)
    assert (BlendSwapper().swap(cut, source) != moved).any()


def test_impossible_swaps_say_why(pair):
    target, source = pair
    far = FaceInPicture(target.picture, target.landmarks + 900, target.box + 900, target.embedding)
    with pytest.raises(SwapFailed, match="outside"):
        BlendSwapper().swap(far, source)
    point = FaceInPicture(source.picture, np.full((5, 2), 40, np.float32), source.box, source.embedding)
    with pytest.raises(SwapFailed, match="one point"):
        BlendSwapper().swap(target, point)


# Marks


def test_mark_is_read_by_an_independent_reader_and_keeps_the_pixels(pair):
    jpeg = fixtures.jpeg(pair[0].picture)
    marked = marking.mark_jpeg(jpeg, marking.COMPOSITE_TRAINED)
    with Image.open(io.BytesIO(marked)) as image:
        packet = image.info["xmp"].decode()
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(jpeg))))
    assert re.search(r":DigitalSourceType>http://cv\.iptc\.org/newscodes/digitalsourcetype/composite\w+<", packet)
    (element,) = minidom.parseString(packet).getElementsByTagName("Iptc4xmpExt:DigitalSourceType")
    assert element.firstChild.data == marking.COMPOSITE_TRAINED
    assert marking.read_digital_source_type(marked) == marking.COMPOSITE_TRAINED
    assert marking.read_digital_source_type(jpeg) is None


def test_foreign_packets_are_read_or_left_alone(pair):
    jpeg, head = fixtures.jpeg(pair[0].picture), b"http://ns.adobe.com/xap/1.0/\x00"

    def with_packet(body: str) -> bytes:
        content = head + body.encode()
        return jpeg[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]

    spaces = (
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    )
    code = marking.COMPOSITE_SYNTHETIC
    attribute = f'<rdf:RDF {spaces}><rdf:Description i:DigitalSourceType="{code}"/></rdf:RDF>'
    reference = (
        f'<rdf:RDF {spaces}><rdf:Description><i:DigitalSourceType rdf:resource="{code}"/></rdf:Description></rdf:RDF>'
    )
    for body in (attribute, reference):
        assert marking.read_digital_source_type(with_packet(body)) == code
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + attribute
    for body in (bomb, "<rdf:RDF", "", '<?xml version="1.0" encoding="none"?>'):
        assert marking.read_digital_source_type(with_packet(body)) is None
    marked = marking.mark_jpeg(jpeg, code)
    for damaged in (b"", marked[:30], marked[:5] + b"\x00\x00" + marked[7:], b"\xff\xd8\xff\xe1\x00\x00"):
        marking.read_digital_source_type(damaged)
    with pytest.raises(IdClipError, match="no JPEG"):
        marking.mark_jpeg(b"PNG", code)
    with pytest.raises(IdClipError, match="IPTC"):
        marking.mark_jpeg(jpeg, "synthetic")


# Swappers


def write_swapper(path, latent: int = 8, side: int = 128) -> None:
    """INSwapper's contract: the picture plus a shade that depends on the latent; `emap` is the last initializer."""
    weight = numpy_helper.from_array(np.full((latent, 3), 0.2, np.float32), "weight")
    shape = numpy_helper.from_array(np.array([1, 3, 1, 1], np.int64), "shape")
    emap = numpy_helper.from_array(np.eye(latent, dtype=np.float32), "emap")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["source", "weight"], ["shade"]),
            helper.make_node("Reshape", ["shade", "shape"], ["spread"]),
            helper.make_node("Add", ["target", "spread"], ["output"]),
        ],
        "toy swapper",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, [1, 3, side, side]),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, latent]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, side, side])],
        [weight, shape, emap],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def test_inswapper_runs_a_users_model_quietly(pair, tmp_path, capfd):
    target, source = pair
    write_swapper(tmp_path / "swapper.onnx")
    swapper = swappers.find_factory("inswapper")(SwapperSettings(tmp_path / "swapper.onnx"))
    assert capfd.readouterr().out == ""
    assert swapper.digital_source_type == marking.COMPOSITE_TRAINED
    result = swapper.swap(target, source)
    assert result.shape == target.picture.shape
    middle = target.landmarks.mean(0).astype(int)
    at = np.s_[middle[1] - 3 : middle[1] + 3, middle[0] - 3 : middle[0] + 3]
    assert (result[at].astype(int) - target.picture[at]).mean() > 30
    np.testing.assert_array_equal(result[:5], target.picture[:5])
    for embedding, why in ((np.zeros(8, np.float32), "means nothing"), (np.ones(5, np.float32), "8 numbers")):
        with pytest.raises(SwapFailed, match=why):
            swapper.swap(target, FaceInPicture(source.picture, source.landmarks, source.box, embedding))


def test_a_missing_or_broken_model_is_one_sentence(tmp_path):
    create = swappers.find_factory("inswapper")
    with pytest.raises(IdClipError, match=r"fetch inswapper_128\.onnx.*--swapper-model.*non-commercial"):
        create(SwapperSettings(None))
    with pytest.raises(IdClipError, match=r"no swapper model .*gone\.onnx"):
        create(SwapperSettings(tmp_path / "gone.onnx"))
    (tmp_path / "broken.onnx").write_bytes(b"onnx?")
    with pytest.raises(IdClipError, match="cannot be read as ONNX"):
        create(SwapperSettings(tmp_path / "broken.onnx"))


def test_swappers_can_be_registered_and_named_by_path():
    swappers.register_swapper("mine", swappers.find_factory("blend"))
    try:
        assert swappers.find_factory("mine") is swappers.find_factory("blend")
        with pytest.raises(IdClipError, match="already"):
            swappers.register_swapper("mine", swappers.find_factory("blend"))
    finally:
        swappers.unregister_swapper("mine")
    assert swappers.find_factory("faceswap_fixtures:create_mute") is fixtures.create_mute
    for unknown in ("mine", "no.such.module:x", "webdataset_tools.faceswap.blend:Nothing"):
        with pytest.raises(IdClipError):
            swappers.find_factory(unknown)
    with pytest.raises(IdClipError, match="letters"):
        swappers.register_swapper("a-b", BlendSwapper)
