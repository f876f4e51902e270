"""Faces under names that belong to somebody else: compared with the other photos and with the gallery."""

import numpy as np
import pytest

from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.region_faces import NamedFace
from open_clip_idplugin.gallery.region_identity import LIKE_ANOTHER, UNLIKE_OTHERS, check_identities
from open_clip_idplugin.gallery.rows import PhotoFace

MODEL = "tests:unmeasured"  # ArcFace's scale is assumed
PEOPLE = dict(zip(("Ada", "Bob", "Eve"), np.linalg.qr(np.random.default_rng(3).normal(size=(32, 3)))[0].T))


def face(name: str, whose: str, number: int = 0, confirmed: bool = False) -> NamedFace:
    """A photo of `whose` under `name`: two photos of one person have a cosine of about 0.7."""
    noise = np.random.default_rng([number, *whose.encode()]).normal(size=32)
    row = PEOPLE[whose] + 0.65 * noise / np.linalg.norm(noise)
    return NamedFace(name, f"{number}.jpg", PhotoFace("", (row / np.linalg.norm(row)).astype(np.float32)), confirmed)


def judged(faces, gallery):
    kept, left = check_identities(faces, gallery, MODEL)
    assert len(kept) + len(left) == len(faces)
    return kept, {skip.key: skip.reason for skip in left}


@pytest.fixture
def gallery(tmp_path):
    return Gallery(tmp_path / "g.sqlite")


def enroll(gallery, *names):
    for name in names:
        gallery.enroll(name, PEOPLE[name], MODEL)


def test_people_who_agree_are_kept(gallery):
    faces = [face(name, name, number) for name in PEOPLE for number in range(4)]
    assert judged(faces, gallery) == (faces, {})
    assert judged([], gallery) == ([], {})


def test_one_photo_each_has_nothing_to_be_compared_with(gallery):
    faces = [face("Ada", "Bob"), face("Bob", "Ada", 1)]
    assert judged(faces, gallery)[0] == faces


def test_the_gallery_knows_better(gallery):
    enroll(gallery, "Ada", "Bob")
    kept, left = judged(
        [face("Ada", "Bob"), face("Eve", "Ada", 1), face("Bob", "Bob", 2), face("Eve", "Eve", 3)], gallery
    )
    assert left == {"Ada/0.jpg": LIKE_ANOTHER, "Eve/1.jpg": LIKE_ANOTHER}
    assert [one.key for one in kept] == ["2.jpg", "3.jpg"]


def test_an_alias_is_the_same_person(gallery):
    enroll(gallery, "Ada")
    gallery.add_alias("Ada", "Countess")
    assert not judged([face("countess", "Ada")], gallery)[1]


def test_a_stranger_under_an_enrolled_name(gallery):
    enroll(gallery, "Ada")
    assert judged([face("Ada", "Eve")], gallery)[1] == {"Ada/0.jpg": UNLIKE_OTHERS}


def test_the_majority_of_the_photos_knows_better(gallery):
    right = [face(name, name, number) for name in ("Ada", "Bob") for number in range(2)]
    kept, left = judged([*right, face("Ada", "Bob", 5), face("Bob", "Ada", 6)], gallery)
    assert kept == right and left == {"Ada/5.jpg": LIKE_ANOTHER, "Bob/6.jpg": LIKE_ANOTHER}


def test_one_word_against_another_is_believed_in_neither(gallery):
    """A right photo and a copy with the names exchanged."""
    faces = [face("Ada", "Ada", 0), face("Bob", "Bob", 1), face("Ada", "Bob", 2), face("Bob", "Ada", 3)]
    assert judged(faces, gallery)[0] == []


def test_a_keyword_confirms_an_unlike_photo_but_no_face_of_another(gallery):
    """The only face of a picture whose keywords name the same person."""
    odd = face("Ada", "Eve", 9, confirmed=True)
    assert judged([face("Ada", "Ada", 0), face("Ada", "Ada", 1), odd], gallery)[0][-1] is odd
    enroll(gallery, "Eve")
    assert judged([face("Ada", "Ada", 0), face("Ada", "Ada", 1), odd], gallery)[1] == {"Ada/9.jpg": LIKE_ANOTHER}


def test_limits_are_the_face_model_s_own(gallery, monkeypatch):
    """On a scale where different people have cosines around 0.84, half of that says nothing."""
    shipped = load_calibration("dlib:dlib_face_recognition_resnet_model_v1")
    assert not shipped.assumed
    monkeypatch.setattr("open_clip_idplugin.gallery.region_identity.load_calibration", lambda _: shipped)
    monkeypatch.setattr("open_clip_idplugin.gallery.likeness.load_calibration", lambda _: shipped)
    enroll(gallery, "Bob")
    assert not judged([face("Ada", "Bob")], gallery)[1]  # a cosine of 0.8 with Bob: a stranger's, here
