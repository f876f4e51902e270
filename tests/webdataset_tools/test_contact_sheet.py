"""The drawing of contact sheets: where pictures and labels lie, whatever their sizes."""

import numpy as np

from webdataset_tools.contact_sheet import Cell, draw_sheet, in_rows

RED, GREEN = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 200, 0)))


def test_pictures_lie_in_a_grid():
    sheet = draw_sheet([[Cell(RED), Cell(GREEN)], [Cell(None), Cell(RED)], [Cell(GREEN)]], 8)
    assert sheet.shape == (3 * 12 + 4, 2 * 12 + 4, 3)
    for (line, column), picture in {(0, 0): RED, (0, 1): GREEN, (1, 1): RED, (2, 0): GREEN}.items():
        y, x = line * 12 + 4, column * 12 + 4
        np.testing.assert_array_equal(sheet[y : y + 8, x : x + 8], picture)
    assert (sheet[16:24, 4:12] == 255).all() and (sheet[28:, 16:] == 255).all()


def test_a_picture_keeps_its_shape_and_label():
    wide = np.zeros((100, 200, 3), np.uint8)
    sheet = draw_sheet([[Cell(wide, "n000001"), Cell(wide)]], 40)
    assert sheet.shape == (16 + 40 + 8, 2 * 44 + 4, 3)
    dark = (sheet < 100).all(axis=2)
    assert dark[20:40, 4:44].all() and not dark[40:].any()
    assert dark[4:20, 4:44].any() and not dark[4:20, 48:].any()


def test_a_small_picture_is_enlarged():
    assert (draw_sheet([[Cell(RED)]], 32)[4:36, 4:36] == (200, 0, 0)).all()


def test_nothing_to_show():
    assert (draw_sheet([], 8) == 255).all()


def test_rows():
    cells = [Cell(RED)] * 5
    assert [len(row) for row in in_rows(cells, 2)] == [2, 2, 1]
