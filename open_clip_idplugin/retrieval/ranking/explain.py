"""Explanation of a result: one place of a `Ranking` -> scores, matched faces with their boxes, and a sentence.

Role: one place of a `Ranking` -> the fields that a result has beside clip-retrieval's own.
"""

from typing import Any

from open_clip_idplugin.queries import fusion
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex, PersonMatches
from open_clip_idplugin.retrieval.ranking.query_parts import QueryParts
from open_clip_idplugin.retrieval.ranking.ranking import Ranking
from open_clip_idplugin.retrieval.ranking.ranking_request import RankingRequest

_SCORE_DIGITS = 9  # reciprocal ranks differ by less than a millionth


def explain(
    ranking: Ranking, place: int, parts: QueryParts, rules: RankingRequest, faces: FaceIndex | None
) -> dict[str, Any]:
    """`score`, `text_similarity`, `face_similarity`, `face_box`, `face_box_relative`, `matched`, `probability`, `person_as`
    and `why`."""
    choice = int(ranking.choices[place])
    names, match = parts.alternatives[choice].persons.names, ranking.matches[choice]
    similarity = round(float(ranking.similarities[place]), 6)
    values: dict[str, Any] = {"score": round(float(ranking.scores[place]), _SCORE_DIGITS)}
    if parts.from_text:
        values["text_similarity"] = similarity
    if names:
        values["person_as"] = parts.person_as
    reasons = [f"{'text' if parts.from_text else 'image'} similarity {similarity:.3f}{_wording(parts, choice)}"]
    if match is not None and faces is not None:
        matched = [_matched(name, person, match, place, faces) for person, name in enumerate(names)]
        values |= _face_fields(matched, match, place)
        reasons += [_reason(entry, int(match.counts[place])) for entry in matched]
        reasons[1:] = [f"{_rule(rules, faces)}: {'; '.join(reasons[1:])}"]
        values["probability"] = float(f"{ranking.probabilities[place]:.4g}")
    if parts.negative is not None:
        reasons.append("less the similarity to the negative text")
    return {**values, "why": "; ".join(reasons)}


def _wording(parts: QueryParts, choice: int) -> str:
    """What the people were written as, where that is no identity token."""
    text = parts.alternatives[choice].in_words
    return f" to '{text}'" if text is not None else ""


def _matched(name: str, person: int, match: PersonMatches, place: int, faces: FaceIndex) -> dict[str, Any]:
    face = int(match.faces[person, place])
    if face < 0:
        return {"name": name}
    box, relative = faces.box(face)
    similarity = round(float(match.similarities[person, place]), 6)
    return {"name": name, "face_similarity": similarity, "face_box": box, "face_box_relative": relative}


def _face_fields(matched: list[dict[str, Any]], match: PersonMatches, place: int) -> dict[str, Any]:
    values: dict[str, Any] = {"faces_found": int(match.counts[place]), "matched": matched}
    seen = [entry for entry in matched if "face_box" in entry]
    if seen:
        values["face_similarity"] = round(float(match.similarities[:, place].mean()), 6)
        values |= {name: seen[0][name] for name in ("face_box", "face_box_relative")}
    return values


def _rule(rules: RankingRequest, faces: FaceIndex) -> str:
    rule = rules.fused_by(faces.calibration)
    if rules.fusion == fusion.NONE:
        return "faces (not in the score)"
    if rules.fusion == fusion.FILTER:
        return f"faces from {rule.threshold:.3g} on"
    how = "by rank, " if rules.fusion == fusion.RECIPROCAL_RANK else ""
    return f"faces ({how}weight {rule.weight:g})"


def _reason(entry: dict[str, Any], count: int) -> str:
    if "face_similarity" in entry:
        return f"{entry['name']} {entry['face_similarity']:.3f}"
    return f"{entry['name']} unknown, " + ("no face was found" if not count else "every face is somebody else's")
