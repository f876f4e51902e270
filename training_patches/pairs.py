"""Training pairs: sample of a shard -> (image tensor, IdentityText of one row a training setup).

Role: captions, placeholders, faces and labels of one sample, in an order that depends on nothing but seed, epoch and the
sample's key. Picklable and without a patch, so that spawned workers run it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from open_clip_idplugin.config import STORED
from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.losses import ANYTHING, IMAGE_SHOWS, TEXT_ABOUT
from open_clip_idplugin.pictures import load_image
from open_clip_idplugin.prompts import PLACEHOLDER, as_reference_reads
from training_patches.params import IdentityOptions
from training_patches.setups import ONLY_ENTITIES, WITH_ENTITIES, setup_text
from webdataset_tools.sample_format import Sample

Pair = tuple[torch.Tensor, IdentityText]

CAPTIONS_PER_IMAGE = 5  # an epoch of the paper shows every image with each of its first five captions


@dataclass(frozen=True)
class Decoder:
    """The content of an image file -> pixels [3, H, W], as the host's training transform makes them."""

    preprocess: Callable[[Image.Image], torch.Tensor]

    def __call__(self, content: bytes) -> torch.Tensor:
        """Raises ImageRejected when the image is damaged."""
        return self.preprocess(load_image(content))


@dataclass(frozen=True)
class PairMaker:
    """One sample -> one training pair: its image, and a text for each training setup.

    read_image     content of a sample's image -> tensor (a `Decoder`, or the reader of cached features)
    tokenizer      the model's IdentityTokenizer, which says whether the model takes embeddings in the length that they have
    captions       caption setting, see `prompts.training_caption`
    setups         training setups in the order of the texts
    face_dropout   share of the texts with entities that show the plain caption and no face
    face_noise     length of the noise on face embeddings, see `noisy_face`
    hidden_token   whether placeholders that the reference's tokenizer does not see are none
    labelled       whether the texts carry the labels of `open_clip_idplugin.losses`
    """

    read_image: Callable[[bytes], torch.Tensor]
    tokenizer: Any
    captions: str
    setups: tuple[str, ...] = (WITH_ENTITIES,)
    face_dropout: float = 0.0
    face_noise: float = 0.0
    labelled: bool = False
    seed: int = 0
    hidden_token: bool = False

    def __call__(self, sample: Sample, epoch: int, occurrence: int) -> Pair:
        """Return (image, IdentityText of one row a setup) for the sample's n-th occurrence in this epoch.

        The first five occurrences take the captions in turn, in an order drawn anew each epoch. Raises IdClipError
        when the image is damaged, the face embedding does not suit the model or the placeholder would be cut off.
        """
        record = sample.record
        captions = list((record.captions or (sample.caption,))[:CAPTIONS_PER_IMAGE])
        random.Random(f"{self.seed}/{epoch}/{sample.key}").shuffle(captions)
        caption = captions[occurrence % len(captions)]
        rng = random.Random(f"{self.seed}/{epoch}/{sample.key}/{occurrence}")
        texts = [setup_text(setup, caption, self.captions, rng, self.face_dropout) for setup in self.setups]
        if self.hidden_token:
            texts = [as_reference_reads(text) for text in texts]
        keeps = self.tokenizer.identity_cfg.face_length == STORED
        face = noisy_face(sample.face, self.face_noise, rng, keeps) if self.face_noise else sample.face
        faces = [face if PLACEHOLDER in text else None for text in texts]
        row = self.tokenizer(texts, faces=faces, identity_ids=[record.identity_id] * len(texts))
        if self.labelled:
            row = replace(row, labels=self._labels(row, record.image_id))
        return self.read_image(sample.image_bytes), row

    def _labels(self, row: IdentityText, scene: int) -> dict[str, torch.Tensor]:
        shows = torch.stack([row.identity_ids, torch.full_like(row.identity_ids, scene)], dim=1)
        about = shows.clone()
        about[~(row.slots > 0).any(dim=1), 0] = ANYTHING
        about[torch.tensor([setup == ONLY_ENTITIES for setup in self.setups]), 1] = ANYTHING
        return {IMAGE_SHOWS: shows, TEXT_ABOUT: about}


def pair_maker(
    options: IdentityOptions, read_image: Callable[[bytes], torch.Tensor], tokenizer: Any, seed: int
) -> PairMaker:
    """The pairs that the flags ask for."""
    return PairMaker(
        read_image,
        tokenizer,
        options.caption,
        setups=tuple(options.setups),
        face_dropout=options.face_dropout,
        face_noise=options.face_noise,
        labelled=options.labelled,
        seed=seed,
        hidden_token=options.hidden_token,
    )


def noisy_face(face: np.ndarray, length: float, rng: random.Random, keep_length: bool = False) -> np.ndarray:
    """A face embedding [D] of any length -> float32 [D] of unit length (or the length it had), turned at random.

    Gaussian noise of about this length is added to the unit vector: at 1 the cosine of before and after is about 0.7. A
    row of zeros stays.
    """
    size = float(np.linalg.norm(face))
    if not size:
        return face
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(face))
    turned = face / size + noise * (length / math.sqrt(len(face)))
    unit = turned / np.linalg.norm(turned)
    return (unit * size if keep_length else unit).astype(np.float32)
