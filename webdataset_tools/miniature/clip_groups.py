"""Word groups as labels: alt-texts -> multi-hot targets [N, G] for the image tower's first stage.

After SuperClass (Huang et al., "Classification Done Right for Vision-Language Pre-Training", arXiv 2411.03313): an image
encoder learns by predicting which pieces of text go with a picture. Here the pieces are single words and pairs of
neighbours, since "red" says less than "red shirt".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

_WORD = re.compile(r"[a-z]+|[,.:]")
# Words that say nothing about a picture: their coming and going is noise in the labels.
_STOP_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "at",
        "before",
        "beside",
        "by",
        "dressed",
        "in",
        "is",
        "near",
        "of",
        "on",
        "photo",
        "picture",
        "portrait",
        "some",
        "the",
        "there",
        "to",
        "wearing",
        "who",
        "with",
    )
)
# Groups in nearly every text, or in hardly any, teach nothing.
_MOST = 0.6
_FEWEST = 15


def groups_of(text: str) -> set[str]:
    """The words of a text that say something, in lower case, and the pairs of them that are neighbours."""
    words = _WORD.findall(text.lower())
    telling = [word.isalpha() and word not in _STOP_WORDS for word in words]
    singles = {word for word, tells in zip(words, telling) if tells}
    pairs = pairwise(zip(words, telling))
    return singles | {f"{first} {second}" for (first, tells), (second, also) in pairs if tells and also}


def choose_groups(texts: Iterable[Iterable[str]], most: int) -> list[str]:
    """The `most` commonest groups among pictures (each with its texts), neither everywhere nor rare; commonest first."""
    counts: Counter[str] = Counter()
    pictures = 0
    for of_picture in texts:
        pictures += 1
        counts.update(set().union(*(groups_of(text) for text in of_picture)))
    kept = [group for group, count in counts.items() if _FEWEST <= count <= _MOST * pictures]
    return sorted(kept, key=lambda group: (-counts[group], group))[:most]


def group_targets(texts: list[list[str]], groups: list[str]) -> np.ndarray:
    """bool [N, G]: which groups any of a picture's texts holds."""
    numbers = {group: number for number, group in enumerate(groups)}
    targets = np.zeros((len(texts), len(groups)), bool)
    for row, of_picture in enumerate(texts):
        for text in of_picture:
            targets[row, [numbers[group] for group in groups_of(text) if group in numbers]] = True
    return targets
