"""Backgrounds: the name of a place -> a picture of it, in detail drawn at random."""

from collections.abc import Callable

import numpy as np

from webdataset_tools.miniature import indoor_places, outdoor_places
from webdataset_tools.miniature.canvas import Ground

PLACES: dict[str, Callable[[Ground], None]] = {
    "beach": outdoor_places.beach,
    "park": outdoor_places.park,
    "street": outdoor_places.street,
    "kitchen": indoor_places.kitchen,
    "office": indoor_places.office,
    "mountain": outdoor_places.mountain,
    "snow": outdoor_places.snow,
    "tennis court": outdoor_places.tennis_court,
    "living room": indoor_places.living_room,
    "forest": outdoor_places.forest,
    "desert": outdoor_places.desert,
    "lake": outdoor_places.lake,
    "train station": indoor_places.train_station,
    "library": indoor_places.library,
    "city at night": outdoor_places.city_at_night,
    "garden": outdoor_places.garden,
    "stadium": indoor_places.stadium,
}


def draw_place(canvas: np.ndarray, place: str, rng: np.random.Generator) -> None:
    """Paint `place` (a key of PLACES) over the whole square canvas."""
    PLACES[place](Ground(canvas, rng))
