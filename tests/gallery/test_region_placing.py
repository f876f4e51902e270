"""Regions on faces: who is placed, and pictures that are no longer those of their regions."""

import numpy as np
import pytest

from open_clip_idplugin.gallery.region_frames import find_frames, lay
from open_clip_idplugin.gallery.region_placing import CUT, FEW, NO_FACE, SHARED, TURNED, place_regions

SIZE = (800, 534)
FOUR = np.array(  # a family in a row, not quite symmetric
    [[0.26, 0.27, 0.37, 0.45], [0.36, 0.33, 0.51, 0.61], [0.50, 0.40, 0.62, 0.64], [0.63, 0.40, 0.74, 0.61]]
)
NAMES = ["Son", "Dad", "Mom", "Daughter"]


def place(regions, faces, noted=SIZE, stored=SIZE, orientation=1, names=None):
    frames = find_frames(stored, orientation, noted)
    return place_regions((names or NAMES)[: len(regions)], regions, np.asarray(faces), frames)


def cut(boxes: np.ndarray, x: float, y: float, side: float) -> np.ndarray:
    """Where boxes lie after a part of the picture was cut out; those whose middle is outside are gone."""
    moved = (boxes - np.array([x, y, x, y])) / side
    middles = (moved[:, :2] + moved[:, 2:]) / 2
    return moved[((middles > 0) & (middles < 1)).all(axis=1)]


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_each_name_on_its_face(scale, order):
    """Regions of other programs are smaller or larger than a detector's boxes."""
    middles, halves = (FOUR[:, :2] + FOUR[:, 2:]) / 2, (FOUR[:, 2:] - FOUR[:, :2]) / 2 * scale
    found = place(np.hstack([middles - halves, middles + halves]), FOUR[order])
    assert found.faces == {name: order.index(name) for name in range(4)} and not found.reasons


def test_what_lies_on_no_face_or_on_a_taken_one():
    regions = np.vstack([FOUR, FOUR[2:3] + 0.01, [[0.05, 0.05, 0.1, 0.1]]])
    found = place(regions, FOUR, names=[*NAMES, "Aunt", "Ghost"])
    assert found.faces == {0: 0, 1: 1, 3: 3} and found.reasons == {2: SHARED, 4: SHARED, 5: NO_FACE}
    twice = place(regions[:5], FOUR, names=[*NAMES, "Mom"])
    assert twice.faces == {0: 0, 1: 1, 2: 2, 3: 3, 4: 2}  # a region that is written twice


def test_a_box_of_another_size_is_no_face_of_it():
    assert place(np.array([[0.1, 0.1, 0.9, 0.9]]), [[0.48, 0.48, 0.52, 0.52]]).reasons == {0: NO_FACE}


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_copies_that_left_the_regions(orientation):
    """Of an equal ratio: halves and mirrors of any picture, and everything where no dimensions were noted."""
    faces = lay(FOUR, orientation)
    noted = SIZE if orientation < 5 else None
    found = place(FOUR, faces, noted, SIZE if orientation < 5 else SIZE[::-1])
    assert not found.faces and set(found.reasons.values()) == {TURNED}
    square = place(FOUR, faces, (500, 500), (500, 500))
    assert not square.faces and set(square.reasons.values()) == {TURNED}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("upright", [False, True])
def test_the_faces_choose_the_frame_where_the_dimensions_do_not(orientation, upright):
    """Microsoft's regions have no dimensions; both frames are in use."""
    regions = FOUR if upright else np.vstack([lay(FOUR[row : row + 1], _back(orientation)) for row in range(4)])
    stored = SIZE if orientation < 5 else SIZE[::-1]
    assert place(regions, FOUR, None, stored, orientation).faces == {row: row for row in range(4)}


def _back(orientation: int) -> int:
    return {6: 8, 8: 6}.get(orientation, orientation)


@pytest.mark.parametrize(
    ("x", "y", "side"), [(0.15, 0.15, 0.7), (0.0, 0.0, 0.75), (0.25, 0.25, 0.75), (-0.1, -0.2, 1.4)]
)
def test_cut_or_framed_copies_of_an_equal_ratio(x, y, side):
    found = place(FOUR, cut(FOUR, x, y, side))
    assert not found.faces and set(found.reasons.values()) <= {CUT, TURNED}


def test_too_few_regions_on_faces():
    found = place(FOUR, np.vstack([FOUR[:1], FOUR[:1] + [0.3, -0.25, 0.3, -0.25]]))
    assert not found.faces and set(found.reasons.values()) == {FEW}
    half = place(FOUR[:2], np.vstack([FOUR[:1], FOUR[2:3]]))  # one of two, and a face that has no name: a neighbour's?
    assert not half.faces
    assert place(FOUR[:2], FOUR[:1]).faces == {0: 0}  # one of two, and the other was not found


def test_nothing_to_place():
    assert place(FOUR[:0], FOUR).faces == {} and place(FOUR, np.zeros((0, 4))).reasons == dict.fromkeys(
        range(4), NO_FACE
    )


def test_crowds_stay_affordable():
    """Hundreds of regions on as many faces: no pairs of pairs are tried."""
    corners = np.stack(np.meshgrid(np.linspace(0, 0.96, 20), np.linspace(0, 0.96, 20)), -1).reshape(-1, 2)
    crowd = np.hstack([corners, corners + 0.02])
    names = [f"p{number}" for number in range(len(crowd))]
    assert len(place(crowd, crowd[:-1], names=names).faces) == len(crowd) - 1
