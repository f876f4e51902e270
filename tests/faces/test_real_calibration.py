"""Shipped calibrations on real photographs: at one false match rate two face models of different scales say the same."""

import numpy as np
import pytest
from face_engine_fixtures import IDENTIFICATION, cosines, embed_people, needs_dlib, who_is_in, write_mobile_face_net
from real_photos import REAL, needs_real_photos

from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.faces.calibration import FMR_NAMES, FMR_WARNINGS
from open_clip_idplugin.faces.calibration_files import load_calibration

pytestmark = needs_real_photos
STRANGERS = ("detection2", "detection4")


@pytest.fixture(scope="module", params=["onnx", pytest.param("dlib", marks=needs_dlib)])
def engine(request, tmp_path_factory):
    if request.param == "dlib":
        return load_face_engine(f"opencv:{REAL / 'models'}+dlib:hog")
    return load_face_engine(write_mobile_face_net(tmp_path_factory.mktemp("net")))


@pytest.fixture(scope="module")
def people(engine):
    return embed_people(engine)


def test_who_is_named_and_who_is_not(engine, people):
    scale = load_calibration(engine.model_id)
    assert not scale.assumed
    name_from = scale.threshold(FMR_NAMES)
    found = who_is_in(engine, people, "identification1")
    assert {name for name, cosine in found if cosine >= name_from} == IDENTIFICATION
    for scene in STRANGERS:
        assert not [name for name, cosine in who_is_in(engine, people, scene) if cosine >= name_from]


def test_probabilities_part_the_four_from_strangers(engine, people):
    scale = load_calibration(engine.model_id)
    found = who_is_in(engine, people, "identification1")
    faces = np.full(len(found), len(found))
    assert scale.probability(np.array([cosine for _, cosine in found]), faces, 60).min() > 0.5
    for scene in STRANGERS:
        others = np.array([cosine for _, cosine in who_is_in(engine, people, scene)])
        assert scale.probability(others, np.full(len(others), max(len(others), 1)), 60).max(initial=0) < 0.5


def test_nobody_is_warned_of_for_looking_like_another(engine, people):
    """Different people of the folder; one photograph of the daughter's shows somebody else, who is nobody of the others."""
    _, different = cosines(people)
    assert max(different) < load_calibration(engine.model_id).threshold(FMR_WARNINGS)
