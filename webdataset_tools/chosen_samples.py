"""Choice of samples: `--split`, `--features` -> which samples of shards are meant, and with which face embeddings.

Role: the flags --split and --features -> `Chosen`, which picks samples while shards are read.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import is_file, location
from open_clip_idplugin.storage.reports import Skip, count_reasons
from webdataset_tools.release import EMBEDDING_SIZE, read_faces
from webdataset_tools.sample_format import Sample, sample_key


@dataclass(frozen=True)
class Chosen:
    """Which samples of shards are meant.

    split: those that were packed as a split of this name; None: of any. faces: key -> embedding [D] float32, those with
    these keys in this order, with these embeddings in the place of their own. unusable: key -> reason of other entries.
    """

    split: str | None = None
    faces: Mapping[str, np.ndarray] | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)

    def of(self, sample: Sample) -> Sample | None:
        """The sample as it is meant, None for one that is not."""
        if self.faces is not None:
            face = self.faces.get(sample.key)
            return None if face is None else replace(sample, face=face)
        return sample if self.split in (None, sample.record.split) else None

    def ordered(self, samples: Mapping[str, Sample]) -> dict[str, Sample]:
        """Samples by key, in the order that is meant."""
        return dict(samples) if self.faces is None else {key: samples[key] for key in self.faces if key in samples}

    def missing(self, known: Collection[str]) -> Iterator[tuple[str, str]]:
        """(key, reason) of what is meant and not `known`."""
        yield from self.unusable.items()
        yield from ((key, "not in the shards") for key in self.faces or () if key not in known)

    @property
    def in_words(self) -> str:
        """For a sentence about what was not found."""
        if self.faces is not None:
            return " whose key stands in the file of --features"
        return "" if self.split is None else f" of the split '{self.split}'"


def choose_samples(split: str | None, features: str | None, size: int | None) -> Chosen:
    """What `--split` and `--features` (a file in a release's form) mean.

    size: numbers of a face embedding, where known. Raises IdClipError for a file that is none, and one without a usable entry.
    """
    if features is None:
        return Chosen(split)
    path = location(features)
    if not is_file(path):
        raise IdClipError(f"--features: there is no file {features}; it holds <image id>_<identity> -> face embedding")
    unusable: list[Skip] = []
    faces = {sample_key(*key): face for key, face in read_faces(path, size or EMBEDDING_SIZE, unusable)}
    if not faces:
        raise IdClipError(f"--features: no entry of {features} can be used: {count_reasons(unusable)}")
    return Chosen(split, faces, {skip.key: f"{skip.reason} ({skip.detail})" for skip in unusable})
