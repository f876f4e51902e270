"""Faces that two names share: the same person enrolled twice, or a face of a collection that is somebody enrolled.

Role: embeddings + a gallery -> names and cosines. People whose consent has expired are not compared.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.gallery.names import fold_name
from open_clip_idplugin.gallery.store import Gallery

SAME_FACE = 0.5  # cosine of a photo with a person's mean; unrelated faces have about 0, see docs/people.md


@dataclass(frozen=True)
class Likeness:
    """An enrolled person whom new photos look like, and the best cosine of a photo with the person's mean."""

    name: str
    cosine: float


def find_likenesses(
    gallery: Gallery, name: str, embeddings: npt.NDArray[np.float32], threshold: float = SAME_FACE
) -> list[Likeness]:
    """Everybody but `name` (or whoever has it as an alias) whom one of the [K, D] unit rows looks like, best first."""
    known = gallery.names_and_aliases()
    own = next((person for spelling, person in known.items() if fold_name(spelling) == fold_name(name)), None)
    names, means = gallery.means()
    if not names:
        return []
    best = (np.atleast_2d(embeddings) @ means.T).max(axis=0)
    order = np.argsort(-best, kind="stable")
    found = [Likeness(names[place], float(best[place])) for place in order if best[place] >= threshold]
    return [likeness for likeness in found if likeness.name != own]
