"""Ranking: a query's vectors + an index and its faces -> rows, best first (candidates, exact scores, fusion, thresholds).

Role: `QueryParts` + an index and its faces -> `Ranking`. Candidates come from the image index and from the face index; each
is scored exactly. Up to `MOST_EXACT` rows every allowed row is a candidate. Equal scores are ordered by row, and the
number of candidates does not depend on the page, so that pages fit together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import faiss
import numpy as np

from open_clip_idplugin.faces.calibration import Calibration, assumed_calibration
from open_clip_idplugin.queries import fusion
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex, PersonMatches
from open_clip_idplugin.retrieval.index_folder.id_selector import selected
from open_clip_idplugin.retrieval.index_folder.vectors import StoredVectors
from open_clip_idplugin.retrieval.ranking.query_parts import Alternative, Persons, QueryParts
from open_clip_idplugin.retrieval.ranking.ranking_request import RankingRequest

MOST_EXACT = 10_000  # rows that are scored one by one
_FEWEST_CANDIDATES = 1024


@dataclass(frozen=True, eq=False)
class Searched:
    """What is searched: an index over rows, the vectors behind it, the images' faces, and the rows allowed."""

    index: faiss.Index
    vectors: StoredVectors
    faces: FaceIndex | None = None
    allowed: np.ndarray | None = None  # [rows] bool

    @property
    def count(self) -> int:
        """Rows that may be found."""
        return int(self.index.ntotal if self.allowed is None else np.count_nonzero(self.allowed))


@dataclass(frozen=True, eq=False)
class Ranking:
    """R images, best first.

    rows [R] int64; scores [R] float64; similarities [R] float32: cosine with the alternative's vector; choices [R] int64:
    the alternative that fits best; probabilities [R] float64: that all its people are in the image, 0 where no faces were
    compared; matches: of each alternative's people, in the order of `rows`, None without faces.
    """

    rows: np.ndarray
    scores: np.ndarray
    similarities: np.ndarray
    choices: np.ndarray
    probabilities: np.ndarray
    matches: tuple[PersonMatches | None, ...]

    def take(self, places: np.ndarray) -> "Ranking":
        """Some of them, in the order of `places`."""
        matches = tuple(
            None
            if match is None
            else PersonMatches(match.similarities[:, places], match.faces[:, places], match.counts[places])
            for match in self.matches
        )
        names = ("rows", "scores", "similarities", "choices", "probabilities")
        chosen = {name: getattr(self, name)[places] for name in names}
        return replace(self, matches=matches, **chosen)


def rank(parts: QueryParts, rules: RankingRequest, only: bool, searched: Searched, wanted: int) -> Ranking:
    """All candidates that pass the thresholds, best first; at least the first `wanted` are the right ones.

    only: an image must show no further face.
    """
    rule = rules.fusion or fusion.WEIGHTED
    scale = assumed_calibration("") if searched.faces is None else searched.faces.calibration
    fused = rules.fused_by(scale)
    compares = parts.has_people and (rule != fusion.NONE or only or rules.cuts_faces)
    scored = replace(searched, faces=searched.faces if compares else None)
    rows = _candidates(parts, rules, scored, _candidate_count(wanted))
    vectors = searched.vectors.get(rows)
    penalty = 0.0 if parts.negative is None else rules.negative_weight * (vectors @ parts.negative)
    unwanted = _shows_any(parts.unwanted, rows, fused.threshold, searched.faces)
    scores, similarities, matches, probabilities = [], [], [], []
    for alternative in parts.alternatives:
        similarity = vectors @ alternative.vector
        match, probability = None, np.zeros(len(rows))
        if scored.faces is not None and len(alternative.persons):
            match = scored.faces.match(alternative.persons.faces, rows)
            probability = _probability(match, scale, searched.count)
        score = _fuse(similarity - penalty, match, fused)
        keep = _passes(similarity, match, probability, rules, scale, only) & ~unwanted
        scores.append(np.where(keep, score, -np.inf))
        similarities.append(similarity)
        matches.append(match)
        probabilities.append(probability)
    best = np.argmax(scores, axis=0) if len(rows) else np.zeros(0, np.int64)
    every = np.arange(len(rows))
    found = Ranking(
        rows,
        np.array(scores)[best, every],
        np.array(similarities)[best, every],
        best,
        np.array(probabilities)[best, every],
        tuple(matches),
    )
    kept = np.flatnonzero(np.isfinite(found.scores))
    return found.take(kept[np.lexsort((rows[kept], -found.scores[kept]))])


def collapse(ranking: Ranking, wanted: int, same: Callable[[int, int], bool]) -> Ranking:
    """The first `wanted` images of which none is the `same` as a better one; `same` takes two places."""
    kept: list[int] = []
    for place in range(len(ranking.rows)):
        if len(kept) == wanted:
            break
        if not any(same(other, place) for other in kept):
            kept.append(place)
    return ranking.take(np.asarray(kept, np.int64))


def first_of_each(values: np.ndarray) -> np.ndarray:
    """Places [K] of the first of every distinct value; what is missing (None, NaN) is never a duplicate."""
    seen: set[object] = set()
    places = []
    for place, value in enumerate(values.tolist()):
        missing = value is None or value != value
        if missing or value not in seen:
            places.append(place)
        if not missing:
            seen.add(value)
    return np.asarray(places, np.int64)


def near_duplicates(
    ranking: Ranking, searched: Searched, likeness: float, face_threshold: float
) -> Callable[[int, int], bool]:
    """Whether two places show the same scene *and* the same people: the same scene with another face is another image."""
    vectors = searched.vectors.get(ranking.rows)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    faces = searched.faces

    def same(one: int, other: int) -> bool:
        if float(vectors[one] @ vectors[other]) < likeness or faces is None:
            return False
        first, second = (faces.faces_of(int(ranking.rows[place])) for place in (one, other))
        if len(first) != len(second):
            return False
        likenesses = np.asarray(faces.embeddings[list(first)] @ faces.embeddings[list(second)].T)
        chosen = fusion.match_faces(likenesses)
        return bool((likenesses[np.arange(len(first)), chosen] >= face_threshold).all())

    return same


def _candidate_count(wanted: int) -> int:
    """Grows by doubling, so that the pages of one search have the same candidates nearly always."""
    count = _FEWEST_CANDIDATES
    while count < 2 * wanted:
        count *= 2
    return count


def _candidates(parts: QueryParts, rules: RankingRequest, searched: Searched, count: int) -> np.ndarray:
    """Distinct rows, ascending."""
    if searched.count <= max(MOST_EXACT, count):
        allowed = searched.allowed
        return np.arange(searched.index.ntotal) if allowed is None else np.flatnonzero(allowed)
    found = []
    for alternative in parts.alternatives:
        found.append(_nearest(alternative, parts.negative, rules.negative_weight, searched, count))
        if searched.faces is not None:
            found += [
                searched.faces.nearest_images(face, count, searched.allowed) for face in alternative.persons.faces
            ]
    return np.unique(np.concatenate(found))


def _nearest(
    alternative: Alternative, negative: np.ndarray | None, weight: float, searched: Searched, count: int
) -> np.ndarray:
    query = alternative.vector if negative is None else alternative.vector - weight * negative
    query = np.ascontiguousarray(query[None], np.float32)
    if searched.allowed is None:
        _, found = searched.index.search(query, count)
        return found[0][found[0] >= 0]
    parameters = selected(searched.index, searched.allowed, count)
    if parameters is not None:
        _, found = searched.index.search(query, count, params=parameters)
        return found[0][found[0] >= 0]
    share = searched.index.ntotal / max(searched.count, 1)  # a kind of index that cannot select: look further instead
    _, found = searched.index.search(query, min(int(4 * share * count), searched.index.ntotal))
    rows = found[0][found[0] >= 0]
    return rows[searched.allowed[rows]][:count]


def _fuse(context: np.ndarray, match: PersonMatches | None, rule: fusion.Fusion) -> np.ndarray:
    """[R] float64, rounded so that what is equal but for the order of a sum ties, and is ordered by row.

    Reciprocal ranks are rounded before they are ranks: they differ by less than a millionth from place 1,365 on.
    """
    if match is None:
        return np.round(context.astype(np.float64), fusion.DIGITS)
    score = rule.fuse(context, rule.of_people(match.similarities), match.counts > 0).astype(np.float64)
    return score if rule.rule == fusion.RECIPROCAL_RANK else np.round(score, fusion.DIGITS)


def _probability(match: PersonMatches, calibration: Calibration, images: int) -> np.ndarray:
    """[R] float64: that all people are in each image, as far as faces tell; the people are taken as independent."""
    together = np.ones(len(match.counts))
    for similarities, faces in zip(match.similarities, match.faces, strict=True):
        others = np.where(faces >= 0, similarities, -1)  # every face is somebody else's
        together *= calibration.probability(others, match.counts, images)
    return together


def _passes(
    similarity: np.ndarray,
    match: PersonMatches | None,
    probability: np.ndarray,
    rules: RankingRequest,
    scale: Calibration,
    only: bool,
) -> np.ndarray:
    """[R] bool: whether each image reaches every threshold. Every person must reach that of the face."""
    keep = np.ones(len(similarity), bool)
    if rules.min_similarity is not None:
        keep &= similarity >= rules.min_similarity
    if match is None:
        return keep
    least = rules.least_face(scale)
    if least is not None:
        keep &= np.where((match.faces >= 0).all(axis=0), match.similarities.min(axis=0), -np.inf) >= least
    if rules.min_probability is not None:
        keep &= probability >= rules.min_probability
    return keep & (match.counts == len(match.faces)) if only else keep


def _shows_any(persons: Persons, rows: np.ndarray, threshold: float, faces: FaceIndex | None) -> np.ndarray:
    """[R] bool: whether an image shows one of the unwanted people."""
    shown = np.zeros(len(rows), bool)
    for number in range(len(persons)):
        if faces is not None:
            match = faces.match(persons.one(number).faces, rows)
            shown |= (match.faces[0] >= 0) & (match.similarities[0] >= threshold)
    return shown
