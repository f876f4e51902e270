"""A small byte-pair vocabulary for open_clip's own tokenizer: texts -> the merges file that it takes as `bpe_path`.

Byte pairs: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units" (arXiv
1508.07909). Words are split and bytes are spelled exactly as open_clip's tokenizer does, so that the merges learned
here are the merges applied there.
"""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

from open_clip_idplugin.storage.atomic import atomic_write

BYTE_SYMBOLS = 512  # every byte, and every byte that ends a word
SPECIAL_TOKENS = 2  # start and end of text
_HEADER = "# byte pairs of the miniature world, most frequent first"

Pair = tuple[str, str]
Word = tuple[str, ...]


def learn_merges(texts: Iterable[str], vocab_size: int) -> list[Pair]:
    """The byte pairs to merge, in order, for at most `vocab_size` entries (bytes and special tokens included).

    Ties go to the alphabetically first pair, so that the result depends on the texts alone; a pair seen only once is
    not merged.
    """
    counts = _word_counts(texts)
    words = list(counts)
    spelled = [_split(word) for word in words]
    weights = [counts[word] for word in words]
    pairs: Counter[Pair] = Counter()
    holders: dict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(spelled):
        _count(word, weights[index], index, pairs, holders)
    merges: list[Pair] = []
    while len(merges) < vocab_size - BYTE_SYMBOLS - SPECIAL_TOKENS and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        for index in sorted(holders.pop(best)):
            _count(spelled[index], -weights[index], index, pairs, holders)
            spelled[index] = _merge(spelled[index], best)
            _count(spelled[index], weights[index], index, pairs, holders)
        pairs = +pairs  # drop what no word holds any more
    return merges


def write_merges(path: Path, merges: list[Pair]) -> None:
    """Write the gzipped file that open_clip reads: one header line, then one pair a line. Equal merges give equal bytes."""
    # No newline at the end: the reader would take the empty last line for a merge.
    lines = "\n".join([_HEADER, *(" ".join(pair) for pair in merges)])
    atomic_write(path, gzip.compress(lines.encode("utf-8"), mtime=0))


def vocabulary_size(merges: list[Pair]) -> int:
    """Entries of the tokenizer that reads these merges."""
    return BYTE_SYMBOLS + len(merges) + SPECIAL_TOKENS


def _word_counts(texts: Iterable[str]) -> Counter[str]:
    host = SimpleTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        for word in host.pat.findall(host.clean_fn(text)):
            counts["".join(host.byte_encoder[byte] for byte in word.encode("utf-8"))] += 1
    return counts


def _split(word: str) -> Word:
    return (*word[:-1], word[-1] + "</w>")


def _count(word: Word, weight: int, index: int, pairs: Counter[Pair], holders: dict[Pair, set[int]]) -> None:
    for pair in pairwise(word):
        pairs[pair] += weight
        holders[pair].add(index)


def _merge(word: Word, pair: Pair) -> Word:
    merged: list[str] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append("".join(pair))
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)
