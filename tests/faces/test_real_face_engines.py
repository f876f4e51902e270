"""Real face models on real photographs: each engine tells the people apart, on its own scale."""

import numpy as np
import pytest
from face_engine_fixtures import IDENTIFICATION, cosines, embed_people, needs_dlib, who_is_in, write_mobile_face_net
from real_photos import needs_real_photos

from open_clip_idplugin.faces import load_face_engine

pytestmark = needs_real_photos
STRANGERS = ("detection2", "detection4")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return write_mobile_face_net(tmp_path_factory.mktemp("net"))


class TestYuNetAndMobileFaceNet:
    """The figures of the photographs' own README."""

    @pytest.fixture(scope="class")
    def engine(self, spec):
        return load_face_engine(spec)

    @pytest.fixture(scope="class")
    def people(self, engine):
        return embed_people(engine)

    def test_cosines(self, people):
        same, different = cosines(people)
        odd = same.pop("Family1-Daughter")  # one of her three photographs looks like another girl
        assert all(0.65 <= value <= 0.86 for values in same.values() for value in values)
        assert max(odd) > 0.6 and max(different) < 0.4 and abs(np.mean(different)) < 0.1

    def test_the_four_of_one_picture(self, engine, people):
        found = who_is_in(engine, people, "identification1")
        assert {name for name, _ in found} == IDENTIFICATION and min(cosine for _, cosine in found) > 0.55

    def test_strangers(self, engine, people):
        for scene in STRANGERS:
            assert all(cosine < 0.42 for _, cosine in who_is_in(engine, people, scene))


@needs_dlib
class TestDlib:
    """Another scale: different people have cosines of 0.84 on average."""

    @pytest.fixture(scope="class")
    def engine(self):
        return load_face_engine("dlib:hog")

    @pytest.fixture(scope="class")
    def people(self, engine):
        return embed_people(engine)

    def test_cosines(self, people):
        same, different = cosines(people)
        assert min(value for values in same.values() for value in values) > max(different)
        assert min(min(values) for values in same.values() if values) > 0.95 and 0.8 < np.mean(different) < 0.88

    def test_the_four_of_one_picture(self, engine, people):
        found = who_is_in(engine, people, "identification1")
        assert {name for name, _ in found} == IDENTIFICATION and min(cosine for _, cosine in found) > 0.95

    def test_strangers(self, engine, people):
        assert all(cosine < 0.92 for _, cosine in who_is_in(engine, people, "detection4"))

    def test_its_encoder_behind_another_detector(self, spec, engine, people):
        """YuNet's boxes reach to the hair; the crops are dlib's own all the same."""
        behind = load_face_engine(f"{spec.partition('+')[0]}+dlib:hog")
        assert behind.model_id == engine.model_id
        for name, rows in embed_people(behind).items():
            assert (rows * people[name]).sum(axis=1).min() > 0.97, name

    def test_its_detector_before_arcface(self, spec):
        """Two corners of each eye and the nose are enough to align ArcFace's way."""
        same, different = cosines(embed_people(load_face_engine(f"dlib:hog+{spec.partition('+')[2]}")))
        assert min(value for values in same.values() for value in values) > max(different) and max(different) < 0.45
