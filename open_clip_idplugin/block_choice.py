"""Which blocks of a tower are meant: "none", "all", "last:4" or numbers as "0,3,5-7", counted from 0 -> block numbers."""

import re
from collections.abc import Collection

from open_clip_idplugin.errors import IdClipError

NO_BLOCKS, ALL_BLOCKS = "none", "all"
_LAST = re.compile(r"last:([1-9]\d*)")
_SPAN = re.compile(r"(\d+)(?:-(\d+))?")


def parse_blocks(name: str, text: object) -> list[tuple[int, int]]:
    """The spans (first, last) that numbers name, none for the words; raises IdClipError for anything else."""
    if isinstance(text, str):
        if text in (NO_BLOCKS, ALL_BLOCKS) or _LAST.fullmatch(text):
            return []
        matches = [_SPAN.fullmatch(part.strip()) for part in text.split(",")]
        spans = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
        if len(spans) == len(matches) and all(first <= last for first, last in spans):
            return spans
    raise IdClipError(
        f"identity_cfg: {name} must be 'none', 'all', 'last:4' or block numbers as '0,3,5-7', not {text!r}."
    )


def chosen_blocks(name: str, text: str, count: int) -> list[int]:
    """The chosen ones of `count` blocks, ascending; raises IdClipError where the tower has fewer than named."""
    if text == NO_BLOCKS:
        return []
    if text == ALL_BLOCKS:
        return list(range(count))
    last = _LAST.fullmatch(text)
    wanted = int(last[1]) - 1 if last else max(last for _, last in parse_blocks(name, text))
    if wanted >= count:
        raise IdClipError(f"identity_cfg: {name} is {text!r}, but this tower has {count} blocks, 0 to {count - 1}.")
    if last:
        return list(range(count - int(last[1]), count))
    return sorted({number for first, end in parse_blocks(name, text) for number in range(first, end + 1)})


def blocks_text(blocks: Collection[int]) -> str:
    """Block numbers -> the shortest text that names them, such as "0,3,5-7"; "none" for no block."""
    spans: list[list[int]] = []
    for number in sorted(set(blocks)):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == end else f"{first}-{end}" for first, end in spans) or NO_BLOCKS
