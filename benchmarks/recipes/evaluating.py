"""A trained cell -> what it finds: protocols, rivals, the hybrid, the best template and curves, split by split.

Role: who is asked what, and what is computed once for many cells. Rules and the template are chosen on validation, whatever
splits are reported. Cells that leave the image tower as it is share the images' features; those that leave both towers
as they are share the answers to queries without a face; faces are detected once for a world.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes.bench_faces import BenchFaces
from benchmarks.recipes.cells import VALIDATION, WITHOUT_FACE, Bench, Cell
from benchmarks.recipes.choices import Choices, best_template, first_share, one_caption_each
from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.evaluation.evaluation_set import unit_rows
from open_clip_idplugin.evaluation.face_scores import DetectedFaces
from open_clip_idplugin.evaluation.protocols import (
    PROTOCOLS,
    Asked,
    EvaluationSet,
    Results,
    Settings,
    answer,
    ask,
)
from open_clip_idplugin.evaluation.rivals import (
    CAPTION_AND_FACE,
    FILTER_FACES,
    HYBRID,
    FacedQueries,
    photo_results,
    rules_of,
    split_by_faces,
)
from open_clip_idplugin.prompts import GENERAL_TEMPLATES
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from webdataset_tools.evaluation_data import encode_images, load_evaluation_set
from webdataset_tools.photo_features import photo_features

CAPTIONS, BY_FACE = "captions", "conf1"
BEST_TEMPLATE = f"{BY_FACE} best template"
ENROLMENT = "enrolment_photos"


@dataclass(frozen=True)
class Side:
    """One split as a cell sees it: who is in which image, image features [N, E], and the faces found in the images."""

    split: str
    evaluation_set: EvaluationSet
    features: np.ndarray
    faces: DetectedFaces


class Evaluator:
    """Evaluates one cell after another; what they share is kept in memory."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._faces = BenchFaces(bench)
        self._sets: dict[str, tuple[EvaluationSet, DetectedFaces]] = {}
        self._features: dict[str, np.ndarray] = {}  # of the frozen image tower
        self._plain: dict[tuple[str, str], Results] = {}  # of queries without a face to frozen towers

    def evaluate(self, cell: Cell, loaded: LoadedModel) -> dict[str, dict[str, Any]]:
        """Split -> `metrics`, `strata`, `curves`, `failures`, `tuned`, and `best_template` where a face is asked for."""
        encoder = QueryEncoder(loaded)
        choices, documents = Choices(), {}
        for split in dict.fromkeys((VALIDATION, *self._bench.splits)):
            side = self._side(split, cell, loaded, encoder)
            asked = self._ask_with_faces(cell, side, encoder)
            if split == VALIDATION:
                choices = _choose(cell, side, encoder, asked)
            if split in self._bench.splits:
                results = self._answers(cell, side, encoder, asked)
                results.update(self._faced_answers(cell, side, encoder, asked, choices, loaded))
                documents[split] = _document(results, choices)
        return documents

    def _side(self, split: str, cell: Cell, loaded: LoadedModel, encoder: QueryEncoder) -> Side:
        shards = self._bench.world.shards(split)
        features = self._features.get(split) if cell.recipe.keeps_image_features else None
        if features is None:
            known = self._sets[split][0] if split in self._sets else load_evaluation_set(shards)
            encoded = encode_images(shards, known, encoder, loaded.preprocess, workers=0, progress=False)
            features = encoded.features
            if split not in self._sets:
                faces = self._faces.detected(split, encoded.evaluation_set)
                self._sets[split] = split_by_faces(encoded.evaluation_set, faces), faces
            if cell.recipe.keeps_image_features:
                self._features[split] = features
        evaluation_set, faces = self._sets[split]
        return Side(split, evaluation_set, features, faces)

    def _settings(self, cell: Cell, configuration: str) -> Settings:
        asked = cell.configurations(self._bench)
        protocols = tuple(protocol for protocol in PROTOCOLS if configuration in asked[protocol])
        return Settings((configuration,), protocols, self._bench.templates)

    def _ask_with_faces(self, cell: Cell, side: Side, encoder: QueryEncoder) -> dict[str, Asked]:
        """What rankings by faces take as context: captions for plain CLIP, conf1 for a trained cell."""
        name = BY_FACE if cell.recipe.trained else CAPTIONS
        if name not in cell.configurations(self._bench)["general"]:
            return {}
        return {name: ask(side.evaluation_set, name, encoder, self._settings(cell, name))}

    def _answers(self, cell: Cell, side: Side, encoder: QueryEncoder, asked: Mapping[str, Asked]) -> Results:
        """The protocols for every configuration."""
        whole, configurations = Results(), cell.configurations(self._bench)
        for name in dict.fromkeys(name for protocol in PROTOCOLS for name in configurations[protocol]):
            shared = name in WITHOUT_FACE and cell.recipe.keeps_plain_answers
            results = self._plain.get((side.split, name)) if shared else None
            if results is None:
                settings = self._settings(cell, name)
                queries = asked[name] if name in asked else ask(side.evaluation_set, name, encoder, settings)
                results = answer(queries, name, side.evaluation_set, side.features, settings)
            if shared:
                self._plain[side.split, name] = results
            whole.update(results)
        return whole

    def _faced_answers(
        self,
        cell: Cell,
        side: Side,
        encoder: QueryEncoder,
        asked: Mapping[str, Asked],
        choices: Choices,
        loaded: LoadedModel,
    ) -> Results:
        """The rivals of plain CLIP; the hybrid and the best template of a trained cell."""
        results = Results()
        if not asked:
            return results
        ((name, queries),) = asked.items()
        settings = Settings((name,), PROTOCOLS, self._bench.templates)
        for row in _rows(cell):
            faced = FacedQueries.of(side.evaluation_set, queries, side.features, side.faces, settings)
            results.update(faced.results(row, choices.rules[row]))
        if side.split == self._bench.splits[-1]:
            results.curves[ENROLMENT] = self._enrolment(cell, side, encoder, name, choices)
        if name == CAPTIONS:
            photos = self._photo_features(side, encoder, loaded)
            if photos is not None:
                results.update(photo_results(side.evaluation_set, queries, side.features, photos, settings))
        elif choices.template is not None:
            best = replace(settings, protocols=("general",), templates=choices.template)
            if str(choices.template) != str(self._bench.templates):
                queries = ask(side.evaluation_set, name, encoder, best)
            general = replace(queries, people=None)
            results.update(answer(general, BEST_TEMPLATE, side.evaluation_set, side.features, best))
        return results

    def _photo_features(self, side: Side, encoder: QueryEncoder, loaded: LoadedModel) -> np.ndarray | None:
        photos: list[Path] | None = self._faces.photos(side.split, side.evaluation_set)
        return None if photos is None else photo_features(photos, encoder, loaded.preprocess)

    def _enrolment(
        self, cell: Cell, side: Side, encoder: QueryEncoder, configuration: str, choices: Choices
    ) -> dict[str, list[list[float]]]:
        """t2i R@1 when the query face is the mean of a person's first 1, 2, ... photos; one caption an image asks."""
        enrolled = self._faces.enrolled(side.split, side.evaluation_set)
        few, settings = one_caption_each(side.evaluation_set), Settings((configuration,), ("general",), "0")
        lines: dict[str, list[list[float]]] = {}
        for count in range(1, max(map(len, enrolled.values()), default=0) + 1):
            known = replace(few, faces=_mean_faces(few, enrolled, count))
            asked = ask(known, configuration, encoder, settings)
            if configuration == BY_FACE:
                lines.setdefault(BY_FACE, []).append([float(count), first_share(asked, side.features)])
            for row in _rows(cell):
                faced = FacedQueries.of(known, asked, side.features, side.faces, settings)
                lines.setdefault(row, []).append([float(count), faced.first_share(choices.rules[row])])
        return lines


def _rows(cell: Cell) -> tuple[str, ...]:
    """Rows that fuse faces."""
    return (HYBRID,) if cell.recipe.trained else (FILTER_FACES, CAPTION_AND_FACE)


def _choose(cell: Cell, side: Side, encoder: QueryEncoder, asked: Mapping[str, Asked]) -> Choices:
    if not asked:
        return Choices()
    ((name, queries),) = asked.items()
    settings = Settings((name,), ("general",))
    faced = FacedQueries.of(side.evaluation_set, queries, side.features, side.faces, settings)
    tried = rules_of(side.faces.calibration)
    rules = {row: faced.tune(tried[row]) for row in _rows(cell)}
    template = best_template(side.evaluation_set, side.features, encoder, name) if cell.recipe.trained else None
    return Choices(template, rules)


def _mean_faces(evaluation_set: EvaluationSet, enrolled: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """[N, D]: the mean of `count` photos of each image's person; the face that the image carries where there is no photo."""
    rows = [
        enrolled[identity][:count].mean(axis=0) if identity in enrolled else evaluation_set.faces[row]
        for row, identity in enumerate(evaluation_set.identity_ids)
    ]
    return unit_rows(np.stack(rows), "means of identity photos")


def _document(results: Results, choices: Choices) -> dict[str, Any]:
    fields = ("metrics", "strata", "curves", "failures", "tuned")
    document: dict[str, Any] = {name: getattr(results, name) for name in fields}
    if choices.template is not None:
        text = GENERAL_TEMPLATES[choices.template]
        document["best_template"] = {"index": choices.template, "text": text, "chosen_on": VALIDATION}
    return document
