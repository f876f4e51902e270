"""Evaluation protocols: a set of images with known people, image features and a query encoder -> metrics.

Role: who asks what, and which images are right answers. General retrieval: every text is a query and its own image the
answer; entity retrieval: every identity is a query and all its images are answers. Source: arXiv 2412.21009, section 5;
the definitions are in `docs/evaluation.md`. Knows neither shards nor models.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from open_clip_idplugin import prompts
from open_clip_idplugin.command_line.devices import AUTO
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation import curves, metrics
from open_clip_idplugin.evaluation.curves import Points
from open_clip_idplugin.evaluation.evaluation_set import EvaluationSet, people_of
from open_clip_idplugin.evaluation.metrics import KS, Array, CosineScores, Ranks, Scores
from open_clip_idplugin.evaluation.results import General, Results, describe_failures, worst_queries
from open_clip_idplugin.evaluation.strata import recalls_by_stratum

PROTOCOLS = ("general", "entity")
FIRST_FACE, HIDDEN_TOKEN, ARTICLES = "first_face", "hidden_token", "articles"
REFERENCE_WAYS = (FIRST_FACE, HIDDEN_TOKEN, ARTICLES)
CAPTIONS_PER_IMAGE = 5
TEXTS_AT_ONCE = 4096
LARGEST_SCENE = 64  # images; beyond, a scene says nothing of who is confused with whom


class TextEncoder(Protocol):
    """What the protocols need of `queries.QueryEncoder`: unit rows [N, E] float32."""

    def encode(self, texts: list[str], faces: Any = None) -> np.ndarray:
        """One row for every text; faces [N, D] where the texts hold a placeholder, or a list with None where one does not."""
        ...

    def encode_ensemble(self, groups: list[list[str]], faces: Any = None) -> np.ndarray:
        """One row for every group of texts; faces [len(groups), D]."""
        ...


@dataclass(frozen=True)
class Settings:
    """What to run.

    templates: "all" (11 texts a caption) or numbers of `prompts.GENERAL_TEMPLATES`, as 0, "0" or "0,6"
    as_reference: what is done as the reference implementation does it, of `REFERENCE_WAYS`: entity queries take the face of a
        person's first image, not the mean; a placeholder directly behind a sign, as in "([TOK])", is letters without a
        face; of the articles before a person "the" stays
    """

    configurations: tuple[str, ...] = prompts.CONFIGURATIONS
    protocols: tuple[str, ...] = PROTOCOLS
    templates: str | int = "all"
    seed: int = 0  # of the templates that are drawn again where a caption has no single keyword
    device: str = AUTO  # where similarities are computed
    image_to_text: bool = True  # costs a second pass over the similarities
    progress: bool = False
    ks: tuple[int, ...] = KS
    as_reference: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_choices(self.configurations, prompts.CONFIGURATIONS, "configuration")
        _check_choices(self.protocols, PROTOCOLS, "protocol")
        if self.as_reference:
            _check_choices(self.as_reference, REFERENCE_WAYS, "as_reference")
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


@dataclass(frozen=True)
class Queries:
    """The queries of a configuration, with every distinct (text, face) once.

    texts: T distinct ones; face_of_text [T] int: the image whose person's face goes with it, -1 for none
    text_of_query, image_of_query [Q] int: the text of a query, and its one right image
    row_of_query [Q] int: the row of the scores that belongs to it, by default that of its text
    """

    texts: tuple[str, ...]
    face_of_text: np.ndarray
    text_of_query: np.ndarray
    image_of_query: np.ndarray
    alone: bool = False

    @property
    def row_of_query(self) -> np.ndarray:
        """See above."""
        return np.arange(len(self.image_of_query)) if self.alone else self.text_of_query

    def each_alone(self) -> "Queries":
        """The same queries for scores that have a row for every query."""
        return replace(self, alone=True)


@dataclass(frozen=True)
class Asked:
    """The queries of a configuration with their features, to be ranked in more than one way.

    features: [T, E] of the distinct texts of `queries`, None unless general retrieval was asked; people: [P, E] as
    `encode_people` gives them, None unless entity retrieval was
    """

    queries: Queries | None
    features: np.ndarray | None
    people: np.ndarray | None


def run(
    evaluation_set: EvaluationSet,
    image_features: Array,
    encoder: TextEncoder,
    settings: Settings | None = None,
    kept: dict[str, Asked] | None = None,
) -> Results:
    """Run the protocols for every configuration.

    image_features: [N, E] float32 unit rows, row i the image i of the set; kept: receives what the configurations that it
    names (with any value) have asked. The entity protocol leaves out "captions", which say nothing of the person.
    """
    settings = settings or Settings()
    if len(image_features) != len(evaluation_set):
        counts = f"{len(image_features)} image features for {len(evaluation_set)} images"
        raise IdClipError(f"there are {counts}; give one row for each")
    results = Results()
    for configuration in settings.configurations:
        asked = ask(evaluation_set, configuration, encoder, settings)
        results.update(answer(asked, configuration, evaluation_set, image_features, settings))
        if kept is not None and configuration in kept:
            kept[configuration] = asked
    return results


def ask(evaluation_set: EvaluationSet, configuration: str, encoder: TextEncoder, settings: Settings) -> Asked:
    """Encode the queries of a configuration for the protocols of the settings, every distinct text once."""
    queries = features = named = None
    if "general" in settings.protocols:
        queries = general_queries(evaluation_set, configuration, settings)
        features = encode_queries(queries, evaluation_set, encoder, configuration if settings.progress else None)
    if "entity" in settings.protocols and configuration != "captions":
        named = encode_people(evaluation_set, configuration, encoder, FIRST_FACE in settings.as_reference)
    return Asked(queries, features, named)


def answer(
    asked: Asked, configuration: str, evaluation_set: EvaluationSet, image_features: Array, settings: Settings
) -> Results:
    """The protocols for queries that are encoded, ranked by cosine; `configuration` names them in the results."""
    results = Results()
    results.add(configuration)
    if asked.queries is not None and asked.features is not None:
        scores = CosineScores(asked.features, image_features, settings.device)
        results.add(configuration, general_results(scores, asked.queries, evaluation_set, settings))
    if asked.people is not None:
        scores = CosineScores(asked.people, image_features, settings.device)
        results.add(configuration, more=entity_results(scores, evaluation_set, settings))
    return results


def general_queries(evaluation_set: EvaluationSet, configuration: str, settings: Settings) -> Queries:
    """Every text of every caption of every image; configurations differ only in the way the person is written."""
    row_of: dict[tuple[str, int], int] = {}
    rows, images = [], []
    for image in range(len(evaluation_set)):
        for text in _texts_of_image(evaluation_set, image, configuration, settings):
            face = image if prompts.PLACEHOLDER in text and configuration != "captions" else -1
            rows.append(row_of.setdefault((text, face), len(row_of)))
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
    own_faces, parts = evaluation_set.query_faces, []
    with tqdm(total=len(queries.texts), desc=label, unit="text", disable=label is None, leave=False) as bar:
        for start in range(0, len(queries.texts), TEXTS_AT_ONCE):
            texts = list(queries.texts[start : start + TEXTS_AT_ONCE])
            rows = queries.face_of_text[start : start + TEXTS_AT_ONCE]
            faces = _faces_of(rows, own_faces) if with_face else None
            parts.append(encoder.encode(texts, faces=faces))
            bar.update(len(texts))
    return np.concatenate(parts)


def _faces_of(rows: np.ndarray, faces: np.ndarray) -> np.ndarray | list[np.ndarray | None]:
    """Rows of `faces` [N, D]; a list with None where some texts have no face (-1)."""
    return faces[rows] if (rows >= 0).all() else [faces[row] if row >= 0 else None for row in rows]


def encode_people(
    evaluation_set: EvaluationSet, configuration: str, encoder: TextEncoder, first_face: bool = False
) -> np.ndarray:
    """One feature [P, E] for every identity of `people`: its six entity-only prompts, ensembled."""
    _, first, faces = people_of(evaluation_set, first_face)
    groups = [
        [prompts.expand(text, configuration, evaluation_set.names[image]) for text in prompts.entity_texts()]
        for image in first
    ]
    return encoder.encode_ensemble(groups, faces=faces if prompts.needs_face(configuration) else None)


def general_results(scores: Scores, queries: Queries, evaluation_set: EvaluationSet, settings: Settings) -> General:
    """General retrieval, whole and by stratum, with its curves and failures. `scores`: row t is text t of the queries.

    Beside the recalls: `right_scene`, the share of queries whose first image shows the right context, and
    `right_person`, the share of these where it shows the right person too.
    """
    scenes = np.unique(np.asarray(evaluation_set.image_ids), return_inverse=True)[1]
    sizes = np.bincount(scenes)[scenes]
    groups = scenes if sizes.max() <= LARGEST_SCENE else None
    images = queries.image_of_query
    ranks = metrics.general_ranks(scores, images, queries.row_of_query, settings.image_to_text, groups)
    values = metrics.general_metrics(ranks, settings.ks)
    right_scene = scenes[ranks.top] == scenes[images]
    values["right_scene"] = float(right_scene.mean())
    values["right_person"] = float((ranks.t2i[right_scene] == 0).mean()) if right_scene.any() else 0.0
    strata = recalls_by_stratum(ranks.t2i, images, evaluation_set.groups, settings.ks)
    lines = _curves(ranks, images, sizes, evaluation_set)
    return General(values, strata, lines, _failures(scores, ranks, queries, evaluation_set))


def entity_results(scores: Scores, evaluation_set: EvaluationSet, settings: Settings) -> dict[str, float]:
    """Metrics of entity retrieval. `scores`: row p is identity p of `people`."""
    identities, owners = np.unique(np.asarray(evaluation_set.identity_ids), return_inverse=True)
    top = metrics.top_k(scores, max(*settings.ks, metrics.MAP_DEPTH))
    return metrics.entity_metrics(top, np.arange(len(identities)), owners, settings.ks)


def _texts_of_image(evaluation_set: EvaluationSet, image: int, configuration: str, settings: Settings) -> Iterable[str]:
    indices, articles = settings.template_indices(), ARTICLES in settings.as_reference
    for number, caption in enumerate(evaluation_set.captions[image][:CAPTIONS_PER_IMAGE]):
        if configuration == "captions":
            yield " ".join(caption.split())
            continue
        if indices is None:
            # Seeded by the caption's own place, so that the draw depends on no other image and no configuration.
            rng = random.Random(f"{settings.seed}/{evaluation_set.keys[image]}/{number}")
            texts = prompts.general_texts(caption, rng, articles)
        else:
            texts = [prompts.general_text(caption, index, articles) for index in indices]
        for text in texts:
            written = prompts.expand(text, configuration, evaluation_set.names[image])
            yield prompts.as_reference_reads(written) if HIDDEN_TOKEN in settings.as_reference else written


def _curves(
    ranks: Ranks, images: np.ndarray, scene_sizes: np.ndarray, evaluation_set: EvaluationSet
) -> dict[str, Points]:
    lines = {"gallery_size": curves.gallery_size(ranks.t2i, len(evaluation_set))}
    if ranks.rivals is not None:
        lines["people_per_scene"] = curves.people_per_scene(ranks.t2i, ranks.rivals, scene_sizes[images] - 1)
    if evaluation_set.face_heights is not None:
        lines["face_pixels"] = curves.face_pixels(ranks.t2i, evaluation_set.face_heights, images)
    return {name: points for name, points in lines.items() if points}


def _failures(scores: Scores, ranks: Ranks, queries: Queries, evaluation_set: EvaluationSet) -> list[dict[str, Any]]:
    worst = worst_queries(ranks.t2i, queries.image_of_query)
    texts = [queries.texts[row] for row in queries.text_of_query[worst]]
    return describe_failures(
        scores, queries.row_of_query[worst], texts, queries.image_of_query[worst], ranks.t2i[worst],
        evaluation_set.keys, evaluation_set.identity_ids,
    )  # fmt: skip


def _check_choices(chosen: Sequence[str], allowed: Sequence[str], what: str) -> None:
    unknown = [name for name in chosen if name not in allowed]
    if unknown or not chosen:
        raise IdClipError(f"{what} {', '.join(map(repr, unknown)) or 'missing'}; choose from {', '.join(allowed)}")
