"""`captions.jsonl`: the captions of a release with the person in them, written out.

Role: a swapped image and its captions -> one line of JSON a caption. Training captions hold `[TOK]` in the three settings of
`open_clip_idplugin.prompts`; val and test have the 11 texts of the evaluation, once with `[TOK]` (conf1), once with the name.
"""

import random
from collections.abc import Iterator
from typing import Any

from open_clip_idplugin.prompts import TRAINING_SETTINGS, expand, general_text, general_texts, training_caption
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.faceswap.split_result import SplitResult
from webdataset_tools.release import CAPTIONS_PER_IMAGE
from webdataset_tools.sample_format import sample_key

CAPTIONS_FILE = "captions.jsonl"


def caption_lines(split: SplitResult, seed: int) -> Iterator[str]:
    """Yield the lines of a split; each caption has random draws of its own, so that lines do not depend on each other."""
    for swapped, decision in split.kept():
        name = split.names[decision.identity_id]
        key = sample_key(swapped.image.image_id, decision.identity_id)
        for number, caption in enumerate(swapped.image.captions[:CAPTIONS_PER_IMAGE]):
            rng = random.Random(f"captions {seed} {key} {number}")
            line = {"key": key, "split": split.split, "identity_name": name, "number": number, "caption": caption}
            yield json_text({**line, **_texts(split.split, caption, name, rng)}, ensure_ascii=False) + "\n"


def _texts(split: str, caption: str, name: str, rng: random.Random) -> dict[str, Any]:
    if split == "train":
        texts = {setting: training_caption(caption, setting, rng) for setting in TRAINING_SETTINGS}
        return {"token": texts, "name": expand(general_text(caption, 0), "names", name)}
    general = general_texts(caption, rng)
    return {
        "token": [expand(text, "conf1") for text in general],
        "name": [expand(text, "names", name) for text in general],
    }
