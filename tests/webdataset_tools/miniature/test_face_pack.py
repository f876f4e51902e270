"""The shipped pack of drawn faces, and the code that makes it (networks, export, training pictures, measures)."""

import hashlib
import json

import numpy as np
import pytest

from open_clip_idplugin.assets import shipped
from open_clip_idplugin.faces import load_face_engine
from webdataset_tools.miniature import face_measures, face_samples
from webdataset_tools.miniature.drawing import DrawnFace
from webdataset_tools.miniature.face_samples import POOL, UNSEEN, draw_photo, draw_scene_face
from webdataset_tools.miniature.identity_photos import identity_photo
from webdataset_tools.miniature.people import sample_person
from webdataset_tools.miniature.streams import stream

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def engine():
    return load_face_engine("insightface:miniature", threads=1)


class TestShippedPack:
    def test_files(self):
        folder = shipped("miniature_faces")
        manifest = json.loads((folder / "manifest.json").read_text())
        for task in ("detection", "recognition"):
            entry = manifest["tasks"][task]
            assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
        assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
        assert (folder / "MODEL.LICENSE").is_file()
        assert json.loads((folder / "metrics.json").read_text())["training"]["recogniser_steps"] > 0

    def test_insightface_itself_loads_it(self, engine):
        from insightface.app import FaceAnalysis

        host = FaceAnalysis(str(shipped("miniature_faces")), providers=["CPUExecutionProvider"])
        host.prepare(0, det_size=(192, 192))
        picture = identity_photo(sample_person(UNSEEN + 7, POOL), stream(7, "test photo")).picture
        (theirs,), (ours,) = host.get(np.ascontiguousarray(picture[:, :, ::-1])), engine.detect(picture)
        np.testing.assert_array_equal(ours.box, theirs.bbox)
        np.testing.assert_allclose(ours.embedding, theirs.normed_embedding, atol=1e-5)
        assert engine.model_id.startswith("insightface:miniature/recogniser-") and engine.embedding_size == 512

    def test_no_licence_note_for_our_own_weights(self, capsys):
        load_face_engine("insightface:miniature", threads=1)
        assert capsys.readouterr().err == ""

    def test_people_never_seen_are_found_and_told_apart(self, engine):
        """A quick look at what metrics.json holds in full."""
        measures = face_measures.measure_pack(engine, people=40)
        portraits, plain = measures["portraits"], measures["scenes"]["plain"]
        assert portraits["recall"] > 0.9 and portraits["precision"] > 0.9 and portraits["landmark_error"] < 0.06
        assert portraits["rank1"] > 0.9 and portraits["tar"] > 0.85
        assert plain["recall"] > 0.9 and plain["rank1"] > 0.85
        hard = [measures["scenes"][name]["recall"] for name in ("small", "turned", "occluded", "dark", "blurred")]
        assert np.mean(hard) < plain["recall"] - 0.2

    def test_the_larger_of_two_people(self, engine):
        """Two photos side by side: both faces are found, the policy decides."""
        first, second = (identity_photo(sample_person(UNSEEN + n, POOL), stream(n, "pair")) for n in (11, 12))
        faces = engine.detect(np.concatenate([first.picture, second.picture], 1)[:, :384])
        assert len(faces) == 2
        assert engine.the_face(first.picture, "only").score > 0.5


class TestSamples:
    def test_wide_crops_hold_the_aligned_crop(self):
        import cv2
        from insightface.utils import face_align

        from webdataset_tools.miniature.face_recognition_training import place

        drawn = identity_photo(sample_person(3, POOL), stream(3, "crop"))
        wide = face_samples.wide_crop(drawn)
        assert wide.shape == (face_samples.WIDE_SIZE,) * 2 + (3,)
        inner = place(torch.from_numpy(wide[None]), jitter=0.0)[0].permute(1, 2, 0).numpy() * 127.5 + 127.5
        expected = face_align.norm_crop(drawn.picture, drawn.landmarks).astype(float)
        assert np.abs(cv2.blur(inner, (5, 5)) - cv2.blur(expected, (5, 5))).mean() < 4

    def test_pictures_depend_on_their_numbers_only(self):
        person = sample_person(5, POOL)
        for draw in (draw_photo, draw_scene_face):
            first, again, other = draw(person, 5, 1), draw(person, 5, 1), draw(person, 5, 2)
            np.testing.assert_array_equal(first.picture, again.picture)
            assert (first.picture != other.picture).any()

    def test_degraded_crops_stay_in_range(self):
        from webdataset_tools.miniature.face_recognition_training import degrade

        torch.manual_seed(0)
        crops = degrade(torch.rand(64, 3, 112, 112) * 2 - 1)
        assert crops.shape == (64, 3, 112, 112) and crops.abs().max() <= 1 and torch.isfinite(crops).all()


class TestTraining:
    def test_detection_targets(self):
        """One face of an anchor's size: its middle cells learn it, its own ring is ignored, far cells learn nothing."""
        from webdataset_tools.miniature.face_detection_training import _targets

        points = np.array([[40, 50], [70, 50], [55, 65], [43, 80], [67, 80]], np.float32)
        face = np.concatenate([[28, 30, 82, 94], points.ravel(), [1]]).astype(np.float32)[None]
        labels, targets = _targets([face, np.zeros((0, 15), np.float32)], stride=16, side=12, size=54.0)
        labels, targets = labels.view(2, 12, 12), targets.view(2, 12, 12, 14)
        assert labels[0, 4, 3] == 1 and labels[0, 0, 0] == 0 and (labels[0] == -1).any() and (labels[1] == 0).all()
        cell = np.array([3 * 16, 4 * 16])
        np.testing.assert_allclose(targets[0, 4, 3, :4], [48 - 28, 64 - 30, 82 - 48, 94 - 64])
        np.testing.assert_allclose(targets[0, 4, 3, 4:].reshape(5, 2), points - cell)
        face[0, 14] = 0  # not to be learnt: nothing is asked of its cells
        unlearnt, _ = _targets([face], stride=16, side=12, size=54.0)
        assert (unlearnt <= 0).all() and unlearnt.view(12, 12)[4, 3] == -1

    def test_mirrored_landmarks_change_sides(self):
        from webdataset_tools.miniature.face_detection_training import _view
        from webdataset_tools.miniature.face_samples import DetectionSet

        drawn = identity_photo(sample_person(2, POOL), stream(2, "view"))
        parts = (drawn.picture, drawn.box, drawn.landmarks, True)
        data = DetectionSet(*(np.stack([part]) for part in parts))
        rng = np.random.default_rng(0)
        for _ in range(12):
            picture, faces = _view(data, rng)
            assert picture.shape == (192, 192, 3) and faces.shape[1] == 15
            eyes, mouth = faces[:, 4:8].reshape(-1, 2, 2), faces[:, 10:14].reshape(-1, 2, 2)
            assert (eyes[:, 0, 0] < eyes[:, 1, 0]).all() and (mouth[:, 0, 0] < mouth[:, 1, 0]).all()
            assert (faces[:, 0] < faces[:, 2]).all()

    def test_two_steps_and_an_export(self, tmp_path):
        """The networks train, and what they export behaves as in torch at every picture size."""
        import onnxruntime

        from webdataset_tools.miniature.face_detection_training import train_detector
        from webdataset_tools.miniature.face_pack import write_pack
        from webdataset_tools.miniature.face_recognition_training import train_recogniser
        from webdataset_tools.miniature.face_samples import CropSet, DetectionSet

        drawn = [identity_photo(sample_person(n, POOL), stream(n, "tiny")) for n in range(4)]
        parts = (np.stack([getattr(d, name) for d in drawn]) for name in ("picture", "box", "landmarks"))
        data = DetectionSet(*parts, learn=np.array([True, True, True, False]))
        crops = CropSet(np.stack([face_samples.wide_crop(d) for d in drawn]), np.arange(4))
        detector, recogniser = train_detector(data, 2, batch=4), train_recogniser(crops, 2, batch=4)
        write_pack(tmp_path / "tiny", detector, recogniser)
        session = onnxruntime.InferenceSession(tmp_path / "tiny/detector.onnx", providers=["CPUExecutionProvider"])
        for size in ((96, 64), (192, 192)):
            picture = torch.randn(1, 3, *size)
            with torch.no_grad():
                expected = detector(picture)
            for ours, theirs in zip(expected, session.run(None, {"picture": picture.numpy()})):
                np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)
        engine = load_face_engine(f"insightface:{tmp_path / 'tiny'}")
        rows = engine.embed_crops(
            [np.random.default_rng(n).integers(0, 255, (112, 112, 3), np.uint8) for n in range(3)]
        )
        assert rows.shape == (3, 512)


class TestMeasures:
    def test_verification_by_hand(self):
        eye = np.eye(4, dtype=np.float32)
        assert face_measures.verification(eye, eye)["rank1"] == 1.0
        swapped = face_measures.verification(eye[[1, 0, 2, 3]], eye)
        assert swapped["rank1"] == 0.5 and swapped["same"] == 0.5
        missing = eye.copy()
        missing[3] = np.nan
        assert face_measures.verification(missing, eye)["rank1"] == 1.0

    def test_nobody_found(self):
        nobody = np.full((4, 4), np.nan, np.float32)
        assert face_measures.verification(nobody, np.eye(4, dtype=np.float32))["rank1"] is None

    def test_overlap(self):
        assert face_measures.overlap(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
        assert face_measures.overlap(np.array([0, 0, 1, 1]), np.array([5, 5, 6, 6])) == 0

    def test_landmark_error(self):
        truth = DrawnFace(np.zeros((9, 9, 3), np.uint8), np.zeros((5, 2), np.float32), np.array([0, 0, 5, 10.0]))
        from open_clip_idplugin.faces import Face

        face = Face(truth.box, np.ones((5, 2), np.float32) * [3, 4], 0.9, truth.picture, None)
        assert face_measures.landmark_error(face, truth) == pytest.approx(0.5)
