"""dlib's nets: how they are found, cut and refused; what they tell of people is in test_real_face_engines."""

import importlib.util
import sys

import numpy as np
import pytest
from face_engine_fixtures import needs_dlib

from open_clip_idplugin.faces import EngineUnknown, PackNotFound, ProviderUnavailable, load_face_engine
from open_clip_idplugin.faces.dlib_models import load_encoder, to_five_points
from open_clip_idplugin.faces.engine import Detection, EngineOptions


@pytest.fixture(scope="module")
def portrait():
    """skimage's free portrait of an astronaut without the flag and the suit, RGB uint8 [256, 256, 3]."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:256, 96:352])


@needs_dlib
class TestNets:
    @pytest.mark.parametrize("name", ["hog", "cnn"])
    def test_one_portrait(self, portrait, name):
        engine = load_face_engine(f"dlib:{name}")
        (face,) = engine.detect(portrait)
        assert face.crop.shape == (150, 150, 3) and face.embedding.shape == (128,) and 0.5 < face.score <= 1
        left, right, nose, mouth_left, mouth_right = face.landmarks
        assert left[0] < nose[0] < right[0] and mouth_left[0] < mouth_right[0]
        assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
        assert (face.landmarks > face.box[:2]).all() and (face.landmarks < face.box[2:]).all()

    def test_crops_and_numbers_are_dlibs(self, portrait):
        """The same as dlib gives when it is called as its examples do."""
        import dlib

        engine = load_face_engine("dlib:hog")
        (face,) = engine.detect(portrait)
        encoder = engine._encoder
        x0, y0, x1, y1 = (round(float(value)) for value in face.box)
        shape = encoder._predictor(portrait, dlib.rectangle(x0, y0, x1 - 1, y1 - 1))
        theirs = np.asarray(encoder._net.compute_face_descriptor(portrait, shape, 0, 0.25))
        np.testing.assert_allclose(face.embedding, theirs / np.linalg.norm(theirs), atol=1e-4)

    def test_batched(self, portrait):
        engine = load_face_engine("dlib:hog")
        (face,) = engine.detect(portrait)
        crops = [face.crop, face.crop[:, ::-1], face.crop]
        rows = engine.embed_crops(crops)
        np.testing.assert_allclose(rows[0], rows[2], atol=1e-6)
        for crop, row in zip(crops, rows):
            np.testing.assert_allclose(engine.embed_crops([crop])[0], row, atol=1e-5)

    def test_the_name_of_the_detector_is_no_part_of_the_model(self):
        ids = {load_encoder(name, EngineOptions()).model_id for name in ("hog", "cnn")}
        assert len(ids) == 1 and ids.pop().startswith("dlib:dlib_face_recognition_resnet_model_v1-")

    @pytest.mark.parametrize("box", [[np.nan, 0, 9, 9], [10, 10, 10, 10], [20, 20, 10, 10], [0, 0, 1e9, 1e9]])
    def test_faces_that_cannot_be_cut(self, portrait, box):
        found = Detection(np.array(box, np.float32), np.zeros((5, 2), np.float32), 0.9)
        assert load_encoder("hog", EngineOptions()).align(portrait, found) is None

    def test_options_that_it_has_not(self):
        with pytest.raises(EngineUnknown, match=r"no face detector 'x'; give dlib:hog .fast. or dlib:cnn"):
            load_face_engine("dlib:x")
        with pytest.raises(ProviderUnavailable, match="CPUExecutionProvider too"):
            load_face_engine("dlib:hog", providers=["CUDAExecutionProvider"])

    def test_the_package_is_not_imported_and_the_68_points_not_read(self, portrait, monkeypatch):
        """Its module needs an old setuptools; the predictor of 68 points may not be used commercially."""
        opened = []
        monkeypatch.delitem(sys.modules, "face_recognition_models", raising=False)
        import dlib

        original = dlib.shape_predictor
        monkeypatch.setattr(dlib, "shape_predictor", lambda path: opened.append(path) or original(path))
        load_face_engine("dlib:hog").detect(portrait)
        assert "face_recognition_models" not in sys.modules
        assert len(opened) == 2 and all(path.endswith("shape_predictor_5_face_landmarks.dat") for path in opened)


class TestMissing:
    def test_without_the_packages(self, monkeypatch):
        found = importlib.util.find_spec
        for missing in ("dlib", "face_recognition_models"):

            def without(name, package=None, missing=missing):
                return None if name == missing else found(name, package) or found("json")

            monkeypatch.setattr(importlib.util, "find_spec", without)
            with pytest.raises(PackNotFound, match=r"pip install 'open-clip-idplugin\[dlib\]'"):
                load_encoder("hog", EngineOptions())


def test_five_points_turn_with_the_face():
    """Corners of the eyes and base of the nose -> ArcFace's reference face, turned and scaled as a whole."""
    from insightface.utils.face_align import arcface_dst

    eyes = [(48, 53), (36, 53), (-24 + 0, 53), (-12 + 0, 53)]  # corners, the right eye first
    upright = np.array([*eyes, (12, 80)], float)
    angle, scale = np.deg2rad(30), 2.5
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(to_five_points(upright @ turn + 7), to_five_points(upright) @ turn + 7, atol=1e-3)
    distance = 36.03  # with ArcFace's own eyes the rest falls on its reference points
    points = np.array([(74, 51.6), (74, 51.6), (38, 51.6), (38, 51.6), (56.46, 81.62)], float)
    found = to_five_points(points)
    np.testing.assert_allclose(found[2:], arcface_dst[2:], atol=0.05 * distance)
