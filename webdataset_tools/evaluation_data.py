"""Evaluation data: shards -> who is in which image, the images' features, the faces a detector finds.

Input: shards of this project; output: `EvaluationSet`, features [N, E] and `DetectedFaces`. Samples that cannot be used
are left out and told with the reason.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from open_clip_idplugin.checkpoints.training_facts import require_face_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import strata
from open_clip_idplugin.evaluation.face_scores import DetectedFaces
from open_clip_idplugin.evaluation.protocols import EvaluationSet
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.faces.model_identity import agreed_model, require_same_model, same_model
from open_clip_idplugin.pictures import ImageRejected, load_image, load_picture
from webdataset_tools.chosen_samples import Chosen
from webdataset_tools.sample_format import Sample, SampleFormatError, members_to_sample, shard_paths, tar_stages

Shards: TypeAlias = str | Path | Sequence[str | Path]
Preprocess: TypeAlias = Callable[[Image.Image], torch.Tensor]

PERSON_GROUPS = ("gender", "ethnicity", "skin_group", "age_group")  # attributes of people by which results are split
PICTURES_AT_ONCE = 32  # through the face detector; bounds the memory


class ImageEncoder(Protocol):
    """What is needed of `queries.QueryEncoder`."""

    def encode_images(self, batches: Iterable[torch.Tensor]) -> np.ndarray:
        """Batches [B, 3, H, W] -> unit rows [N, E] float32."""
        ...


@dataclass
class EncodedImages:
    """The set without the images that cannot be decoded, and the features of the others.

    features [N, E] float32 unit rows, row i the image i of `evaluation_set`; skipped: key -> reason
    """

    evaluation_set: EvaluationSet
    features: np.ndarray
    skipped: dict[str, str] = field(default_factory=dict)


def load_evaluation_set(
    shards: Shards,
    limit: int | None = None,
    skipped: dict[str, str] | None = None,
    trained_with: str | None = None,
    rival: str | None = None,
    chosen: Chosen | None = None,
    keep_lengths: bool = False,
) -> EvaluationSet:
    """Read who is in which image; images are not decoded here.

    limit: use the first samples only. skipped: a dict that receives key -> reason for the samples that are left out;
    without one such a sample raises IdClipError. trained_with: id of the face model that the adaptor knows, rival: of
    the one that will look for faces; ModelMismatch where the shards' embeddings come from another one. chosen: which samples
    are meant, all by default. keep_lengths: of face embeddings, for adaptors that take them as they are stored.
    """
    samples: dict[str, Sample] = {}
    model: str | None = None
    chosen = Chosen() if chosen is None else chosen
    for sample in filter(None, map(chosen.of, _usable_samples(shards, skipped))):
        require_face_model(trained_with, sample.record.face_model, f"those of {shards}")
        _require_rival(sample, rival)
        reason = _reason_against(sample, samples, model)
        if reason is None:
            samples[sample.key] = sample
            model = agreed_model((model, sample.record.face_model), str(shards))
        else:
            _note(skipped, sample.key, reason)
        if limit is not None and len(samples) >= limit:
            break
    if not samples:
        raise IdClipError(f"no usable sample{chosen.in_words} in {shards}; pack shards with `idclip shards`")
    if skipped is not None and limit is None:
        skipped.update(chosen.missing({*samples, *skipped}))
    samples = chosen.ordered(samples)
    found = list(samples.values())
    attributes = [sample.record.attributes for sample in found]
    heights = np.array([_number(values.get("face_height")) for values in attributes], np.float32)
    return EvaluationSet(
        keys=tuple(samples),
        image_ids=tuple(sample.record.image_id for sample in found),
        identity_ids=tuple(sample.record.identity_id for sample in found),
        names=tuple(sample.record.identity_name for sample in found),
        captions=tuple(tuple(sample.record.captions) for sample in found),
        faces=np.stack([sample.face for sample in found]),
        groups=_groups(attributes, heights),
        face_heights=heights if np.isfinite(heights).any() else None,
        face_lengths=np.linalg.norm([sample.face for sample in found], axis=1) if keep_lengths else None,
        in_order=chosen.faces is not None,
    )


def face_model_of(shards: Shards) -> tuple[str | None, int | None]:
    """Face model and size of the face embeddings in the shards, by their first sample; None for what is not known."""
    first = next(_usable_samples(shards, {}), None)
    return (None, None) if first is None else (first.record.face_model, len(first.face))


def encode_images(
    shards: Shards,
    evaluation_set: EvaluationSet,
    encoder: ImageEncoder,
    preprocess: Preprocess,
    batch_size: int = 256,
    workers: int = 2,
    progress: bool = True,
) -> EncodedImages:
    """Decode, preprocess and encode the images of the set; images that cannot be decoded leave the set."""
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        ShardImages(shards, evaluation_set.keys, preprocess),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
    )
    rows: list[int] = []
    skipped: dict[str, str] = {}

    def batches() -> Iterator[torch.Tensor]:
        with tqdm(total=len(evaluation_set), desc="images", unit="image", disable=not progress) as bar:
            for good, pixels, bad in loader:
                rows.extend(good)
                skipped.update((evaluation_set.keys[row], reason) for row, reason in bad)
                if pixels is not None:
                    yield pixels
                bar.update(len(good) + len(bad))

    pixels = batches()
    first = next(pixels, None)
    if first is None:
        raise IdClipError(f"none of the {len(evaluation_set)} images of {shards} can be decoded; pack the shards again")
    features = encoder.encode_images(_chain(first, pixels))
    order = np.argsort(rows)
    chosen = evaluation_set.take([rows[i] for i in order])
    return EncodedImages(chosen, features[order], skipped)


class ShardImages(torch.utils.data.IterableDataset[tuple[int, "torch.Tensor | str"]]):
    """The images of the given keys as (row, pixels [3, H, W]), or (row, reason) for what cannot be decoded.

    Each worker reads the whole stream and decodes its share of it: decoding is what takes the time.
    """

    def __init__(self, shards: Shards, keys: Sequence[str], preprocess: Preprocess) -> None:
        self._shards, self._preprocess = shards, preprocess
        self._row_of = {key: row for row, key in enumerate(keys)}

    def __iter__(self) -> Iterator[tuple[int, "torch.Tensor | str"]]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for row, sample in samples_of(self._shards, self._row_of):
            if row % workers == worker:
                try:
                    pixels: torch.Tensor | str = self._preprocess(load_image(sample.image_bytes))
                except ImageRejected as error:
                    pixels = error.reason
                yield row, pixels


def samples_of(shards: Shards, row_of: Mapping[str, int]) -> Iterator[tuple[int, Sample]]:
    """The samples of the wanted keys with their rows, each once, in the order of the shards."""
    missing = set(row_of)
    for sample in _usable_samples(shards, {}):
        if sample.key in missing:
            missing.remove(sample.key)
            yield row_of[sample.key], sample
        if not missing:
            return


def detect_faces(shards: Shards, evaluation_set: EvaluationSet, engine: Any, progress: bool = True) -> DetectedFaces:
    """The faces that `engine` (a `faces.FaceEngine`) finds in the images of the set.

    Raises IdClipError when the sample's own embeddings come from another face model, where both are known.
    """
    found: list[list[np.ndarray]] = [[] for _ in evaluation_set.keys]
    heights: list[list[float]] = [[] for _ in evaluation_set.keys]
    row_of = {key: row for row, key in enumerate(evaluation_set.keys)}
    pending: list[tuple[int, np.ndarray]] = []

    def flush() -> None:
        for (row, _), faces in zip(pending, engine.detect_many([picture for _, picture in pending])):
            usable = [face for face in faces if face.embedding is not None]
            found[row] = [face.embedding for face in usable]
            heights[row] = [float(face.box[3] - face.box[1]) for face in usable]
        pending.clear()

    for row, sample in tqdm(
        samples_of(shards, row_of), total=len(row_of), desc="faces", unit="image", disable=not progress
    ):
        _require_rival(sample, engine.model_id)
        pending.append((row, load_picture(sample.image_bytes)))
        if len(pending) == PICTURES_AT_ONCE:
            flush()
    if pending:
        flush()
    return DetectedFaces.from_lists(found, engine.embedding_size, heights, load_calibration(engine.model_id))


def _require_rival(sample: Sample, model_id: str | None) -> None:
    require_same_model(sample.record.face_model, model_id, f"sample {sample.key} and the rival")


def _usable_samples(shards: Shards, skipped: dict[str, str] | None) -> Iterator[Sample]:
    """As `read_samples`, which ends at the first damaged sample; here it is noted and the next one follows."""
    import webdataset

    pipeline = webdataset.DataPipeline(*tar_stages(shard_paths(shards)))
    try:
        for members in pipeline:
            try:
                sample = members_to_sample(members)
            except SampleFormatError as error:
                if skipped is None:
                    raise
                skipped[f"damaged sample {len(skipped) + 1}"] = str(error)
                continue
            yield sample
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IdClipError(f"a shard of {shards} cannot be read ({error}); pack it or copy it again") from error


def _reason_against(sample: Sample, others: Mapping[str, Sample], model: str | None) -> str | None:
    """Why a sample cannot join the others, whose face model is `model`."""
    if sample.key in others:
        return "the key occurs twice"
    first = next(iter(others.values()), sample)
    if sample.face.shape != first.face.shape:
        return f"its face embedding has {len(sample.face)} numbers, others have {len(first.face)}"
    if not same_model(sample.record.face_model, model):
        return f"its face embedding was made with {sample.record.face_model}, others with {model}"
    length = float(np.linalg.norm(sample.face))
    return None if np.isfinite(length) and length > 0 else "its face embedding is zero or not finite"


def _note(skipped: dict[str, str] | None, key: str, reason: str) -> None:
    if skipped is None:
        raise IdClipError(f"sample {key} cannot be used: {reason}")
    skipped[f"{key} (again)" if reason == "the key occurs twice" else key] = reason


def _groups(attributes: Sequence[Mapping[str, Any]], heights: np.ndarray) -> dict[str, tuple[str, ...]]:
    turns = [_number(values.get("yaw")) for values in attributes]
    groups = {
        "stratum": tuple(str(values.get("stratum") or "") for values in attributes),
        "look_alike": tuple(_yes_or_no(values.get("look_alike")) for values in attributes),
        **{name: tuple(str(values.get(name) or "") for values in attributes) for name in PERSON_GROUPS},
        strata.FACE_PIXELS: strata.pixel_labels(heights),
        strata.FACING: strata.facing_labels(turns),
    }
    return {name: column for name, column in groups.items() if any(column)}


def _number(value: Any) -> float:
    """A number of the attributes, or its words in a table (a swap keeps them as they stand), NaN for anything else."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _yes_or_no(value: Any) -> str:
    """Return yes, no or nothing for a truth value, or for the words of a table."""
    if value is None or value == "":
        return ""
    return "no" if value is False or str(value).lower() in ("no", "false", "0") else "yes"


def _collate(
    items: Sequence[tuple[int, "torch.Tensor | str"]],
) -> tuple[list[int], torch.Tensor | None, list[tuple[int, str]]]:
    good = [(row, pixels) for row, pixels in items if isinstance(pixels, torch.Tensor)]
    bad = [(row, pixels) for row, pixels in items if isinstance(pixels, str)]
    return [row for row, _ in good], torch.stack([pixels for _, pixels in good]) if good else None, bad


def _chain(first: torch.Tensor, rest: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    yield first
    yield from rest
