"""Regions on detected faces: named regions, faces -> which is which, and whether the picture is still that one.

Role: boxes of regions and faces -> one face a region, or a reason. Geometry alone; `region_identity` looks at embeddings.

A turned or mirrored copy of an equal ratio, or one cut to an equal ratio, is not told by dimensions: regions then lie on
nobody, or on neighbours. So the regions are laid in the other ways too. Where one of those fits the faces better and would give
them other names, nobody knows which is right, and nobody of the picture is enrolled.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from open_clip_idplugin.gallery.region_frames import Frames, lay

_SCALES = (0.2, 5.0)  # of a cut or a border that is looked for
_SIDES = 2.0  # a face's side and its region's differ by less: programs draw from chin to brow, or the whole head
_FITTED = 2  # regions that a cut is fitted to; only further ones that lie on faces speak for it
_CROWD = 50  # faces beyond which no cut is looked for: anything fits

NO_FACE = "no face was found in the region"
SHARED = "another region lies on the same face"
TURNED = "the faces lie where the regions would be if the picture had been turned or mirrored since"
CUT = "the faces lie where the regions would be if the picture had been cut or framed since"
FEW = "too few regions of this picture lie on faces: they seem to be those of other pixels"


@dataclass(frozen=True)
class Fit:
    """One way of laying the regions: region -> face, and how well they agree (intersection over union)."""

    faces: dict[int, int] = field(default_factory=dict)
    shared: dict[int, int] = field(default_factory=dict)  # the same where a region of another name wants the face too
    agreement: float = 0.0

    @property
    def rank(self) -> tuple[int, float]:
        """More faces first, then the better agreement."""
        return len(self.faces), self.agreement


@dataclass(frozen=True)
class Placing:
    """Region -> face, and for every other region the reason."""

    faces: dict[int, int]
    reasons: dict[int, str]


def place_regions(names: list[str], boxes: np.ndarray, faces: np.ndarray, frames: Frames) -> Placing:
    """Find the face of each region.

    Args:
        names: of R regions.
        boxes: [R, 4] x0, y0, x1, y1 as shares of the noted frame.
        faces: [F, 4] the same of the upright picture.
        frames: the ways to lay them; at least one is claimed.
    """
    if not len(boxes):
        return Placing({}, {})
    laid = [lay(boxes, turn) for turn in frames.claimed]
    fits = [fit_regions(names, one, faces) for one in laid]
    best = max(range(len(fits)), key=lambda place: fits[place].rank)  # the first of equals: as the standard says
    fit = fits[best]
    others = [fit_regions(names, lay(boxes, turn), faces) for turn in frames.possible]
    others += [one for place, one in enumerate(fits) if place != best and one.rank == fit.rank]
    if any(_contradicts(other, fit) for other in others):
        return _nobody(names, TURNED)
    cuts = _cuts(names, laid[best], faces) if fit.rank[0] < len(names) else ()
    if any(_contradicts(other, fit, _FITTED) for other in cuts):
        return _nobody(names, CUT)
    left_over = len(faces) > len({*fit.faces.values(), *fit.shared.values()})
    if 0 < len(fit.faces) * 2 < len(names) + left_over:  # half is few where faces are left over
        return _nobody(names, FEW)
    reasons = {
        place: SHARED if place in fit.shared else NO_FACE for place in range(len(names)) if place not in fit.faces
    }
    return Placing(fit.faces, reasons)


def fit_regions(names: list[str], boxes: np.ndarray, faces: np.ndarray) -> Fit:
    """Lay [R, 4] regions on [F, 4] faces.

    A region and its face hold the middle of each other, and neither is much larger; of several such faces the one that agrees
    best counts.
    """
    if not len(faces):
        return Fit()
    overlaps = np.where(_meet(boxes, faces), overlap(boxes, faces), 0.0)
    chosen = {row: int(overlaps[row].argmax()) for row in range(len(boxes)) if overlaps[row].max() > 0}
    wanted: dict[int, set[str]] = {}
    for row, face in chosen.items():
        wanted.setdefault(face, set()).add(names[row])
    shared = {row: face for row, face in chosen.items() if len(wanted[face]) > 1}
    agreement = float(np.mean([overlaps[row, face] for row, face in chosen.items()])) if chosen else 0.0
    return Fit({row: face for row, face in chosen.items() if row not in shared}, shared, agreement)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of [N, 4] and [M, 4] boxes: [N, M]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 1e-12, None).prod(axis=1) for boxes in (one, other)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def _meet(boxes: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[R, F] whether a region may be meant for a face."""
    sides = [np.sqrt(np.clip(one[:, 2:] - one[:, :2], 1e-9, None).prod(axis=1)) for one in (boxes, faces)]
    ratio = sides[0][:, None] / sides[1][None]
    return _hold(boxes, faces) & _hold(faces, boxes).T & (ratio < _SIDES) & (ratio > 1 / _SIDES)


def _hold(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N, M] whether each of N boxes holds the middle of each of M."""
    middles = _middles(other)[None]
    return ((middles >= one[:, None, :2]) & (middles <= one[:, None, 2:])).all(axis=2)


def _middles(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _contradicts(other: Fit, fit: Fit, fitted: int = 0) -> bool:
    """Whether another way fits as well or better and names faces otherwise.

    One that was fitted to `fitted` regions agrees with them by construction: it must find further faces, and more.
    """
    named = any(fit.faces.get(row) != face for row, face in other.faces.items())
    better = other.rank[0] > max(fit.rank[0], fitted) if fitted else other.rank >= fit.rank
    return named and better


def _cuts(names: list[str], boxes: np.ndarray, faces: np.ndarray) -> Iterator[Fit]:
    """Fits after a cut or border that keeps the ratio: shift and scale from the two regions that are farthest apart."""
    if len(boxes) <= _FITTED or not _FITTED < len(faces) <= _CROWD:
        return
    middles, places = _middles(boxes), _middles(faces)
    distances = np.linalg.norm(middles[:, None] - middles[None], axis=2)
    first, second = np.unravel_index(int(distances.argmax()), distances.shape)
    apart = middles[second] - middles[first]
    if not apart.any():
        return
    for one, other in np.ndindex(len(faces), len(faces)):
        between = places[other] - places[one]
        scale = float(between @ apart / (apart @ apart))
        aside = np.abs(between - scale * apart)
        if _SCALES[0] < scale < _SCALES[1] and (aside <= (faces[one, 2:] - faces[one, :2]) / 2).all():
            shift = np.tile(places[one] - scale * middles[first], 2)
            yield fit_regions(names, boxes * scale + shift, faces)


def _nobody(names: list[str], reason: str) -> Placing:
    return Placing({}, dict.fromkeys(range(len(names)), reason))
