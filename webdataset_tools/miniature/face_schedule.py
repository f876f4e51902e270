"""Learning-rate schedules of the miniature's own trainings."""

import math


def cosine_share(step: int, steps: int, warm_up: int = 60) -> float:
    """Share of the learning rate at `step`: linear warm-up, then half a cosine down to zero at `steps`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
