"""The text files of a release: results of the splits -> features, captions, names and notes.

Role: everything of the published layout but the pictures (see `webdataset_tools.release` for where each file lies), in an order
that depends on the ids alone. Features are biometric, and other files say who is shown: they are written PRIVATE.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from open_clip_idplugin.prompts import TRAINING_SETTINGS, expand, general_text, general_texts, training_caption
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from webdataset_tools.faceswap import coco
from webdataset_tools.faceswap.identities import GENDER
from webdataset_tools.faceswap.swapping import SplitResult
from webdataset_tools.release import (
    ATTRIBUTES_FILE,
    CAPTIONS_PER_IMAGE,
    COCO_FOLDER,
    IDENTITY_FILE,
    IDENTITY_FOLDER,
    SPLITS,
)
from webdataset_tools.sample_format import sample_key

Notes = Mapping[int, Mapping[str, str]]
CAPTIONS_FILE = "captions.jsonl"


def write_features(output: Location, split: SplitResult) -> None:
    """Write key -> [[D floats]]: the embedding of a photo that is not the one swapped in, where there are several."""
    with atomic_path(output / COCO_FOLDER / SPLITS[split.split].features, PRIVATE) as path, path.open("w") as stream:
        separator = "{"
        for swapped, decision in split.kept():
            face = split.photos[decision.identity_id][str(decision.face_photo)]
            numbers = ", ".join(f"{value:.9g}" for value in face.embedding.tolist())  # enough digits for float32
            stream.write(f'{separator}"{sample_key(swapped.image.image_id, decision.identity_id)}": [[{numbers}]]')
            separator = ",\n"
        stream.write("}\n" if separator != "{" else "{}\n")


def write_captions(output: Location, folder: Location, splits: Sequence[SplitResult], seed: int) -> None:
    """Write COCO's captions of the swapped images (val and test share a file), and the modified captions."""
    wanted: dict[str, set[int]] = {}
    for split in splits:
        ids = {swapped.image.image_id for swapped, _ in split.kept()}
        wanted.setdefault(SPLITS[split.split].captions, set()).update(ids)
    subset = {SPLITS[split.split].captions: coco.SUBSETS[split.split] for split in splits}
    for name, ids in wanted.items():
        atomic_write(output / COCO_FOLDER / name, json_text(coco.captions_of(folder, subset[name], ids)))
    with atomic_path(output / CAPTIONS_FILE, PRIVATE) as path, path.open("w", encoding="utf-8") as stream:
        for split in splits:
            stream.writelines(caption_lines(split, seed))


def write_names(output: Location, splits: Sequence[SplitResult], genders: Mapping[str, str | None]) -> None:
    """Write identity_meta.csv in VGGFace2's form; Flag is 0 for the people of the test split."""
    rows = ["Class_ID, Name, Sample_Num, Flag, Gender"]
    for split in splits:
        count = Counter(decision.identity_id for _, decision in split.kept())
        for identity_id in sorted(count):
            name = split.names[identity_id].replace(" ", "_").replace('"', '""')
            gender = {"female": "f", "male": "m"}.get(genders.get(identity_id) or "", "")
            rows.append(f'{identity_id}, "{name}", {count[identity_id]}, {int(split.split != "test")}, {gender}')
    atomic_write(output / IDENTITY_FOLDER / IDENTITY_FILE, "\n".join(rows) + "\n", PRIVATE)


def write_notes(
    output: Location,
    splits: Sequence[SplitResult],
    notes: Notes,
    people: Mapping[str, Mapping[str, str | None]],
    swapper: str,
) -> None:
    """Write attributes.json: what the user told about the image and the person, the face's height in pixels, the photo.

    What is told about people (`people`, by identity id) is never taken from the image (`notes`, by image id): the picture
    shows the face of the person who was swapped in.
    """
    content: dict[str, dict[str, Any]] = {}
    about_people = {name for values in people.values() for name in values}
    for split in splits:
        for swapped, decision in split.kept():
            box = swapped.face.box
            content[sample_key(swapped.image.image_id, decision.identity_id)] = {
                **{k: v for k, v in notes.get(swapped.image.image_id, {}).items() if k not in about_people},
                **{name: value for name, value in people[decision.identity_id].items() if value is not None},
                "face_height": round(float(box[3] - box[1]), 1),
                "photo": decision.photo,
                "swapper": swapper,
            }
    atomic_write(output / ATTRIBUTES_FILE, json_text(content, ensure_ascii=False), PRIVATE)


def genders_of(values: Mapping[str, Mapping[str, str | None]], given: Mapping[str, Mapping[str, str]]) -> dict:
    """Return identity id -> gender, from the matched values or else from the tables."""
    return {key: matched.get(GENDER) or given.get(key, {}).get(GENDER) for key, matched in values.items()}


def caption_lines(split: SplitResult, seed: int) -> Iterator[str]:
    """Yield the lines of a split, the captions with the person in them: JSON, one a caption.

    Those of training hold `[TOK]` in the three settings of `open_clip_idplugin.prompts`; val and test have the 11 texts of the
    evaluation, once with `[TOK]` (conf1), once with the name. Each caption has random draws of its own, so that lines do not
    depend on each other.
    """
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
