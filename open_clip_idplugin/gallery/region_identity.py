"""Identity check of named faces: faces under names -> those that agree with the others, and those that do not.

Role: embeddings alone, after `region_placing` has looked at the geometry. Regions that were left behind by a program can lie on
a neighbour exactly, so that every face is compared with the other photos of its name, with those of all other names and with
the gallery. Both limits are the face model's own (`faces.calibration`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.gallery.likeness import same_face
from open_clip_idplugin.gallery.person_names import fold_name
from open_clip_idplugin.gallery.region_faces import NamedFace
from open_clip_idplugin.gallery.store import Gallery
from open_clip_idplugin.storage.reports import Skip

LIKE_ANOTHER = "face that looks like somebody else"
UNLIKE_OTHERS = "face that does not look like the person's others"
_BLOCK = 1024  # faces compared at a time
_UNKNOWN = -2.0  # below every cosine: there is nothing to compare with


def check_identities(faces: Sequence[NamedFace], gallery: Gallery, model_id: str) -> tuple[list[NamedFace], list[Skip]]:
    """Leave out every face that

    * is nearer to another person than to its own, and so near that different people hardly are (`same_face`);
    * is compared with others of its name, and more likely a stranger's (`Calibration.neutral`); not where it is `confirmed`.

    The gallery is asked first: whoever it tells apart is no witness in the second round, in which a person is the gallery's mean
    where enrolled, for others also the mean of the other photos of that name. Nobody's word counts before another's there: of one
    right and one wrong photo neither is believed.
    """
    known, left = _leave_out_doubtful(faces, gallery, model_id, among_them=False)
    kept, more = _leave_out_doubtful(known, gallery, model_id, among_them=True)
    return kept, left + more


def _leave_out_doubtful(
    faces: Sequence[NamedFace], gallery: Gallery, model_id: str, among_them: bool
) -> tuple[list[NamedFace], list[Skip]]:
    if not faces:
        return [], []
    calibration, near = load_calibration(model_id), same_face(model_id)
    unsure = "; this face model's scale is assumed: idclip calibrate measures it" if calibration.assumed else ""
    people, own, others = _compare(faces, gallery, among_them)
    kept, left = [], []
    for row, face in enumerate(faces):
        other, cosine = others[row]
        words = f"cosine {own[row]:.2f}" if own[row] > _UNKNOWN else "there is no other photo"
        key = f"{face.name}/{face.key}"
        if cosine >= near and cosine > own[row]:
            detail = f"it looks like '{people[other]}' (cosine {cosine:.2f}); of '{face.name}': {words}{unsure}"
            left.append(Skip(key, LIKE_ANOTHER, detail))
        elif _UNKNOWN < own[row] < calibration.neutral and not face.confirmed:
            left.append(Skip(key, UNLIKE_OTHERS, f"{words} with them{unsure}"))
        else:
            kept.append(face)
    return kept, left


def _compare(
    faces: Sequence[NamedFace], gallery: Gallery, among_them: bool
) -> tuple[list[str], npt.NDArray[np.float64], list[tuple[int, float]]]:
    """Names of people, the cosine of every face with its own person and the most similar other with its cosine.

    among_them: compare with the other `faces` too, not with the gallery alone.
    """
    known = {fold_name(spelling): fold_name(name) for spelling, name in gallery.names_and_aliases().items()}
    shown: dict[str, str] = {}
    persons = []
    for face in faces:
        folded = fold_name(face.name)
        persons.append(known.get(folded, folded))
        shown.setdefault(persons[-1], face.name)
    names, means = gallery.means()
    shown.update((fold_name(name), name) for name in names)
    place = {name: number for number, name in enumerate(shown)}
    rows = np.stack([face.face.embedding for face in faces]).astype(np.float64)
    whose = np.array([place[person] for person in persons])
    sums = np.zeros((len(place), rows.shape[1]))
    counts = np.zeros(len(place), int)
    if among_them:
        np.add.at(sums, whose, rows)
        np.add.at(counts, whose, 1)
    enrolled = np.zeros_like(sums)
    for name, mean in zip(names, means):
        enrolled[place[fold_name(name)]] = mean
    own = np.full(len(rows), _UNKNOWN)
    others: list[tuple[int, float]] = []
    for start in range(0, len(rows), _BLOCK):
        part, mine = rows[start : start + _BLOCK], whose[start : start + _BLOCK]
        here = np.arange(len(part))
        with_gallery, with_others = _cosines(part, enrolled), _cosines(part, sums)
        alone = np.where(counts[mine] > 1, _row_cosines(part, sums[mine] - part), _UNKNOWN)
        own[start : start + _BLOCK] = np.where(enrolled[mine].any(axis=1), with_gallery[here, mine], alone)
        best = np.maximum(with_gallery, with_others)
        best[here, mine] = _UNKNOWN
        others += [(int(row.argmax()), float(row.max())) for row in best]
    return list(shown.values()), own, others


def _cosines(rows: npt.NDArray[np.float64], people: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[N, D] unit rows and [P, D] sums -> [N, P]; people without any are unknown."""
    norms = np.linalg.norm(people, axis=1)
    return np.where(norms > 0, rows @ people.T / np.maximum(norms, 1e-12), _UNKNOWN)


def _row_cosines(rows: npt.NDArray[np.float64], sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosine of each row with its own sum."""
    return (rows * sums).sum(axis=1) / np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
