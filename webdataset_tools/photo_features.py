"""Features of photos: identity photos or face crops -> what image search by a face photo asks with.

Input: files of identity photos, or the face crops that shards carry; output: image features, one row for each image of the set.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from open_clip_idplugin.evaluation.protocols import EvaluationSet
from open_clip_idplugin.pictures import load_image
from webdataset_tools.evaluation_data import ImageEncoder, Preprocess, Shards, samples_of

PICTURES_AT_ONCE = 64
_Item = TypeVar("_Item", bytes, Path)


def photo_features(photos: Sequence[Path], encoder: ImageEncoder, preprocess: Preprocess) -> np.ndarray:
    """One photo an image of the set -> [N, E] float32 unit rows; every file is encoded once."""
    distinct, rows = _distinct(photos)
    return _features([path.read_bytes() for path in distinct], rows, encoder, preprocess)


def crop_features(
    shards: Shards, evaluation_set: EvaluationSet, encoder: ImageEncoder, preprocess: Preprocess
) -> np.ndarray | None:
    """The same from the face crops of the samples; None where some have none, or one made from the searched image."""
    crops: list[bytes] = [b""] * len(evaluation_set)
    for row, sample in samples_of(shards, {key: row for row, key in enumerate(evaluation_set.keys)}):
        if sample.face_crop_bytes is not None and sample.record.face_photo is not None:
            crops[row] = sample.face_crop_bytes
    return _features(*_distinct(crops), encoder, preprocess) if all(crops) else None


def _features(pictures: Sequence[bytes], rows: np.ndarray, encoder: ImageEncoder, preprocess: Preprocess) -> np.ndarray:
    starts = range(0, len(pictures), PICTURES_AT_ONCE)
    batches = (
        torch.stack([preprocess(load_image(picture)) for picture in pictures[start : start + PICTURES_AT_ONCE]])
        for start in starts
    )
    return encoder.encode_images(batches)[rows]


def _distinct(items: Sequence[_Item]) -> tuple[list[_Item], np.ndarray]:
    """The distinct ones, and the number of each item among them [len(items)]."""
    number = {item: place for place, item in enumerate(dict.fromkeys(items))}
    return list(number), np.array([number[item] for item in items])
