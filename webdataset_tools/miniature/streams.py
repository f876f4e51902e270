"""Independent random streams: (seed, labels) -> numpy Generator.

Role: each property of a person or scene draws from a stream of its own, so that adding or changing one property can never
shift another (a stream shared by gender and scene once made captions disagree with pixels).
"""

import zlib

import numpy as np


def stream(seed: int, *labels: str | int) -> np.random.Generator:
    """Return the generator of the property that `labels` name, for the object that `seed` (>= 0) names."""
    keys = tuple(label if isinstance(label, int) else zlib.crc32(label.encode()) for label in labels)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=keys)))
