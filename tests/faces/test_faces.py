"""Pictures and face engines: every way a picture or pack can fail, and agreement with the real insightface."""

import io
import json
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from face_pack_fixtures import toy_picture, write_detector, write_gender_age, write_pack, write_recogniser
from PIL import Image

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import (
    Face,
    ImageRejected,
    NoFace,
    PackInvalid,
    PackNotFound,
    SeveralFaces,
    choose_face,
    licences,
    load_face_engine,
    load_picture,
)
from open_clip_idplugin.pictures import bounds

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def ramp() -> np.ndarray:
    """A smooth RGB picture 40 high, 60 wide, none of whose axes or channels may be confused unseen."""
    rows, columns = np.mgrid[:40, :60]
    return np.stack([rows * 6, columns * 4, (rows + columns) * 2], 2).astype(np.uint8)


class TestLoadPicture:
    def test_sources_agree(self, ramp, tmp_path):
        png = saved(Image.fromarray(ramp), "PNG")
        path = tmp_path / "ramp.png"
        path.write_bytes(png)
        for source in (png, path, str(path), Image.fromarray(ramp), ramp, ramp[::-1][::-1]):
            picture = load_picture(source)
            assert picture.dtype == np.uint8 and picture.flags.c_contiguous
            np.testing.assert_array_equal(picture, ramp)

    def test_exif_orientation(self, ramp):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
        picture = load_picture(saved(Image.fromarray(ramp), "PNG", exif=exif))
        np.testing.assert_array_equal(picture, np.rot90(ramp, -1))

    def test_sixteen_bit_is_scaled(self, ramp):
        grey = ramp[:, :, 0]
        wide = grey.astype(np.uint16) * 257
        for source in (saved(Image.fromarray(wide), "PNG"), wide, np.repeat(wide[:, :, None], 3, 2)):
            np.testing.assert_array_equal(load_picture(source), np.repeat(grey[:, :, None], 3, 2))
        np.testing.assert_array_equal(load_picture(Image.fromarray(wide.astype(np.int32)))[:, :, 1], grey)

    def test_alpha_is_composited_on_white(self, ramp):
        rgba = np.dstack([ramp, np.zeros(ramp.shape[:2], np.uint8)])
        rgba[:20, :, 3] = 255
        for source in (rgba, saved(Image.fromarray(rgba), "PNG")):
            picture = load_picture(source)
            np.testing.assert_array_equal(picture[:20], ramp[:20])
            assert (picture[20:] == 255).all()
        palette = Image.fromarray(ramp).quantize(8)
        palette.info["transparency"] = 0
        assert load_picture(palette).shape == ramp.shape

    def test_other_colour_modes(self, ramp):
        flat = Image.new("RGB", (32, 32), (200, 30, 60))
        assert np.abs(load_picture(saved(flat.convert("CMYK"), "JPEG")).astype(int) - (200, 30, 60)).max() < 12
        assert load_picture(saved(flat.convert("L"), "JPEG")).shape == (32, 32, 3)
        assert load_picture(flat.convert("1")).shape == (32, 32, 3)

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
        for kind in ("GIF", "WEBP"):
            options = {"lossless": True} if kind == "WEBP" else {}
            content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            assert tuple(load_picture(content)[5, 5]) == (255, 0, 0)

    def test_float_arrays(self, ramp):
        np.testing.assert_array_equal(load_picture(ramp / 255.0), ramp)
        np.testing.assert_array_equal(load_picture((ramp / 255.0).astype(np.float32)), ramp)

    @pytest.mark.parametrize(
        ("array", "reason"),
        [
            (np.full((32, 32, 3), np.nan), "not finite"),
            (np.full((32, 32, 3), 200.0), "floats must lie in"),
            (np.zeros((32, 32, 3), np.int64), "uint8, uint16 or floats"),
            (np.zeros((3, 32, 32), np.uint8), r"\[H, W, 3\]"),
            (np.zeros((8, 32, 3), np.uint8), "too small"),
            (np.zeros((16, 2000, 3), np.uint8), "too elongated"),
            (np.zeros((1, 32, 32, 3), np.uint8), "must be"),
        ],
    )
    def test_arrays_refused(self, array, reason):
        with pytest.raises(ImageRejected, match=reason):
            load_picture(array)

    def test_truncated_and_damaged_files(self, ramp, tmp_path):
        jpeg = saved(Image.fromarray(ramp).resize((256, 256)), "JPEG")
        with pytest.raises(ImageRejected, match="truncated"):
            load_picture(jpeg[: len(jpeg) // 2])
        with pytest.raises(ImageRejected, match="no picture in a known format"):
            load_picture(b"not a picture at all")
        with pytest.raises(ImageRejected, match="no picture in a known format"):
            load_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n")
        with pytest.raises(ImageRejected, match="does not exist"):
            load_picture(tmp_path / "absent.jpg")
        with pytest.raises(ImageRejected, match="cannot be opened"):
            load_picture(tmp_path)
        with pytest.raises(ImageRejected, match="give a path, bytes"):
            load_picture(None)

    def test_bombs_are_refused_before_decoding(self, monkeypatch):
        bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
        assert len(bomb) < 100_000
        small = saved(Image.new("L", (200, 200)), "PNG")
        monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
        with pytest.raises(ImageRejected, match="million pixels"):
            load_picture(bomb)
        monkeypatch.setattr(bounds, "MAX_PIXELS", 10_000)
        with pytest.raises(ImageRejected, match="million pixels"):
            load_picture(small)
        monkeypatch.undo()
        with pytest.raises(ImageRejected, match="32767"):
            load_picture(Image.new("1", (600, 40_000)))

    def test_rejections_survive_pickling(self):
        error = pickle.loads(pickle.dumps(ImageRejected("'a.jpg'", "it is too small")))
        assert (
            str(error) == "The picture 'a.jpg' cannot be used: it is too small." and error.reason == "it is too small"
        )
        assert isinstance(error, IdClipError)


def face_at(x0: float, y0: float, x1: float, y1: float, embedded: bool = True) -> Face:
    """A face with this box."""
    embedding = np.eye(4, dtype=np.float32)[0] if embedded else None
    box = np.array([x0, y0, x1, y1], np.float32)
    return Face(box, np.zeros((5, 2), np.float32), 0.9, np.zeros((112, 112, 3), np.uint8), embedding)


class TestChooseFace:
    def test_policies(self):
        small_middle, large_corner = face_at(45, 45, 55, 55), face_at(0, 0, 30, 30)
        faces = [small_middle, large_corner]
        assert choose_face(faces, 100, 100) is large_corner
        assert choose_face(faces, 100, 100, "center") is small_middle
        assert choose_face([large_corner], 100, 100, "only") is large_corner
        with pytest.raises(SeveralFaces, match="shows 2 faces"):
            choose_face(faces, 100, 100, "only")
        with pytest.raises(IdClipError, match="largest, center, only"):
            choose_face(faces, 100, 100, "biggest")

    def test_faces_without_an_embedding_do_not_count(self):
        whole, broken = face_at(0, 0, 10, 10), face_at(0, 0, 90, 90, embedded=False)
        assert choose_face([broken, whole], 100, 100, "only") is whole
        with pytest.raises(NoFace, match="cannot be aligned"):
            choose_face([broken], 100, 100)
        with pytest.raises(NoFace, match="no face was found"):
            choose_face([], 100, 100)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("packs") / "toy")


@pytest.fixture(scope="module")
def engine(pack):
    return load_face_engine(f"insightface:{pack}", det_size=192, providers=["CPUExecutionProvider"], threads=1)


class TestEngine:
    def test_one_face(self, engine):
        (face,) = engine.detect(toy_picture((64, 96)))
        np.testing.assert_allclose(face.box, [64, 96, 96, 128], atol=1e-3)
        assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float32
        assert face.crop.shape == (112, 112, 3) and face.crop.dtype == np.uint8
        assert face.embedding.shape == (512,) and face.embedding.dtype == np.float32
        assert abs(np.linalg.norm(face.embedding) - 1) < 1e-5 and 0.5 < face.score <= 1
        assert face.gender is None and face.age is None
        assert tuple(face.crop[20, 56]) == (255, 0, 255)  # RGB
        assert engine.embedding_size == 512

    def test_equals_insightface_bit_for_bit(self, engine, pack):
        from insightface.app import FaceAnalysis

        host = FaceAnalysis(str(pack), providers=["CPUExecutionProvider"])
        host.prepare(0, det_size=(192, 192))
        for picture in (toy_picture((32, 32), (96, 64)), toy_picture((64, 128)), toy_picture((32, 64))[:160]):
            ours, theirs = engine.detect(picture), host.get(np.ascontiguousarray(picture[:, :, ::-1]))
            assert len(ours) == len(theirs) > 0
            for face, other in zip(ours, theirs):
                np.testing.assert_array_equal(face.box, other.bbox)
                np.testing.assert_array_equal(face.landmarks, other.kps)
                np.testing.assert_allclose(face.embedding, other.normed_embedding, atol=1e-6)

    def test_one_recogniser_run_over_all_pictures(self, engine, monkeypatch):
        sizes = []
        encode = engine._encoder.encode
        monkeypatch.setattr(engine._encoder, "encode", lambda crops: sizes.append(len(crops)) or encode(crops))
        pictures = [toy_picture((32, 32), (96, 64)), toy_picture(), toy_picture((64, 96))]
        many = engine.detect_many(pictures)
        assert sizes == [3] and [len(faces) for faces in many] == [2, 0, 1]
        np.testing.assert_allclose(many[2][0].embedding, engine.detect(pictures[2])[0].embedding, atol=1e-6)
        assert engine.detect_many([]) == []

    def test_embed_crops(self, engine):
        faces = engine.detect(toy_picture((32, 32), (96, 64)))
        rows = engine.embed_crops(np.stack([face.crop for face in faces]))
        np.testing.assert_allclose(rows, np.stack([face.embedding for face in faces]), atol=1e-6)
        assert engine.embed_crops([]).shape == (0, 512)
        with pytest.raises(IdClipError, match="square RGB uint8"):
            engine.embed_crops([np.zeros((112, 112, 3), np.float32)])

    def test_the_face(self, engine):
        assert engine.the_face(toy_picture((64, 64)), "only").box[0] == pytest.approx(64)
        with pytest.raises(SeveralFaces):
            engine.the_face(toy_picture((32, 32), (96, 64)), "only")
        with pytest.raises(NoFace):
            engine.the_face(toy_picture())
        with pytest.raises(ImageRejected):
            engine.the_face(b"nothing")

    def test_threads_get_identical_results(self, engine):
        picture = toy_picture((32, 32), (96, 64))
        expected = engine.detect(picture)[0].embedding
        results = []
        threads = [threading.Thread(target=lambda: results.append(engine.detect(picture)[0])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 8 and all((face.embedding == expected).all() for face in results)

    def test_fixed_batch_and_other_sizes(self, tmp_path, engine):
        picture = toy_picture((32, 32), (96, 64), (64, 128))
        for batch in (1, 2):
            fixed = load_face_engine(f"insightface:{write_pack(tmp_path / f'fixed{batch}', batch=batch)}", det_size=192)
            for face, other in zip(fixed.detect(picture), engine.detect(picture)):
                np.testing.assert_allclose(face.embedding, other.embedding, atol=1e-6)
        small = load_face_engine(f"insightface:{write_pack(tmp_path / 'small', size=128, side=128)}", det_size=192)
        face = small.detect(picture)[0]
        assert face.crop.shape == (128, 128, 3) and small.embedding_size == 128 == len(face.embedding)

    def test_gender_and_age(self, tmp_path):
        write_gender_age(write_pack(tmp_path / "full") / "genderage.onnx")
        face = load_face_engine(f"insightface:{tmp_path / 'full'}", det_size=192).detect(toy_picture((64, 64)))[0]
        assert (face.gender, face.age) == ("male", 42.0)

    def test_degenerate_landmarks_give_no_embedding(self, tmp_path):
        for name, points in (("point", np.full((5, 2), 0.5)), ("nan", np.full((5, 2), np.nan))):
            write_pack(tmp_path / name)
            write_detector(tmp_path / name / "det.onnx", landmarks=points)
            engine = load_face_engine(f"insightface:{tmp_path / name}", det_size=192)
            (face,) = engine.detect(toy_picture((64, 64)))
            assert face.embedding is None and face.crop.shape == (112, 112, 3)

    def test_broken_numbers(self, tmp_path):
        for name, scale in (("zero", 0.0), ("infinite", np.inf)):
            engine = load_face_engine(f"insightface:{write_pack(tmp_path / name, scale=scale)}", det_size=192)
            (face,) = engine.detect(toy_picture((64, 64)))
            assert face.embedding is None
            with pytest.raises(PackInvalid, match="no usable numbers for 1 of 1"):
                engine.embed_crops([face.crop])


class TestPacks:
    def test_missing_packs_never_reach_the_network(self, tmp_path, monkeypatch):
        import socket

        monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("network used"))
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(
            PackNotFound, match=r"models/buffalo_l; `idclip models get buffalo_l --accept_licence` fetches"
        ):
            load_face_engine()
        with pytest.raises(PackNotFound, match="does not exist; give the folder"):
            load_face_engine(f"insightface:{tmp_path}/absent")

    def test_bare_names_are_looked_up_in_insightfaces_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        write_pack(tmp_path / "mine")
        with pytest.raises(PackNotFound, match=r"write \./mine"):
            load_face_engine("insightface:mine")
        assert load_face_engine("insightface:./mine", det_size=192).model_id.startswith("insightface:mine/rec-")
        write_pack(tmp_path / ".insightface/models/mine", seed=1)
        assert load_face_engine("insightface:mine").model_id != load_face_engine("insightface:./mine").model_id

    def test_model_id_follows_the_weights(self, tmp_path):
        ids = set()
        for folder, seed in (("a/toy", 0), ("b/toy", 0), ("c/toy", 1)):
            ids.add(load_face_engine(f"insightface:{write_pack(tmp_path / folder, seed=seed)}").model_id)
        assert len(ids) == 2

    def test_incomplete_packs(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(PackInvalid, match=r"holds no \.onnx file; unpack"):
            load_face_engine(f"insightface:{tmp_path / 'empty'}")
        write_pack(tmp_path / "nested/nested")
        with pytest.raises(PackInvalid, match="nested/nested, move them up"):
            load_face_engine(f"insightface:{tmp_path / 'nested'}")
        write_recogniser(tmp_path / "blind/rec.onnx")
        with pytest.raises(PackInvalid, match="holds no detector"):
            load_face_engine(f"insightface:{tmp_path / 'blind'}")
        write_detector(tmp_path / "mute/det.onnx")
        with pytest.raises(PackInvalid, match="holds no recogniser"):
            load_face_engine(f"insightface:{tmp_path / 'mute'}")
        write_pack(tmp_path / "flat")
        write_detector(tmp_path / "flat/det.onnx", outputs=6)
        with pytest.raises(PackInvalid, match="gives no landmarks"):
            load_face_engine(f"insightface:{tmp_path / 'flat'}")

    def test_garbage_models(self, tmp_path):
        write_pack(tmp_path / "garbage")
        (tmp_path / "garbage/extra.onnx").write_bytes(b"no protobuf")
        with pytest.raises(PackInvalid, match=r"extra\.onnx cannot be read as ONNX"):
            load_face_engine(f"insightface:{tmp_path / 'garbage'}")
        write_pack(tmp_path / "cut")
        whole = (tmp_path / "cut/rec.onnx").read_bytes()
        (tmp_path / "cut/rec.onnx").write_bytes(whole.replace(b"AveragePool", b"NoSuchThing"))
        with pytest.raises(PackInvalid, match=r"rec\.onnx cannot be loaded"):
            load_face_engine(f"insightface:{tmp_path / 'cut'}")

    def test_models_that_are_not_needed_are_left_alone(self, tmp_path):
        """A swapper in the folder breaks insightface's own loading; landmark models only cost time."""
        import onnx

        folder = write_pack(tmp_path / "swap")
        swapper = onnx.load(folder / "rec.onnx")
        for dimension in swapper.graph.input[0].type.tensor_type.shape.dim[2:4]:
            dimension.dim_value = 128
        swapper.graph.input.append(onnx.helper.make_tensor_value_info("source", onnx.TensorProto.FLOAT, [1, 512]))
        onnx.save(swapper, folder / "inswapper_128.onnx")
        assert len(load_face_engine(f"insightface:{folder}", det_size=192).detect(toy_picture((64, 64)))) == 1

    def test_manifest_is_enforced(self, tmp_path):
        import hashlib

        folder = write_pack(tmp_path / "sealed")
        files = {"detection": "det.onnx", "recognition": "rec.onnx"}
        tasks = {
            task: {"file": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
            for task, name in files.items()
        }
        manifest = {"manifest_version": 2, "model_id": "sealed", "license": "MODEL.LICENSE", "tasks": tasks}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert len(load_face_engine(f"insightface:{folder}", det_size=192).detect(toy_picture((64, 64)))) == 1
        write_recogniser(folder / "rec.onnx", seed=7)
        with pytest.raises(PackInvalid, match="SHA-256 mismatch"):
            load_face_engine(f"insightface:{folder}")

    def test_options(self, pack):
        with pytest.raises(IdClipError, match="insightface:<pack>"):
            load_face_engine("buffalo_l")
        with pytest.raises(IdClipError, match="multiple of 32"):
            load_face_engine(f"insightface:{pack}", det_size=200)
        with pytest.raises(IdClipError, match="at least 1"):
            load_face_engine(f"insightface:{pack}", threads=0)
        with pytest.raises(IdClipError, match="no provider NoSuchProvider"):
            load_face_engine(f"insightface:{pack}", providers=["NoSuchProvider"])
        engine = load_face_engine(f"insightface:{pack}", threads=1)
        assert engine._encoder._model.session.get_session_options().intra_op_num_threads == 1

    def test_licence_is_printed_once(self, tmp_path, capsys):
        folder = write_pack(tmp_path / "buffalo_l")
        for _ in range(2):
            load_face_engine(f"insightface:{folder}")
        told = capsys.readouterr().err
        assert told.count("for non-commercial research only") == 2
        assert told.count("detector 'det' of the pack 'buffalo_l'") == told.count("recogniser 'rec' of the pack") == 1

    def test_licences_are_of_the_files_that_were_opened(self, tmp_path, capsys, monkeypatch):
        """Nothing is said of the half of a pack that is not used, nor of insightface for a pack of somebody else."""
        monkeypatch.setattr(licences, "_said", set())
        own, theirs = write_pack(tmp_path / "own"), write_pack(tmp_path / "antelopev2")
        load_face_engine(f"insightface:{theirs}+insightface:{own}")
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("Face detector 'det' of the pack 'antelopev2': insightface's model packs")
        assert second == "Face recogniser 'rec' of the pack 'own': its licence is its makers'; see it before any use."
        load_face_engine(f"insightface:{write_pack(tmp_path / 'miniature')}")  # not the shipped one, by that name
        assert "of the pack 'miniature': its licence is its makers'" in capsys.readouterr().err


def test_importing_faces_is_cheap():
    """The package itself brings in no face library."""
    code = (
        "import sys, open_clip_idplugin.faces;"
        "print([m for m in ('insightface', 'onnxruntime', 'cv2', 'torch', 'open_clip') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
