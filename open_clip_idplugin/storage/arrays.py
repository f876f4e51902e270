"""NumPy arrays from outside: bytes -> array, where the header claims no more than follows it; never unpickled."""

import io
import math

import numpy as np


def read_array(content: bytes) -> np.ndarray:
    """The array of the bytes of a `.npy` file.

    Raises ValueError for what is none, holds objects, or claims another size than it has: numpy would take memory for the
    claim first.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its NumPy format {version} is not read here")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if (
        dtype.hasobject
        or math.prod(shape) * dtype.itemsize != len(content) - stream.tell()
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"its header claims {list(shape)} numbers of {dtype}, which it does not hold")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
