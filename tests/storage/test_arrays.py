"""NumPy arrays from outside: what their header claims is compared with what follows."""

import io

import numpy as np
import pytest

from open_clip_idplugin.storage.arrays import read_array


def saved(array, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4), np.float32),
        np.arange(5),
        np.float64(7),
        np.zeros((0, 4), "f2"),
        np.asfortranarray(np.ones((2, 3))),
    ],
)
def test_arrays_are_read_as_they_are(array):
    again = read_array(saved(array))
    np.testing.assert_array_equal(again, array)
    assert again.dtype == np.asarray(array).dtype


def claiming(text: bytes) -> bytes:
    """A header of another shape in the place of (3, 4)."""
    content = saved(np.zeros((3, 4), np.float32))
    return content.replace(b"(3, 4), }" + b" " * (len(text) - 6), text + b", }")


@pytest.mark.parametrize(
    "content",
    [
        claiming(b"(99999999, 99999999)"),
        claiming(b"(12345678901,)"),
        claiming(b"(-1, -12)"),
        saved(np.zeros((3, 4), np.float32))[:-1],
        saved(np.zeros((3, 4), np.float32)) + b"!",
        saved(np.array([object], dtype=object), allow_pickle=True),
        b"",
        b"no array",
        b"\x93NUMPY\x09\x00\x10\x00",
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000,
    ],
)
def test_what_is_no_array_or_claims_more_is_refused(content):
    with pytest.raises(ValueError):
        read_array(content)
