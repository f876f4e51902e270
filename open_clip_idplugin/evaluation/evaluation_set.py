"""Evaluation set: images, captions and who is in which image -> what every evaluation searches and asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError

_COLUMNS = ("keys", "image_ids", "identity_ids", "names", "captions")


@dataclass(frozen=True)
class EvaluationSet:
    """Who is in which image; entry i of every field belongs to image i, as do the rows of the image features.

    faces: [N, D] float32, the query face embedding of every image's person, made unit rows here
    groups: columns that split the results, such as {"stratum": ("small", "turned", ...)}; "" where not known
    face_heights: [N] float32, of the faces in the images, in pixels, NaN where not known; None: nowhere known
    face_lengths: [N] float32, of the embeddings before they were made unit rows, for adaptors that take them so
    in_order: whether the images stand in the order of a release's file, so that a person's first image means something
    """

    keys: tuple[str, ...]
    image_ids: tuple[int, ...]  # the scene: images with the same COCO id share a context
    identity_ids: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]  # the first five are used
    faces: np.ndarray
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    face_heights: np.ndarray | None = None
    face_lengths: np.ndarray | None = None
    in_order: bool = False

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in (*_COLUMNS, "faces")}
        for name in ("face_heights", "face_lengths"):
            if getattr(self, name) is not None:
                lengths[name] = len(getattr(self, name))
        lengths |= {name: len(column) for name, column in self.groups.items()}
        if len(set(lengths.values())) != 1 or not self.keys:
            raise IdClipError(f"an evaluation set needs one entry per image in every field, not {lengths}")
        object.__setattr__(self, "faces", unit_rows(self.faces, "face embeddings"))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def query_faces(self) -> np.ndarray:
        """[N, D] float32: what an identity token is made of, unit rows unless their lengths are kept."""
        return self.faces if self.face_lengths is None else self.faces * self.face_lengths[:, None]

    def take(self, indices: Sequence[int]) -> "EvaluationSet":
        """The set of these images, in this order."""
        columns = {name: tuple(column[i] for i in indices) for name, column in self.groups.items()}
        chosen: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in indices) for name in _COLUMNS}
        rows = np.asarray(indices, dtype=np.int64)
        known: dict[str, Any] = {
            name: column[rows]
            for name in ("face_heights", "face_lengths")
            if (column := getattr(self, name)) is not None
        }
        return replace(self, **chosen, faces=self.faces[rows], groups=columns, **known)


def unit_rows(values: np.ndarray, what: str) -> np.ndarray:
    """The rows [N, D] divided by their length; raises IdClipError for a row without direction."""
    values = np.asarray(values, dtype=np.float32)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    if values.ndim != 2 or not np.isfinite(norms).all() or not norms.all():
        raise IdClipError(f"the {what} hold a zero or non-finite row; leave out people without a usable face")
    return values / norms


def people_of(evaluation_set: EvaluationSet, first_face: bool = False) -> tuple[list[str], list[int], np.ndarray]:
    """The P identities in sorted order, an image of each, and their faces [P, D].

    A person's face is the mean of the unit embeddings that the images carry for the person, made a unit vector again (where
    the set keeps lengths, the mean of the embeddings as they are). first_face: that of the person's first image instead, in
    the order of the set where that is a release's, else the image with the lowest key.
    """
    images_of: dict[str, list[int]] = {}
    for image, identity in enumerate(evaluation_set.identity_ids):
        images_of.setdefault(identity, []).append(image)
    identities = sorted(images_of)
    faces = evaluation_set.query_faces
    if first_face:
        order = range(len(faces)) if evaluation_set.in_order else np.argsort(np.argsort(evaluation_set.keys))
        chosen = [min(images_of[identity], key=order.__getitem__) for identity in identities]
        return identities, chosen, faces[chosen]
    means = np.stack([faces[images_of[identity]].mean(axis=0) for identity in identities])
    if evaluation_set.face_lengths is None:
        means = unit_rows(means, "mean face embeddings")
    return identities, [images_of[identity][0] for identity in identities], means
