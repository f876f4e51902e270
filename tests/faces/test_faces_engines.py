"""Engines beside insightface's packs: OpenCV's YuNet and SFace, timm encoders, and detectors and encoders of two kinds."""

import io
import json
import threading

import numpy as np
import pytest
import torch
from face_pack_fixtures import MAGENTA, toy_picture, write_gender_age, write_pack, write_sface, write_yunet
from PIL import Image

from open_clip_idplugin.faces import (
    EngineUnknown,
    FaceNotAligned,
    ModelMismatch,
    NoFace,
    PackInvalid,
    PackNotFound,
    ProviderUnavailable,
    SeveralFaces,
    load_face_engine,
    require_same_model,
)
from open_clip_idplugin.faces.errors import (
    DetectorMissing,
    ModelUnreadable,
    PackEmpty,
    RecogniserMissing,
)
from open_clip_idplugin.faces.loading import split_spec
from open_clip_idplugin.pictures import (
    ImageRejected,
    NoPicture,
    PictureDamaged,
    PictureMissing,
    PictureTooElongated,
    PictureTooLarge,
    PictureTooSmall,
    PixelsUnusable,
    load_picture,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with OpenCV's pair."""
    folder = tmp_path_factory.mktemp("opencv")
    write_yunet(folder)
    write_sface(folder)
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("packs") / "toy")


class TestOpenCV:
    def test_one_face(self, models):
        engine = load_face_engine(f"opencv:{models}", det_size=192)
        (face,) = engine.detect(toy_picture((64, 96)))
        np.testing.assert_allclose(face.box, [64, 96, 96, 128], atol=1e-3)
        assert face.landmarks[0, 0] < face.landmarks[1, 0] and face.landmarks[2, 1] < face.landmarks[3, 1]
        assert face.crop.shape == (112, 112, 3) and tuple(face.crop[20, 56]) == MAGENTA
        assert engine.embedding_size == 128 == len(face.embedding)
        assert abs(np.linalg.norm(face.embedding) - 1) < 1e-5 and 0.9 < face.score <= 1
        assert engine.model_id.startswith("opencv:face_recognition_sface_2021dec-")

    def test_embedding_equals_opencvs(self, models):
        import cv2

        face = load_face_engine(f"opencv:{models}").detect(toy_picture((64, 96)))[0]
        host = cv2.FaceRecognizerSF.create(str(models / "face_recognition_sface_2021dec.onnx"), "")
        theirs = host.feature(np.ascontiguousarray(face.crop[:, :, ::-1])).reshape(-1)
        np.testing.assert_allclose(face.embedding, theirs / np.linalg.norm(theirs), atol=1e-6)

    def test_the_same_face_as_insightfaces_detector(self, models, pack):
        """Two contracts, one result."""
        picture = toy_picture((32, 32), (96, 64))
        ours = load_face_engine(f"opencv:{models}", det_size=192).find(picture)
        theirs = load_face_engine(f"insightface:{pack}", det_size=192).find(picture)
        assert len(ours) == len(theirs) == 2
        by_place = [sorted(faces, key=lambda face: face.box[0]) for faces in (ours, theirs)]
        for face, other in zip(*by_place):
            np.testing.assert_allclose(face.landmarks, other.landmarks, atol=0.05)

    def test_large_pictures_are_scaled_down_and_boxes_back(self, models):
        small = toy_picture((64, 96))
        large = np.repeat(np.repeat(small, 4, 0), 4, 1)  # 768 pixels
        engine = load_face_engine(f"opencv:{models}", det_size=192)
        (face,) = engine.detect(large)
        np.testing.assert_allclose(face.box, np.array([64, 96, 96, 128]) * 4, atol=0.1)
        assert len(engine.detect(small[:, :160])) == 1  # other sizes: OpenCV pads to multiples of 32

    def test_threads_get_identical_results(self, models):
        engine = load_face_engine(f"opencv:{models}")
        pictures = [toy_picture((32, 32), size=size) for size in (96, 128, 160, 192)]
        expected = [engine.detect(picture)[0].embedding for picture in pictures]
        equal: list[bool] = []

        def look(number: int) -> None:
            equal.append(bool((engine.detect(pictures[number])[0].embedding == expected[number]).all()))

        threads = [threading.Thread(target=look, args=(number % 4,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert equal == [True] * 12

    def test_what_is_missing(self, models, tmp_path):
        with pytest.raises(PackNotFound, match=r"face_detection_yunet_\*\.onnx and face_recognition_sface"):
            load_face_engine(f"opencv:{tmp_path}/absent")
        with pytest.raises(DetectorMissing, match="no YuNet detector"):
            load_face_engine(f"opencv:{tmp_path}")
        write_yunet(tmp_path)
        with pytest.raises(RecogniserMissing, match="no SFace recogniser"):
            load_face_engine(f"opencv:{tmp_path}")
        with pytest.raises(ProviderUnavailable, match="CPU alone"):
            load_face_engine(f"opencv:{models}", providers=["CUDAExecutionProvider"])

    def test_files_of_another_kind(self, tmp_path, capfd):
        write_sface(tmp_path)
        write_yunet(tmp_path, without="kps_8")
        with pytest.raises(ModelUnreadable, match="does not have YuNet's outputs"):
            load_face_engine(f"opencv:{tmp_path}")
        (tmp_path / "face_detection_yunet_2023mar.onnx").write_bytes(b"no protobuf")
        with pytest.raises(ModelUnreadable, match="cannot be read as ONNX"):
            load_face_engine(f"opencv:{tmp_path}")
        write_yunet(tmp_path)
        (tmp_path / "face_recognition_sface_2021dec.onnx").write_bytes(b"no protobuf")
        with pytest.raises(ModelUnreadable, match="cannot be read as ONNX"):
            load_face_engine(f"opencv:{tmp_path}")
        assert "ERROR" not in capfd.readouterr().err

    def test_the_exact_version_before_the_quantised_one(self, tmp_path):
        write_yunet(tmp_path)
        write_sface(tmp_path, "face_recognition_sface_2021dec_int8.onnx", seed=1)
        assert "_int8-" in load_face_engine(f"opencv:{tmp_path}").model_id
        write_sface(tmp_path)
        assert "_int8-" not in load_face_engine(f"opencv:{tmp_path}").model_id


@pytest.fixture(scope="module")
def timm_model(tmp_path_factory):
    """A small timm model without a head, and its checkpoint."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    path = tmp_path_factory.mktemp("timm") / "face@v1+x.safetensors"  # names may hold the separators
    save_file(model.state_dict(), path)
    return model, path


class TestTimm:
    def test_with_another_detector(self, timm_model, models, pack):
        model, path = timm_model
        for detector in (f"opencv:{models}", f"insightface:{pack}"):
            engine = load_face_engine(
                f"{detector}+timm:test_resnet@{path}", det_size=192, providers=["CPUExecutionProvider"]
            )
            (face,) = engine.detect(toy_picture((64, 96)))
            assert engine.embedding_size == model.num_features == len(face.embedding)
            assert face.crop.shape == (160, 160, 3)  # test_resnet's own input
            assert engine.model_id.startswith("timm:test_resnet-") and len(engine.model_id.rpartition("-")[2]) == 20
        pixels = torch.from_numpy(face.crop).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            row = torch.nn.functional.normalize(model((pixels - 0.5) / 0.5))[0].numpy()
        np.testing.assert_allclose(face.embedding, row, atol=1e-5)

    def test_a_head_is_the_embedding(self, models, tmp_path):
        import timm

        torch.manual_seed(0)
        torch.save(timm.create_model("test_resnet", num_classes=24).state_dict(), tmp_path / "head.pt")
        assert load_face_engine(f"opencv:{models}+timm:test_resnet@{tmp_path / 'head.pt'}").embedding_size == 24
        torch.save(timm.create_model("test_resnet", num_classes=8631).state_dict(), tmp_path / "classes.pt")
        with pytest.raises(PackInvalid, match="8,631 outputs, a classifier"):
            load_face_engine(f"opencv:{models}+timm:test_resnet@{tmp_path / 'classes.pt'}")

    def test_a_folder_brings_its_configuration(self, models, tmp_path):
        import timm

        torch.manual_seed(0)
        options = {"img_size": 112, "patch_size": 16}
        torch.save(
            timm.create_model("test_vit", num_classes=32, **options).state_dict(), tmp_path / "pytorch_model.bin"
        )
        with pytest.raises(PackEmpty, match=r"lacks config\.json"):
            load_face_engine(f"opencv:{models}+timm:{tmp_path}")
        config = {
            "architecture": "test_vit",
            "num_classes": 32,
            "model_args": options,
            "pretrained_cfg": {"input_size": [3, 112, 112], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        engine = load_face_engine(f"opencv:{models}+timm:{tmp_path}", threads=1)
        assert (engine.crop_size, engine.embedding_size) == (112, 32)
        assert engine._encoder._mean.flatten().tolist() == pytest.approx([102, 127.5, 153])
        (tmp_path / "config.json").write_text("[]")
        with pytest.raises(ModelUnreadable, match="no configuration of a timm model"):
            load_face_engine(f"opencv:{models}+timm:{tmp_path}")

    def test_what_is_refused(self, timm_model, models, tmp_path):
        _, path = timm_model

        def load(name: str, **options):
            return load_face_engine(f"opencv:{models}+timm:{name}", **options)

        with pytest.raises(EngineUnknown, match="no model 'no_such_model'"):
            load(f"no_such_model@{path}")
        with pytest.raises(PackNotFound, match="no checkpoint"):
            load(f"test_resnet@{tmp_path}/absent.pt")
        with pytest.raises(PackNotFound, match="no checkpoint and no folder"):
            load("test_resnet")
        with pytest.raises(EngineUnknown, match="incomplete"):
            load("test_resnet@")
        with pytest.raises(ModelUnreadable, match="does not fit the timm model test_vit"):
            load(f"test_vit@{path}")
        (tmp_path / "garbage.pt").write_bytes(b"no checkpoint")
        with pytest.raises(ModelUnreadable, match="cannot be read"):
            load(f"test_resnet@{tmp_path / 'garbage.pt'}")
        if not torch.cuda.is_available():
            with pytest.raises(ProviderUnavailable, match="no CUDA device"):
                load(f"test_resnet@{path}", providers=["CUDAExecutionProvider", "CPUExecutionProvider"])

    def test_code_in_a_checkpoint_is_not_run(self, models, tmp_path):
        class Payload:
            def __reduce__(self):
                return (tmp_path.joinpath("ran").touch, ())

        torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
        with pytest.raises(ModelUnreadable):
            load_face_engine(f"opencv:{models}+timm:test_resnet@{tmp_path / 'evil.pt'}")
        assert not (tmp_path / "ran").exists()


class TestSpecs:
    def test_two_engines(self):
        assert split_spec("insightface:a") == ("insightface:a", "insightface:a")
        assert split_spec("opencv:a+b+insightface:c") == ("opencv:a+b", "insightface:c")

    @pytest.mark.parametrize("spec", ["", "buffalo_l", "insightface:", "opencv:x+timm:", "onnx:"])
    def test_unknown(self, spec):
        with pytest.raises(EngineUnknown, match="opencv:<folder>, dlib:hog or dlib:cnn, timm:<name>@<checkpoint>"):
            load_face_engine(spec)

    def test_combinations_that_do_not_fit(self):
        with pytest.raises(EngineUnknown, match="put one before it, such as insightface:buffalo_l"):
            load_face_engine("timm:test_resnet@x.pt")
        with pytest.raises(EngineUnknown, match="names 3 engines"):
            load_face_engine("opencv:a+opencv:b+opencv:c")

    def test_model_id_is_the_encoders(self, models, pack):
        both = load_face_engine(f"opencv:{models}+insightface:{pack}")
        assert both.model_id == load_face_engine(f"insightface:{pack}").model_id
        with pytest.raises(ModelMismatch, match="of the table and the query come from different models, 'a' and 'b'"):
            require_same_model("a", "b", "the table and the query")
        require_same_model("a", "a", "x")
        require_same_model(None, "b", "x")

    def test_halves_of_packs(self, models, tmp_path):
        """A pack serves for what it holds."""
        write_pack(tmp_path / "half")
        (tmp_path / "half/rec.onnx").unlink()
        assert load_face_engine(f"insightface:{tmp_path / 'half'}+opencv:{models}", det_size=192).embedding_size == 128
        with pytest.raises(RecogniserMissing):
            load_face_engine(f"insightface:{tmp_path / 'half'}")

    def test_licences_are_said_once(self, tmp_path, capsys):
        write_yunet(tmp_path, "face_detection_yunet_2099jan.onnx")
        write_sface(tmp_path, "face_recognition_sface_2099jan.onnx")
        for _ in range(2):
            load_face_engine(f"opencv:{tmp_path}")
        said = capsys.readouterr().err
        assert said.count("MIT licence") == 1 and said.count("Apache 2.0 licence") == 1


class TestWithoutRecogniser:
    def test_crops_alone(self, pack, monkeypatch):
        engine = load_face_engine(f"insightface:{pack}", det_size=192)
        picture = toy_picture((32, 32), (96, 64))
        face = engine.the_face(picture)
        monkeypatch.setattr(engine._encoder, "encode", lambda crops: pytest.fail("the recogniser ran"))
        assert len(engine.crops_of(picture)) == 2
        np.testing.assert_array_equal(engine.the_crop(picture), face.crop)
        assert [found.embedding for found in engine.find(picture)] == [None, None]
        with pytest.raises(SeveralFaces):
            engine.the_crop(picture, "only")
        with pytest.raises(NoFace):
            engine.the_crop(toy_picture())

    def test_faces_of_several_pictures_are_embedded_together(self, pack):
        engine = load_face_engine(f"insightface:{pack}", det_size=192)
        pictures = [toy_picture((32, 32)), toy_picture((96, 64))]
        faces = engine.embed([face for picture in pictures for face in engine.find(picture)])
        for face, picture in zip(faces, pictures):
            np.testing.assert_allclose(face.embedding, engine.detect(picture)[0].embedding, atol=1e-6)

    def test_threads_share_a_long_list(self, pack):
        """A small net's crops are dealt to threads; order and numbers stay."""
        crops = np.random.default_rng(0).integers(0, 255, (70, 112, 112, 3), dtype=np.uint8)
        shared = load_face_engine(f"insightface:{pack}", threads=2)
        alone = load_face_engine(f"insightface:{pack}", threads=1)
        assert shared._encoder._pool is not None and alone._encoder._pool is None
        np.testing.assert_allclose(shared.embed_crops(crops), alone.embed_crops(crops), atol=1e-6)

    def test_degenerate_landmarks(self, tmp_path):
        from face_pack_fixtures import write_detector

        folder = write_pack(tmp_path / "point")
        write_detector(folder / "det.onnx", landmarks=np.full((5, 2), 0.5))
        engine = load_face_engine(f"insightface:{folder}", det_size=192)
        assert engine.crops_of(toy_picture((64, 64))) == []
        for look in (engine.the_face, engine.the_crop):
            with pytest.raises(FaceNotAligned, match="cannot be aligned"):
                look(toy_picture((64, 64)))


def test_gender_and_age_follow_the_answer(tmp_path):
    folder = write_pack(tmp_path / "full")
    write_gender_age(folder / "genderage.onnx", (0.8, 0.2, 0.275))
    face = load_face_engine(f"insightface:{folder}", det_size=192).detect(toy_picture((64, 64)))[0]
    assert (face.gender, face.age) == ("female", 28.0)  # rounded by the host


def test_every_way_to_fail_has_its_kind(tmp_path):
    """Reports count pictures by `kind`, which holds nothing of the single picture."""
    buffer = io.BytesIO()
    Image.fromarray(toy_picture((32, 32))).save(buffer, "JPEG")
    cases = {
        PictureMissing: tmp_path / "absent.jpg",
        NoPicture: b"text",
        PictureDamaged: buffer.getvalue()[: len(buffer.getvalue()) // 2],
        PictureTooLarge: np.zeros((16, 40_000, 3), np.uint8),
        PictureTooSmall: np.zeros((8, 20, 3), np.uint8),
        PictureTooElongated: np.zeros((16, 2000, 3), np.uint8),
        PixelsUnusable: np.full((32, 32, 3), np.nan),
    }
    kinds = set()
    for kind, source in cases.items():
        with pytest.raises(kind) as caught:
            load_picture(source)
        kinds.add(caught.value.kind)
    assert len(kinds | {ImageRejected.kind}) == len(cases) + 1


def test_det_size_is_the_engines_own_in_every_verb():
    """One meaning of one word: where nobody gives it, no verb forces a size of its own."""
    import importlib
    import inspect

    from open_clip_idplugin.cli import VERBS

    defaults = {}
    for name, verb in VERBS.items():
        module, _, function = verb.target.partition(":")
        parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
        if "det_size" in parameters:
            defaults[name] = parameters["det_size"].default
    assert {
        "faces",
        "swap",
        "shards",
        "evaluate",
        "enroll",
        "enroll_folder",
        "enroll_regions",
        "search",
        "serve",
    } <= set(defaults)
    assert set(defaults.values()) == {None}
