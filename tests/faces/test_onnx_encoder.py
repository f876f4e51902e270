"""Recognition nets in ONNX with a description beside them: fed as it says, batched where the graph allows it."""

import json

import numpy as np
import onnx
import pytest
from face_pack_fixtures import toy_picture, write_recogniser, write_yunet
from onnx import TensorProto, helper, numpy_helper

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import PackInvalid, PackNotFound, load_face_engine, same_model
from open_clip_idplugin.faces.alignment import align_face, cut_box
from open_clip_idplugin.faces.engine import EngineOptions
from open_clip_idplugin.faces.errors import EngineUnknown, ModelUnreadable
from open_clip_idplugin.faces.onnx_description import TEMPLATE, DescriptionError, read_description
from open_clip_idplugin.faces.onnx_encoder import OnnxEncoder, load_encoder

WHOLE = {"input_size": 112, "channels": "RGB", "pixel_range": 255, "mean": 127.5, "deviation": 127.5}


def describe(model, **changes):
    """A description beside a model; a change to None leaves a field out."""
    values = {name: value for name, value in (WHOLE | changes).items() if value is not None}
    model.with_name(f"{model.name}.json").write_text(json.dumps(values))
    return model


def load(model, **options) -> OnnxEncoder:
    return load_encoder(str(model), EngineOptions(**options))


@pytest.fixture
def net(tmp_path):
    return describe(write_recogniser(tmp_path / "net.onnx", size=16))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A folder with a detector alone, as a spec."""
    folder = tmp_path_factory.mktemp("yunet")
    write_yunet(folder, "face_detection_yunet_2026may.onnx")
    return f"opencv:{folder}"


def crops(count, side=112):
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def means(matrix_seed, pixels, size=16):
    """What the toy net gives for its input [N, 3, S, S]: means of a 4 x 4 grid by its matrix."""
    count, _, side, _ = pixels.shape
    grid = pixels.reshape(count, 3, 4, side // 4, 4, side // 4).mean((3, 5)).reshape(count, -1)
    return grid @ np.random.default_rng(matrix_seed).standard_normal((48, size)).astype(np.float32)


class TestFeeding:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, lambda rgb: (rgb - 127.5) / 127.5),
            ({"channels": "BGR", "mean": [10, 20, 30]}, lambda rgb: (rgb[..., ::-1] - [10, 20, 30]) / 127.5),
            (
                {"pixel_range": 1, "mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]},
                lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
            ),
            (
                {"normalisation": "crop", "mean": None, "deviation": None, "pixel_range": None},
                lambda rgb: (rgb - rgb.mean((1, 2, 3), keepdims=True)) / rgb.std((1, 2, 3), keepdims=True),
            ),
        ],
    )
    def test_pixels_are_scaled_as_described(self, net, changes, expected):
        pictures = crops(3)
        theirs = expected(np.stack(pictures).astype(np.float64)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(
            load(describe(net, **changes)).encode(pictures), means(0, theirs), rtol=1e-4, atol=1e-4
        )

    def test_a_plain_crop_has_no_deviation_of_its_own(self, net):
        encoder = load(describe(net, normalisation="crop", mean=None, deviation=None, pixel_range=None))
        assert np.isfinite(encoder.encode([np.full((112, 112, 3), 9, np.uint8)])).all()

    def test_channels_last(self, tmp_path):
        path = describe(write_channels_last(tmp_path / "net.onnx"), input_size=32)
        assert load(path).encode(crops(2, 32)).shape == (2, 3)
        np.testing.assert_allclose(
            load(path).encode(crops(2, 32)), (np.stack(crops(2, 32)).mean((1, 2)) - 127.5) / 127.5, atol=1e-4
        )

    def test_one_crop_at_a_time_where_the_graph_takes_one(self, tmp_path, detector):
        """As MobileFaceNet's own file: three faces are three runs, and the rows are those of a batched graph."""
        single = describe(write_recogniser(tmp_path / "one.onnx", size=16, batch=1))
        many = describe(write_recogniser(tmp_path / "many.onnx", size=16))
        assert (load(single).batch, load(single).fixed_batch) == (1, True)
        assert load(many).batch > 1 and not load(many).fixed_batch
        picture = toy_picture((32, 32), (96, 32), (32, 128))
        one, batched = (load_face_engine(f"{detector}+onnx:{path}").detect(picture) for path in (single, many))
        assert len(one) == 3
        for face, other in zip(one, batched):
            np.testing.assert_allclose(face.embedding, other.embedding, atol=1e-5)

    def test_a_graph_that_promises_more_than_it_keeps(self, tmp_path):
        """The batch is declared free, but a reshape inside holds one row."""
        path = write_recogniser(tmp_path / "net.onnx", size=16)
        graph = onnx.load(path).graph
        graph.initializer.append(numpy_helper.from_array(np.array([1, 16], np.int64), "one_row"))
        graph.node[-1].output[0] = "before"
        graph.node.append(helper.make_node("Reshape", ["before", "one_row"], ["embedding"]))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.save(model, path)
        encoder = load(describe(path))
        assert (encoder.batch, encoder.fixed_batch) == (1, True) and encoder.encode(crops(1)).shape == (1, 16)


class TestAlignment:
    def test_arcface_is_the_default_and_a_box_another(self, net, detector):
        picture = toy_picture((64, 96))
        face = load_face_engine(f"{detector}+onnx:{net}").detect(picture)[0]
        np.testing.assert_array_equal(face.crop, align_face(picture, face.landmarks, 112))
        boxed = load_face_engine(f"{detector}+onnx:{describe(net, alignment={'box': 0.5})}").detect(picture)[0]
        np.testing.assert_array_equal(boxed.crop, cut_box(picture, face.box, 112, 0.5))
        assert tuple(boxed.crop[0, 0]) == (90, 90, 90) and tuple(boxed.crop[56, 56]) == (255, 0, 255)

    def test_other_reference_points(self, net, detector):
        """The landmarks lie where the description says."""
        points = [[30, 30], [80, 30], [55, 55], [35, 85], [75, 85]]
        picture = toy_picture((64, 96))
        picture[96 + 14, 64 + 10] = (0, 255, 0)  # near the left eye
        face = load_face_engine(f"{detector}+onnx:{describe(net, alignment=points)}").detect(picture)[0]
        np.testing.assert_array_equal(face.crop, align_face(picture, face.landmarks, 112, np.array(points, float)))
        green = np.argwhere((face.crop[..., 1] > 200) & (face.crop[..., 0] < 120))
        assert len(green) and np.abs(green.mean(0) - (30, 30)).max() < 8

    def test_boxes_beyond_the_picture_are_black_and_others_refused(self):
        picture = np.full((50, 50, 3), 200, np.uint8)
        assert cut_box(picture, np.array([-50, -50, 50, 50.0]), 64, 0.0)[0, 0].tolist() == [0, 0, 0]
        for box in ([np.nan, 0, 9, 9], [5, 5, 5, 5], [0, 0, 1e9, 9]):
            assert cut_box(picture, np.array(box, float), 64, 0.0) is None


class TestIdentity:
    def test_weights_and_description_make_the_model(self, net):
        first = load(net).model_id
        assert first.startswith("onnx:net-") and len(first.rpartition("-")[2]) == 20
        assert same_model(load(describe(net, name="another name", licence="MIT")).model_id, first)
        half = {"pixel_range": 1, "mean": 0.5, "deviation": 0.5}
        assert same_model(load(describe(net, **half)).model_id, first)  # the same numbers in other units
        for change in ({"channels": "BGR"}, {"mean": 0}, {"alignment": {"box": 0.1}}):
            assert not same_model(load(describe(net, **change)).model_id, first)

    def test_tensors_beside_the_graph_are_weights_too(self, tmp_path):
        ids = []
        for seed in (0, 1):
            path = describe(write_recogniser(tmp_path / f"{seed}/net.onnx", size=16, seed=seed))
            model = onnx.load(path)
            onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
            ids.append(load(path).model_id)
        assert not same_model(*ids)

    def test_tensors_elsewhere_are_refused(self, tmp_path):
        path = describe(write_recogniser(tmp_path / "deep/net.onnx", size=16))
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
        (tmp_path / "deep/net.data").unlink()
        with pytest.raises(ModelUnreadable):
            load(path)

    def test_the_licence_is_that_of_the_description(self, net, capsys):
        load(describe(net, licence="research only, by its makers"))
        assert "Face encoder 'net.onnx': its licence: research only, by its makers." in capsys.readouterr().err


class TestRefusals:
    def test_no_file_and_no_description(self, tmp_path):
        with pytest.raises(PackNotFound, match=r"no model file .*/net\.onnx; give onnx:<file.onnx>"):
            load(tmp_path / "net.onnx")
        write_recogniser(tmp_path / "net.onnx")
        with pytest.raises(PackNotFound, match=r"no description beside it.*write .*/net\.onnx\.json, such as \{"):
            load(tmp_path / "net.onnx")
        with pytest.raises(EngineUnknown, match="only embeds; put one before it"):
            load_face_engine(f"onnx:{tmp_path}/net.onnx")

    def test_the_template_is_a_whole_description(self, net):
        net.with_name("net.onnx.json").write_text(TEMPLATE)
        assert read_description(net).input_size == 112
        net.with_name("net.onnx.json").rename(net.with_name("net.json"))  # the other place
        assert load(net).embedding_size == 16

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"input_size": None}, "lacks 'input_size'; a whole one is"),
            ({"pixel_range": None}, "lacks 'pixel_range'"),
            ({"mean": None}, "lacks 'mean'"),
            ({"colour": "RGB"}, "unknown field 'colour'; known are input_size"),
            ({"input_size": 112.5}, "gives input_size 112.5; it must be an integer from 16 to 1024"),
            ({"input_size": True}, "gives input_size true"),
            ({"channels": "rgb"}, 'gives channels "rgb"; it must be "RGB" or "BGR"'),
            ({"pixel_range": 256}, "it must be 1 or 255"),
            ({"mean": [1, 2]}, "it must be a number, or three"),
            ({"mean": "127.5"}, "it must be a number, or three"),
            ({"deviation": 0}, "it must be numbers above 0"),
            ({"deviation": float("nan")}, "it must be a number"),
            ({"normalisation": "crop"}, "it must be nothing beside normalisation"),
            ({"normalisation": "l2"}, 'it must be "fixed" or "crop"'),
            ({"alignment": "dlib"}, 'it must be "arcface", five reference points'),
            ({"alignment": [[1, 2]] * 4}, "five reference points"),
            ({"alignment": {"box": "wide"}}, "a margin from -0.4 to 2"),
            ({"licence": ["MIT"]}, "it must be a short text"),
            ({"input_size": 128}, "takes pictures of 112x112 pixels, but its description .* gives input_size 128"),
            ({"output": "logits"}, "has the outputs embedding, and its description .* names 'logits'"),
        ],
    )
    def test_wrong_descriptions(self, net, changes, words):
        with pytest.raises(PackInvalid, match=words) as refused:
            load(describe(net, **changes))
        assert isinstance(refused.value, IdClipError) and "\n" not in str(refused.value)

    @pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"RGB"', " " * 70_000])
    def test_what_is_no_description(self, net, text):
        net.with_name("net.onnx.json").write_text(text)
        with pytest.raises(DescriptionError, match="write"):
            load(net)

    def test_other_graphs(self, tmp_path):
        broken = describe(tmp_path / "broken.onnx")
        broken.write_bytes(b"no protobuf")
        with pytest.raises(ModelUnreadable, match="cannot be read as ONNX"):
            load(broken)
        detector = describe(write_yunet(tmp_path))
        with pytest.raises(PackInvalid, match="takes pictures of 640x640 pixels"):
            load(detector)
        with pytest.raises(
            PackInvalid, match=r"has the outputs cls_8, .*names none; write the one that is the embedding"
        ):
            load(describe(detector, input_size=640))
        wide = describe(write_recogniser(tmp_path / "wide.onnx", size=5000))
        with pytest.raises(PackInvalid, match="no embedding of 2 to 4,096 numbers"):
            load(wide)
        sized = write_recogniser(tmp_path / "two.onnx", size=8)
        model = onnx.load(sized)
        extra = helper.make_tensor_value_info("second", TensorProto.FLOAT, ["batch", 3, 112, 112])
        model.graph.input.append(extra)
        onnx.save(model, sized)
        with pytest.raises(PackInvalid, match=r"takes data tensor.*; second .*a face encoder takes one float32 input"):
            load(describe(sized))


def write_channels_last(path):
    """A net [N, S, S, 3] -> [N, 3], the means of the channels."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["data"], ["embedding"], axes=[1, 2], keepdims=0)],
        "toy net of another framework",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path
