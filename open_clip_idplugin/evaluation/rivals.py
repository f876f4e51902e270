"""Rankings by faces, with and without an identity token: what a practitioner would build, and the product's hybrid.

Role: encoded queries and detected faces -> the results that the protocols give, so that the rows share a table. The
rivals know captions, faces and face photos; the hybrid ranks by the text with the identity token and the face, by the
arithmetic of the search service (`open_clip_idplugin.queries.fusion`). Rules and numbers are tuned on other people.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from open_clip_idplugin.evaluation import strata
from open_clip_idplugin.evaluation.evaluation_set import people_of, unit_rows
from open_clip_idplugin.evaluation.face_scores import DetectedFaces, FaceScores, FusedScores
from open_clip_idplugin.evaluation.metrics import CosineScores, Scores, row_blocks
from open_clip_idplugin.evaluation.protocols import (
    Asked,
    EvaluationSet,
    Queries,
    Results,
    Settings,
    entity_results,
    general_results,
)
from open_clip_idplugin.faces.calibration import Calibration
from open_clip_idplugin.queries import fusion
from open_clip_idplugin.queries.fusion import Fusion

FILTER_FACES = "filter by face, then CLIP text"
CAPTION_AND_FACE = "late fusion"
PHOTO_SEARCH = "image search with the face photo"
MEAN_OF_BOTH = "mean of both"
RIVALS = (FILTER_FACES, CAPTION_AND_FACE, PHOTO_SEARCH, MEAN_OF_BOTH)
HYBRID = "hybrid"

_WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0)
_UNSEEN = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the way from the mean of different people to that of one person
_RATES = (0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)  # false match rates of a filter


@dataclass(frozen=True)
class FacedQueries:
    """Queries of a context and a face on one set: everything but the rule that fuses them.

    asked: the texts, whose features give the context; image_features: [N, E]; faces: those found in the N images;
    query_faces: [N, D], of the person of each query's own image
    """

    evaluation_set: EvaluationSet
    asked: Asked
    image_features: np.ndarray
    faces: DetectedFaces
    query_faces: np.ndarray
    settings: Settings

    @classmethod
    def of(
        cls, evaluation_set: EvaluationSet, asked: Asked, image_features: np.ndarray, faces: DetectedFaces, settings: Settings
    ) -> "FacedQueries":  # fmt: skip
        """The queries of a set, with the faces that its images carry for their people."""
        return cls(evaluation_set, asked, image_features, faces, evaluation_set.faces, settings)

    @property
    def queries(self) -> Queries:
        """The queries, with a row of scores each."""
        assert self.asked.queries is not None  # nobody fuses what was not asked
        return self.asked.queries.each_alone()

    def scores(self, rule: Fusion) -> FusedScores:
        """One row for every query: its text and the face of its image's person."""
        assert self.asked.features is not None
        device, queries = self.settings.device, self.queries
        contexts = CosineScores(self.asked.features, self.image_features, device)
        faces = FaceScores(self.query_faces, self.faces, rule.unseen, device)
        return FusedScores(contexts, faces, queries.text_of_query, queries.image_of_query, rule)

    def tune(self, rules: Sequence[Fusion]) -> Fusion:
        """The rule with the best t2i R@1 on this set, the first of several equal ones; asked in one pass."""
        return rules[int(self._hits(rules).argmax())]

    def first_share(self, rule: Fusion) -> float:
        """t2i R@1 by one rule."""
        return float(self._hits((rule,))[0] / len(self.queries.image_of_query))

    def _hits(self, rules: Sequence[Fusion]) -> np.ndarray:
        """How many queries find their image first, by every rule [len(rules)]."""
        scores, own = self.scores(rules[0]), torch.from_numpy(self.queries.image_of_query)
        hits = np.zeros(len(rules), np.int64)
        for start, stop in row_blocks(scores):
            context, face = scores.parts(start, stop)
            targets = own[start:stop].to(context.device)
            for number, rule in enumerate(rules):
                hits[number] += int((scores.fuse(context, face, rule).argmax(dim=1) == targets).sum())
        return hits

    def results(self, name: str, rule: Fusion) -> Results:
        """The protocols for one rule; `name` is that of the row.

        Entity retrieval fuses as well where the texts name the person, by the token; where they hold the caption alone, the
        query holds no context then, and the face ranks alone.
        """
        results = Results()
        if self.asked.queries is not None:
            results.add(name, general_results(self.scores(rule), self.queries, self.evaluation_set, self.settings))
        if "entity" in self.settings.protocols:
            results.add(name, more=entity_results(self._people_scores(rule), self.evaluation_set, self.settings))
        results.add(name, more=_numbers_of(rule))
        results.tuned[name] = _rule_to_json(rule)
        return results

    def _people_scores(self, rule: Fusion) -> Scores:
        _, _, means = people_of(self.evaluation_set)
        if self.evaluation_set.face_lengths is not None:  # cosines have no use for them
            means = unit_rows(means, "mean face embeddings")
        faces = FaceScores(means, self.faces, rule.unseen, self.settings.device)
        if self.asked.people is None:
            return faces
        contexts = CosineScores(self.asked.people, self.image_features, self.settings.device)
        every = np.arange(len(means))
        return FusedScores(contexts, faces, every, every, rule)


def rules_of(calibration: Calibration) -> dict[str, tuple[Fusion, ...]]:
    """The rules that are tried for each ranking by faces, on the scale of a face model."""
    impostors, genuines = calibration.impostors, calibration.genuines
    unseen = [impostors.mean + share * (genuines.mean - impostors.mean) for share in _UNSEEN]
    filters = [Fusion.of(calibration, fusion.FILTER, threshold=calibration.threshold(rate)) for rate in _RATES]
    sums = [Fusion.of(calibration, fusion.NONE)]
    sums += [Fusion.of(calibration, weight=weight, unseen=cosine) for weight in _WEIGHTS for cosine in unseen]
    ranks = [Fusion.of(calibration, fusion.RECIPROCAL_RANK, weight) for weight in (0.5, 1.0, 2.0)]
    return {FILTER_FACES: (*filters,), CAPTION_AND_FACE: (*sums,), HYBRID: (*sums, *filters, *ranks)}


def untuned(calibration: Calibration) -> dict[str, Fusion]:
    """What the service does where nobody tuned anything."""
    sums = Fusion.of(calibration)
    return {FILTER_FACES: Fusion.of(calibration, fusion.FILTER), CAPTION_AND_FACE: sums, HYBRID: sums}


def split_by_faces(evaluation_set: EvaluationSet, faces: DetectedFaces) -> EvaluationSet:
    """The set with the strata "face" (detected or missed) and "face_pixels"; heights that are not known are the detected."""
    known = evaluation_set.face_heights
    heights = faces.largest if known is None else np.where(np.isfinite(known), known, faces.largest)
    columns = {strata.FACE: strata.detection_labels(faces.detected), strata.FACE_PIXELS: strata.pixel_labels(heights)}
    if not np.isfinite(heights).any():
        del columns[strata.FACE_PIXELS]
    return replace(evaluation_set, groups={**evaluation_set.groups, **columns}, face_heights=heights)


def photo_results(
    evaluation_set: EvaluationSet, captions: Asked, image_features: np.ndarray, photos: np.ndarray, settings: Settings
) -> Results:
    """Image search with the face photo, and with the mean of its feature and the caption's.

    photos: [N, E] float32 unit rows, of a photo of each image's person. Entity retrieval asks with the mean of the photos of
    a person's images; the mean of both has no caption there and is left out.
    """
    results = Results()
    if captions.queries is not None and captions.features is not None:
        queries, features = captions.queries.each_alone(), captions.features
        own = photos[queries.image_of_query]
        both = unit_rows(features[queries.text_of_query] + own, "means of captions and photos")
        for name, rows in ((PHOTO_SEARCH, own), (MEAN_OF_BOTH, both)):
            scores = CosineScores(rows, image_features, settings.device)
            results.add(name, general_results(scores, queries, evaluation_set, settings))
    if "entity" in settings.protocols:
        owners = np.unique(np.asarray(evaluation_set.identity_ids), return_inverse=True)[1]
        sums = np.zeros((owners.max() + 1, photos.shape[1]), np.float32)
        np.add.at(sums, owners, photos)
        scores = CosineScores(unit_rows(sums, "photos of people"), image_features, settings.device)
        results.add(PHOTO_SEARCH, more=entity_results(scores, evaluation_set, settings))
    return results


def _numbers_of(rule: Fusion) -> dict[str, float]:
    if rule.rule == fusion.FILTER:
        return {"face_threshold": rule.threshold}
    return {"face_weight": 0.0 if rule.rule == fusion.NONE else rule.weight, "unseen_face": rule.unseen}


def _rule_to_json(rule: Fusion) -> dict[str, str | float]:
    return {"rule": rule.rule, **_numbers_of(rule)}
