"""Palette of the miniature world: the words that captions use -> the colours that are drawn for them, RGB 0-255."""

import numpy as np

Colour = tuple[int, int, int]

CLOTHES: dict[str, Colour] = {
    "red": (205, 44, 48),
    "orange": (236, 128, 38),
    "yellow": (242, 205, 60),
    "green": (48, 140, 72),
    "blue": (44, 92, 192),
    "purple": (122, 62, 152),
    "pink": (238, 138, 172),
    "brown": (122, 78, 48),
    "black": (36, 36, 42),
    "white": (240, 240, 238),
    "gray": (138, 142, 148),
}

HAIR: dict[str, Colour] = {
    "black": (30, 25, 26),
    "dark brown": (62, 42, 32),
    "brown": (106, 70, 44),
    "red": (160, 74, 36),
    "blond": (214, 176, 106),
    "gray": (150, 148, 146),
    "white": (224, 222, 218),
}

EYES: dict[str, Colour] = {
    "dark": (52, 34, 26),
    "brown": (110, 70, 36),
    "hazel": (132, 112, 56),
    "green": (86, 132, 82),
    "blue": (70, 122, 178),
    "gray": (128, 142, 152),
}

_SKIN_RAMP = np.array(
    [(255, 224, 204), (246, 204, 174), (226, 172, 134), (190, 132, 92), (142, 92, 62), (96, 62, 44), (66, 44, 34)],
    np.float64,
)


def skin_colour(tone: float, warmth: float = 0.0, redness: float = 0.0) -> Colour:
    """Return the skin colour of `tone` (0 = lightest, 1 = darkest); `warmth` and `redness` shift it, in standard deviations."""
    place = float(np.clip(tone, 0.0, 1.0)) * (len(_SKIN_RAMP) - 1)
    low = min(int(place), len(_SKIN_RAMP) - 2)
    base = _SKIN_RAMP[low] + (place - low) * (_SKIN_RAMP[low + 1] - _SKIN_RAMP[low])
    shifted = base + warmth * np.array([2.0, 1.0, -7.0]) + redness * np.array([3.0, -5.0, -3.0])
    return clip_colour(shifted)


def clip_colour(values: np.ndarray | tuple[float, ...]) -> Colour:
    """Round to the nearest RGB colour."""
    red, green, blue = values
    return _byte(red), _byte(green), _byte(blue)


def _byte(value: float) -> int:
    return 0 if value < 0 else 255 if value > 254.5 else int(value + 0.5)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return `first` with `share` (0-1) of `second` mixed in."""
    rest = 1.0 - share
    red, green, blue = first
    return (
        _byte(rest * red + share * second[0]),
        _byte(rest * green + share * second[1]),
        _byte(rest * blue + share * second[2]),
    )


def shade(colour: Colour, factor: float) -> Colour:
    """Return `colour` times `factor`: below 1 darker, above 1 lighter."""
    return _byte(factor * colour[0]), _byte(factor * colour[1]), _byte(factor * colour[2])
