"""Curves of t2i R@1: ranks -> points (x, y); y is a fraction.

Role: how the recall depends on what is searched, as pure functions of the ranks of one run. A smaller gallery is never drawn:
a query whose right image has r better ones among N - 1 others is first in a random part of the gallery exactly if none of
the r is in it, and the points are the exact means over all parts.
"""

from collections.abc import Sequence
from math import lgamma
from typing import TypeAlias

import numpy as np

Points: TypeAlias = list[list[float]]

GALLERY_SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
PIXEL_EDGES = (0, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512)
FEWEST_IMAGES = 10  # in a bin of face heights
MOST_PEOPLE = 5  # of a scene


def gallery_size(ranks: np.ndarray, n_images: int, sizes: Sequence[int] = GALLERY_SIZES) -> Points:
    """R@1 when the right image is searched among a random part of the gallery; x: images in the part, itself included.

    ranks: [Q] int, how many of the whole gallery's images are ranked above the right one.
    """
    wanted = [size for size in sizes if size < n_images] + [n_images]
    return [[float(size), float(_none_drawn(n_images - 1, size - 1, ranks).mean())] for size in wanted]


def people_per_scene(ranks: np.ndarray, rivals: np.ndarray, mates: np.ndarray, most: int = MOST_PEOPLE) -> Points:
    """R@1 when only x of the people of the right image's scene are searched, beside all images of other scenes.

    ranks: [Q] int as above; rivals: [Q] int, those of them that show the same scene; mates: [Q] int, how many others show
    it at all. Scenes with fewer people than x are left out of the point; x ends with the largest scene, `most` at most.
    """
    others_fail = ranks - rivals == 0
    points = []
    for people in range(1, min(most, int(mates.max()) + 1) + 1):
        large = mates >= people - 1
        hits = others_fail[large] * _none_drawn(mates[large], people - 1, rivals[large])
        points.append([float(people), float(hits.mean())])
    return points


def face_pixels(ranks: np.ndarray, heights: np.ndarray, image_of_query: np.ndarray) -> Points:
    """R@1 by the height of the right image's face; x: the mean height of a bin, in pixels.

    heights: [N] float, NaN where not known. Bins with fewer than `FEWEST_IMAGES` images join the next larger one, the last
    one the bin before.
    """
    points = []
    for low, high in _bins(heights):
        inside = (heights >= low) & (heights < high)
        asked = inside[image_of_query]
        if asked.any():
            points.append([round(float(heights[inside].mean()), 2), float((ranks[asked] == 0).mean())])
    return points


def _none_drawn(population: np.ndarray | int, drawn: int, bad: np.ndarray) -> np.ndarray:
    """Probability that none of the `bad` is among `drawn` of `population`, each drawn once."""
    populations = np.broadcast_to(np.asarray(population), bad.shape)
    pairs, inverse = np.unique(np.stack([populations, bad]), axis=1, return_inverse=True)
    values = [_hypergeometric_none(int(size), drawn, int(count)) for size, count in pairs.T]
    return np.asarray(values)[inverse.reshape(-1)]


def _hypergeometric_none(population: int, drawn: int, bad: int) -> float:
    good = population - bad
    if drawn > good:
        return 0.0
    if bad == 0 or drawn == 0:
        return 1.0
    # C(good, drawn) / C(population, drawn)
    logarithm = lgamma(good + 1) - lgamma(good - drawn + 1) - lgamma(population + 1) + lgamma(population - drawn + 1)
    return float(np.exp(min(logarithm, 0.0)))


def _bins(heights: np.ndarray) -> list[tuple[float, float]]:
    known = heights[np.isfinite(heights)]
    bins: list[tuple[float, float]] = []
    low = float(PIXEL_EDGES[0])
    for high in (*map(float, PIXEL_EDGES[1:]), float("inf")):
        if ((known >= low) & (known < high)).sum() >= FEWEST_IMAGES:
            bins.append((low, high))
            low = high
    if bins and (known >= low).any():
        bins[-1] = (bins[-1][0], float("inf"))
    return bins
