"""Likenesses: face embeddings and a gallery -> people of other names who look like that.

Role: embeddings + a gallery -> names and cosines. People whose consent has expired are not compared.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.calibration import FMR_WARNINGS
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.gallery.person_names import fold_name
from open_clip_idplugin.gallery.store import Gallery


@dataclass(frozen=True)
class Likeness:
    """An enrolled person whom new photos look like, and the best cosine of a photo with the person's mean."""

    name: str
    cosine: float


def same_face(model_id: str | None, fmr: float = FMR_WARNINGS) -> float:
    """The cosine from which two faces are taken for one person: different people reach it with this false match rate."""
    return load_calibration(model_id).threshold(fmr)


def find_likenesses(
    gallery: Gallery, name: str, embeddings: npt.NDArray[np.float32], threshold: float | None = None
) -> list[Likeness]:
    """Everybody but `name` (or whoever has it as an alias) whom one of the [K, D] unit rows looks like, best first.

    threshold: cosine of a photo with a person's mean; None takes `same_face` of the gallery's face model.
    """
    with gallery.one_state():
        known, model_id, (names, means) = gallery.names_and_aliases(), gallery.model_id, gallery.means()
    own = next((person for spelling, person in known.items() if fold_name(spelling) == fold_name(name)), None)
    if not names:
        return []
    threshold = same_face(model_id) if threshold is None else threshold
    best = (np.atleast_2d(embeddings) @ means.T).max(axis=0)
    order = np.argsort(-best, kind="stable")
    found = [Likeness(names[place], float(best[place])) for place in order if best[place] >= threshold]
    return [likeness for likeness in found if likeness.name != own]
