"""A query encoder without a model, and a small set of images with known people."""

import re
import zlib

import numpy as np
import torch

from open_clip_idplugin.evaluation.protocols import EvaluationSet

WIDTH = 16
FACE_LENGTH = 8


def word_vector(word):
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(WIDTH).astype(np.float32)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class BagOfWords:
    """Sums word vectors; a placeholder adds the face (twice a word's length). Remembers what it was asked to encode."""

    def __init__(self):
        self.asked = []

    def _raw(self, text, face):
        words = re.findall(r"\[TOK\]|\w+", text)
        assert ("[TOK]" in words) == (face is not None)
        return sum(
            (FACE_LENGTH * face if word == "[TOK]" else word_vector(word) for word in words),
            np.zeros(WIDTH, np.float32),
        )

    def encode(self, texts, faces=None):
        faces = [None] * len(texts) if faces is None else faces
        self.asked += [
            (text, None if face is None else face.tobytes()) for text, face in zip(texts, faces, strict=True)
        ]
        return unit(np.stack([self._raw(text, face) for text, face in zip(texts, faces, strict=True)]))

    def encode_ensemble(self, groups, faces=None):
        means = [
            np.mean([self._raw(text, None if faces is None else faces[i]) for text in group], axis=0)
            for i, group in enumerate(groups)
        ]
        return unit(np.stack(means))


SCENES = (
    ("A man runs on the beach", "someone running"),
    ("A woman with a dog", "The dog is big."),
    ("Two people eat",),
)
NAMES = ("Ada_Lovelace", "Bo Diddley", "Cy Young")


def small_set(noise=0.0, seed=0):
    """9 images: 3 scenes x 3 people; image features are word vectors of the first caption plus the face."""
    rng = np.random.default_rng(seed)
    faces = unit(rng.standard_normal((3, WIDTH)))
    pairs = [(scene, person) for scene in range(3) for person in range(3)]
    evaluation_set = EvaluationSet(
        keys=tuple(f"{scene + 100}_n{person}" for scene, person in pairs),
        image_ids=tuple(scene + 100 for scene, _ in pairs),
        identity_ids=tuple(f"n{person}" for _, person in pairs),
        names=tuple(NAMES[person] for _, person in pairs),
        captions=tuple(SCENES[scene] for scene, _ in pairs),
        faces=np.stack([5 * faces[person] for _, person in pairs]),  # not unit: made so by the set
        groups={"stratum": tuple(("near", "far", "")[scene] for scene, _ in pairs)},
    )
    words = [sum(word_vector(word) for word in captions[0].split()) for captions in SCENES]
    images = np.stack([words[scene] + FACE_LENGTH * faces[person] for scene, person in pairs])
    return evaluation_set, unit(images + noise * rng.standard_normal(images.shape))


class MatrixScores:
    """Similarities given outright."""

    def __init__(self, matrix):
        self._matrix = torch.as_tensor(np.asarray(matrix), dtype=torch.float32)
        self.n_rows, self.n_images = self._matrix.shape

    def block(self, start, stop):
        return self._matrix[start:stop]
