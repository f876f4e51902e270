"""Strata: what is noted of each image -> labels by which results are split.

Role: columns of labels, "" where nothing is known, and the order in which labels are shown.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

FACE, DETECTED, MISSED = "face", "detected", "missed"
FACE_PIXELS, FACING = "face_pixels", "facing"
PIXEL_STEPS = (20, 40, 60)  # heights of a face at which a label ends
SIDEWAYS, AWAY = 45.0, 65.0  # degrees of a head's turn


def detection_labels(detected: np.ndarray) -> tuple[str, ...]:
    """[N] bool -> detected or missed."""
    return tuple(DETECTED if found else MISSED for found in detected)


def pixel_labels(heights: np.ndarray) -> tuple[str, ...]:
    """Heights of faces [N] in pixels, NaN where not known -> "<20", "20-39", "40-59", ">=60"."""
    return tuple(_pixel_label(float(height)) if np.isfinite(height) else "" for height in heights)


def facing_labels(turns: Sequence[float]) -> tuple[str, ...]:
    """Turns of heads in degrees (0 looks into the camera), NaN where not known -> camera, sideways (from 45), away (from 65)."""
    return tuple(_facing_label(abs(turn)) if np.isfinite(turn) else "" for turn in turns)


def recalls_by_stratum(
    ranks: np.ndarray, image_of_query: np.ndarray, groups: Mapping[str, Sequence[str]], ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    """`"column=label"` -> the numbers of `images` and `queries` and `t2i_R@k`; ranks [Q] int of the right images."""
    strata = {}
    for column, labels in groups.items():
        label_of_image = np.asarray(labels)
        for label in sorted(set(labels) - {""}, key=_order):
            chosen = label_of_image[image_of_query] == label
            if chosen.any():
                counts = {"images": int((label_of_image == label).sum()), "queries": int(chosen.sum())}
                recalls = {f"t2i_R@{k}": float((ranks[chosen] < k).mean()) for k in ks}
                strata[f"{column}={label}"] = counts | recalls
    return strata


def _pixel_label(height: float) -> str:
    if height < PIXEL_STEPS[0]:
        return f"<{PIXEL_STEPS[0]}"
    for low, high in pairwise(PIXEL_STEPS):
        if height < high:
            return f"{low}-{high - 1}"
    return f">={PIXEL_STEPS[-1]}"


def _facing_label(turn: float) -> str:
    return "camera" if turn < SIDEWAYS else "sideways" if turn < AWAY else "away"


def _order(label: str) -> tuple[float, str]:
    """Labels with numbers by number, "<20" before "20-39"; words by the alphabet."""
    number = re.search(r"\d+", label)
    return (float(number[0]) - 0.5 * label.startswith("<") if number else float("inf"), label)
