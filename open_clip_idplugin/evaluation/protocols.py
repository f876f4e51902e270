"""The two protocols: a set of images with known people, image features and a query encoder in, metrics out.

Role: who asks what, and which images are right answers. General retrieval: every text is a query and its own image the
answer; entity retrieval: every identity is a query and all its images are answers. Source: arXiv 2412.21009, section 5;
the definitions are in `docs/evaluation.md`. Knows neither shards nor models.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from open_clip_idplugin import prompts
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import metrics
from open_clip_idplugin.evaluation.metrics import KS, Array, CosineScores, Ranks, Scores

PROTOCOLS = ("general", "entity")
CAPTIONS_PER_IMAGE = 5
TEXTS_AT_ONCE = 4096
_COLUMNS = ("keys", "image_ids", "identity_ids", "names", "captions")


class TextEncoder(Protocol):
    """What the protocols need of `query_encoder.QueryEncoder`: unit rows [N, E] float32."""

    def encode(self, texts: list[str], faces: Any = None) -> np.ndarray:
        """One row for every text; faces [N, D] where the texts hold a placeholder."""
        ...

    def encode_ensemble(self, groups: list[list[str]], faces: Any = None) -> np.ndarray:
        """One row for every group of texts; faces [len(groups), D]."""
        ...


@dataclass(frozen=True)
class EvaluationSet:
    """Who is in which image; entry i of every field belongs to image i, as do the rows of the image features.

    faces: [N, D] float32, the query face embedding of every image's person, made unit rows here
    groups: columns that split the results, such as {"stratum": ("small", "turned", ...)}; "" where not known
    """

    keys: tuple[str, ...]
    image_ids: tuple[int, ...]  # the scene: images with the same COCO id share a context
    identity_ids: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]  # the first five are used
    faces: np.ndarray
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in (*_COLUMNS, "faces")}
        lengths |= {name: len(column) for name, column in self.groups.items()}
        if len(set(lengths.values())) != 1 or not self.keys:
            raise IdClipError(f"an evaluation set needs one entry per image in every field, not {lengths}")
        object.__setattr__(self, "faces", unit_rows(self.faces, "face embeddings"))

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, indices: Sequence[int]) -> "EvaluationSet":
        """The set of these images, in this order."""
        columns = {name: tuple(column[i] for i in indices) for name, column in self.groups.items()}
        chosen: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in indices) for name in _COLUMNS}
        return replace(self, **chosen, faces=self.faces[np.asarray(indices, dtype=np.int64)], groups=columns)


@dataclass(frozen=True)
class Settings:
    """What to run.

    templates: "all" (11 texts a caption) or numbers of `prompts.GENERAL_TEMPLATES`, as 0, "0" or "0,6"
    """

    configurations: tuple[str, ...] = prompts.CONFIGURATIONS
    protocols: tuple[str, ...] = PROTOCOLS
    templates: str | int = "all"
    seed: int = 0  # of the templates that are drawn again where a caption has no single keyword
    device: str = "cpu"  # where similarities are computed
    image_to_text: bool = True  # costs a second pass over the similarities
    progress: bool = False
    ks: tuple[int, ...] = KS

    def __post_init__(self) -> None:
        _check_choices(self.configurations, prompts.CONFIGURATIONS, "configuration")
        _check_choices(self.protocols, PROTOCOLS, "protocol")
        self.template_indices()

    def template_indices(self) -> tuple[int, ...] | None:
        """The templates to use, None for all of them."""
        if self.templates == "all":
            return None
        try:
            indices = tuple(int(part) for part in str(self.templates).split(","))
        except ValueError:
            raise IdClipError(f"templates is {self.templates!r}; give 'all' or numbers such as 0 or 0,6") from None
        for index in indices:
            prompts.general_text("", index)  # refuses unknown ones
        return indices


@dataclass
class Results:
    """Fractions in [0, 1] (sums: up to 4 and 8) by configuration, such as `metrics["conf1"]["t2i_R@1"]`.

    strata: the general protocol by the groups of the set, `strata["conf1"]["stratum=small"]["t2i_R@1"]`, with the
    numbers of `images` and `queries` beside the recalls.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    strata: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Queries:
    """The queries of a configuration, with every distinct (text, face) once.

    texts: T distinct ones; face_of_text [T] int: the image whose person's face goes with it, -1 for none
    row_of_query, image_of_query [Q] int: the text of a query, and its one right image
    """

    texts: tuple[str, ...]
    face_of_text: np.ndarray
    row_of_query: np.ndarray
    image_of_query: np.ndarray


def run(
    evaluation_set: EvaluationSet, image_features: Array, encoder: TextEncoder, settings: Settings | None = None
) -> Results:
    """Run the protocols for every configuration.

    image_features: [N, E] float32 unit rows, row i the image i of the set. The entity protocol leaves out "captions",
    which say nothing of the person.
    """
    settings = settings or Settings()
    if len(image_features) != len(evaluation_set):
        counts = f"{len(image_features)} image features for {len(evaluation_set)} images"
        raise IdClipError(f"there are {counts}; give one row for each")
    results = Results()
    for configuration in settings.configurations:
        values: dict[str, float] = {}
        if "general" in settings.protocols:
            queries = general_queries(evaluation_set, configuration, settings)
            features = encode_queries(queries, evaluation_set, encoder, configuration if settings.progress else None)
            scores = CosineScores(features, image_features, settings.device)
            general, results.strata[configuration] = general_results(scores, queries, evaluation_set, settings)
            values |= general
        if "entity" in settings.protocols and configuration != "captions":
            features = encode_people(evaluation_set, configuration, encoder)
            scores = CosineScores(features, image_features, settings.device)
            values |= entity_results(scores, evaluation_set, settings)
        results.metrics[configuration] = values
    return results


def general_queries(evaluation_set: EvaluationSet, configuration: str, settings: Settings) -> Queries:
    """Every text of every caption of every image; configurations differ only in the way the person is written."""
    has_face = prompts.needs_face(configuration)
    row_of: dict[tuple[str, int], int] = {}
    rows, images = [], []
    for image in range(len(evaluation_set)):
        for text in _texts_of_image(evaluation_set, image, configuration, settings):
            rows.append(row_of.setdefault((text, image if has_face else -1), len(row_of)))
            images.append(image)
    if not rows:
        raise IdClipError("no image has a caption; pack the shards from a release with captions")
    texts = tuple(text for text, _ in row_of)
    return Queries(texts, np.array([face for _, face in row_of]), np.array(rows), np.array(images))


def encode_queries(
    queries: Queries, evaluation_set: EvaluationSet, encoder: TextEncoder, label: str | None = None
) -> np.ndarray:
    """Text features [T, E] of the distinct texts; `label` names the progress bar, None hides it."""
    with_face = bool((queries.face_of_text >= 0).any())
    parts = []
    with tqdm(total=len(queries.texts), desc=label, unit="text", disable=label is None, leave=False) as bar:
        for start in range(0, len(queries.texts), TEXTS_AT_ONCE):
            texts = list(queries.texts[start : start + TEXTS_AT_ONCE])
            faces = evaluation_set.faces[queries.face_of_text[start : start + TEXTS_AT_ONCE]] if with_face else None
            parts.append(encoder.encode(texts, faces=faces))
            bar.update(len(texts))
    return np.concatenate(parts)


def encode_people(evaluation_set: EvaluationSet, configuration: str, encoder: TextEncoder) -> np.ndarray:
    """One feature [P, E] for every identity of `people`: its six entity-only prompts, ensembled."""
    _, first, faces = people(evaluation_set)
    groups = [
        [prompts.expand(text, configuration, evaluation_set.names[image]) for text in prompts.entity_texts()]
        for image in first
    ]
    return encoder.encode_ensemble(groups, faces=faces if prompts.needs_face(configuration) else None)


def people(evaluation_set: EvaluationSet) -> tuple[list[str], list[int], np.ndarray]:
    """The P identities in sorted order, an image of each, and their faces [P, D].

    A person's face is the mean of the unit embeddings that the images carry for the person, made a unit vector again.
    """
    images_of: dict[str, list[int]] = {}
    for image, identity in enumerate(evaluation_set.identity_ids):
        images_of.setdefault(identity, []).append(image)
    identities = sorted(images_of)
    means = np.stack([evaluation_set.faces[images_of[identity]].mean(axis=0) for identity in identities])
    return identities, [images_of[identity][0] for identity in identities], unit_rows(means, "mean face embeddings")


def general_results(
    scores: Scores, queries: Queries, evaluation_set: EvaluationSet, settings: Settings
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Metrics of general retrieval, and the same by stratum. `scores`: row t is text t of the queries.

    Beside the recalls: `right_scene`, the share of queries whose first image shows the right context, and
    `right_person`, the share of these where it shows the right person too.
    """
    ranks = metrics.general_ranks(scores, queries.image_of_query, queries.row_of_query, settings.image_to_text)
    values = metrics.general_metrics(ranks, settings.ks)
    scenes = np.asarray(evaluation_set.image_ids)
    right_scene = scenes[ranks.top] == scenes[queries.image_of_query]
    values["right_scene"] = float(right_scene.mean())
    values["right_person"] = float((ranks.t2i[right_scene] == 0).mean()) if right_scene.any() else 0.0
    return values, _by_stratum(ranks, queries, evaluation_set.groups, settings.ks)


def entity_results(scores: Scores, evaluation_set: EvaluationSet, settings: Settings) -> dict[str, float]:
    """Metrics of entity retrieval. `scores`: row p is identity p of `people`."""
    identities, owners = np.unique(np.asarray(evaluation_set.identity_ids), return_inverse=True)
    top = metrics.top_k(scores, max(*settings.ks, metrics.MAP_DEPTH))
    return metrics.entity_metrics(top, np.arange(len(identities)), owners, settings.ks)


def unit_rows(values: np.ndarray, what: str) -> np.ndarray:
    """The rows [N, D] divided by their length; raises IdClipError for a row without direction."""
    values = np.asarray(values, dtype=np.float32)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    if values.ndim != 2 or not np.isfinite(norms).all() or not norms.all():
        raise IdClipError(f"the {what} hold a zero or non-finite row; leave out people without a usable face")
    return values / norms


def _texts_of_image(evaluation_set: EvaluationSet, image: int, configuration: str, settings: Settings) -> Iterable[str]:
    indices = settings.template_indices()
    for number, caption in enumerate(evaluation_set.captions[image][:CAPTIONS_PER_IMAGE]):
        if configuration == "captions":
            yield " ".join(caption.split())
            continue
        if indices is None:
            # Seeded by the caption's own place, so that the draw depends on no other image and no configuration.
            rng = random.Random(f"{settings.seed}/{evaluation_set.keys[image]}/{number}")
            texts = prompts.general_texts(caption, rng)
        else:
            texts = [prompts.general_text(caption, index) for index in indices]
        for text in texts:
            yield prompts.expand(text, configuration, evaluation_set.names[image])


def _by_stratum(
    ranks: Ranks, queries: Queries, groups: Mapping[str, Sequence[str]], ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    strata = {}
    for column, labels in groups.items():
        label_of_image = np.asarray(labels)
        for label in sorted(set(labels) - {""}):
            chosen = label_of_image[queries.image_of_query] == label
            if chosen.any():
                counts = {"images": int((label_of_image == label).sum()), "queries": int(chosen.sum())}
                recalls = {f"t2i_R@{k}": float((ranks.t2i[chosen] < k).mean()) for k in ks}
                strata[f"{column}={label}"] = counts | recalls
    return strata


def _check_choices(chosen: Sequence[str], allowed: Sequence[str], what: str) -> None:
    unknown = [name for name in chosen if name not in allowed]
    if unknown or not chosen:
        raise IdClipError(f"{what} {', '.join(map(repr, unknown)) or 'missing'}; choose from {', '.join(allowed)}")
