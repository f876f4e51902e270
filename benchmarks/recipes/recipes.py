"""The table of recipes: a name -> flags of `python -m training_patches`, and the reason why it is tried.

Role: what is trained, as data. All recipes share `COMMON`; one that is built on another repeats its flags and changes
some. At the size of the miniature world the paper's learning rate and batch (5e-5, 32) have learned nothing after 200
steps, so that all recipes use 1e-3 and 128; the rest of the paper's recipe is as published (arXiv 2412.21009).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from open_clip_idplugin.errors import IdClipError

# True: a switch; False: the switch of COMMON is left out.
Settings: TypeAlias = dict[str, str | int | float | bool]
Flags: TypeAlias = Mapping[str, str | int | float | bool]

STEPS = 200
COMMON: Flags = {
    "--dataset-type": "webdataset",
    "--epochs": 1,
    "--batch-size": 128,
    "--lr": "1e-3",
    "--wd": 0.01,
    "--warmup": 20,
    "--lr-scheduler": "cosine",
    "--workers": 1,  # one stream, in which neighbours for grouped batches are found
    "--log-every-n-steps": 50,
    "--lock-image": True,
    "--lock-text": True,
    "--id-caption": "fixed",
    "--id-temperature": 0.07,
}
ALL = "all"
_CHANGE_TEXT_FEATURES = ("--id-text-prompts", "--id-lora-text-blocks")
_CHANGE_IMAGE_FEATURES = ("--id-visual-prompts", "--id-lora-image-blocks")


@dataclass(frozen=True)
class Recipe:
    """One way of training.

    flags: what differs from `COMMON`; steps: optimizer steps. `trained` is False for plain CLIP, which only answers
    queries without a face.
    """

    name: str
    reason: str
    flags: Flags
    steps: int = STEPS
    trained: bool = True

    @property
    def keeps_image_features(self) -> bool:
        """Whether the image tower stays as it is, so that its features can be computed once."""
        return self._keeps("--lock-image", _CHANGE_IMAGE_FEATURES)

    @property
    def keeps_plain_answers(self) -> bool:
        """Whether both towers stay as they are, so that queries without a face are answered as by plain CLIP."""
        return self.keeps_image_features and self._keeps("--lock-text", _CHANGE_TEXT_FEATURES)

    def training_flags(self, seed: int, steps: int | None = None) -> Settings:
        """All flags but those that name files; `steps` replaces the recipe's own number."""
        flags: Settings = {**COMMON, **self.flags}
        flags["--train-num-samples"] = (steps or self.steps) * int(flags["--batch-size"])
        return {**flags, "--seed": seed}

    def _keeps(self, lock: str, changing: Iterable[str]) -> bool:
        flags = {**COMMON, **self.flags}
        return flags[lock] is True and not any(name in flags for name in changing)


def words(flags: Flags) -> list[str]:
    """Flags as they stand on a command line."""
    line = []
    for name, value in flags.items():
        if value is True:
            line.append(name)
        elif value is not False:
            line += [name, str(value)]
    return line


def _recipes(*recipes: Recipe) -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in recipes}


_TEMPERATURE: Settings = {"--id-temperature": "checkpoint"}
_FAINT_MIX: Settings = {"--id-setup": "with_entities=1,only_entities=0.02"}
_ALONE: Settings = {"--id-setup": "only_entities"}
_SCENES: Settings = {"--id-batch-groups": "scene", "--id-group-size": 5}
_PEOPLE: Settings = {"--id-batch-groups": "identity", "--id-group-size": 4}
_MIX: Settings = {"--id-setup": "with_entities=1,only_entities=0.1"}
_EQUAL_MIX: Settings = {"--id-setup": "with_entities=1,only_entities=1"}
_TEXT_LORA: Settings = {"--id-lora-text-blocks": "last:2"}
_IMAGE_LORA: Settings = {"--id-lora-image-blocks": "last:1"}
_PROMPTS: Settings = {"--id-visual-prompts": 5}
_IMAGE_TOWER: Settings = {"--lock-image": False, "--id-lr-image": "1e-4"}
_FASTER_TOWER: Settings = {"--lock-image": False, "--id-lr-image": "3e-4"}
_TEXT_TOWER: Settings = {"--lock-text": False, "--id-lr-text": "1e-4"}
_NOISE: Settings = {"--id-face-noise": 1.0}
_SOME_MIX: Settings = {"--id-setup": "with_entities=1,only_entities=0.3"}

PLAIN = Recipe("clip", "plain CLIP, nothing trained: what names and captions find", {}, trained=False)
PAPER = Recipe("paper", "adaptor and five shallow visual prompts, InfoNCE at 0.07, random batches", _PROMPTS)
ADAPTOR = Recipe("paper-adaptor", "the paper's adaptor alone", {})

# The paper's other configurations.
_PUBLISHED = (
    Recipe("prompts-1", "one visual prompt", {"--id-visual-prompts": 1}),
    Recipe("prompts-50", "fifty visual prompts", {"--id-visual-prompts": 50}),
    Recipe("text-prompts", "five learnable tokens in front of the text (TPT)", {"--id-text-prompts": 5}),
    Recipe("in-place", "captions whose keyword the token replaces", {"--id-caption": "in_place"}),
    Recipe("multi", "one of six prompts at random, so that no single wording is learned", {"--id-caption": "multi"}),
    Recipe(
        "mix-0.02", "the token alone as a second text, weighted 0.02; batches grouped by identity", _FAINT_MIX | _PEOPLE
    ),
    Recipe("mix-0.1", "mix-0.02 with a weight of 0.1", _MIX | _PEOPLE),
    Recipe("mix-1", "mix-0.02 with equal weights", _EQUAL_MIX | _PEOPLE),
    Recipe("only-entities", "the token alone and no caption; batches grouped by identity", _ALONE | _PEOPLE),
    Recipe(
        "only-entities-bce",
        "only-entities, every pair judged on its own",
        _ALONE | _PEOPLE | {"--id-entity-loss": "bce"},
    ),
    Recipe("bias", "the adaptor with bias", {"--id-adaptor-bias": "true"}),
    Recipe("layers-2", "an adaptor of two hidden layers", {"--id-adaptor-layers": 2}),
)

# One change at a time from the paper's adaptor.
_CHANGES = (
    Recipe("temperature", "the temperature CLIP was trained at, which tells near images apart", _TEMPERATURE),
    Recipe("temperature-learned", "open_clip's way: from CLIP's temperature on", {"--id-temperature": "learned"}),
    Recipe("norm-initial", "identity tokens as long as word embeddings at first", {"--id-token-norm": "initial"}),
    Recipe("norm-fixed", "identity tokens always as long as word embeddings", {"--id-token-norm": "fixed"}),
    Recipe("layer-norm", "LayerNorm in the adaptor", {"--id-adaptor-norm": "true"}),
    Recipe("residual", "a linear shortcut in the adaptor: face space is close to linear", {"--id-adaptor-residual": "true"}),
    Recipe("tokens-2", "two tokens a person: more room for a face", {"--id-tokens-per-identity": 2}),
    Recipe("tokens-4", "four tokens a person", {"--id-tokens-per-identity": 4}),
    Recipe("scenes", "half of a batch in groups of one scene: negatives that only the face tells apart", _SCENES),
    Recipe("scenes-all", "whole batches in groups of one scene", _SCENES | {"--id-group-share": 1.0}),
    Recipe("people", "half of a batch in groups of one person: the scene alone tells apart", _PEOPLE),
    Recipe("mix-random", "the token alone as a second text, weighted 1, in random batches", _EQUAL_MIX),
    Recipe("masked", "other captions of the same picture are no negatives", {"--id-false-negatives": "mask"}),
    Recipe("lora-text", "LoRA in the last two blocks of the text tower, which must carry the token to the end", _TEXT_LORA),
    Recipe("lora-image", "LoRA in the last block of the image tower, which must tell faces apart", _IMAGE_LORA),
    Recipe("lora-image-all", "LoRA in every block of the image tower", {"--id-lora-image-blocks": "all"}),
    Recipe("image-tower", "the whole image tower at a small learning rate", _IMAGE_TOWER),
    Recipe("text-tower", "the whole text tower at a small learning rate", _TEXT_TOWER),
    Recipe("prompts-deep", "five fresh visual prompts in every block", _PROMPTS | {"--id-visual-prompts-deep": "true"}),
    Recipe("batch-512", "four times the batch: more people of a scene meet", {"--batch-size": 512}),
    Recipe("face-dropout", "a tenth of the captions stays plain", {"--id-face-dropout": 0.1}),
    Recipe("face-noise", "noise on every face, so that none is learned by heart", _NOISE),
)  # fmt: skip

# More training, to tell a better recipe from a longer one.
_LONGER = (
    Recipe("paper-long", "the paper's recipe with four times the steps", _PROMPTS, steps=4 * STEPS),
    Recipe("adaptor-long", "the paper's adaptor with four times the steps", {}, steps=4 * STEPS),
)

_SHARP: Settings = _TEMPERATURE | {"--id-token-norm": "initial"}
_COMBINED = (
    Recipe("sharp-scenes", "temperature, token length and scene groups", _SHARP | _SCENES),
    Recipe("sharp-mix", "temperature, token length and the equal mix by identity", _SHARP | _EQUAL_MIX | _PEOPLE),
    Recipe("sharp-scenes-mix", "scene groups and the equal mix in one batch", _SHARP | _EQUAL_MIX | _SCENES),
    Recipe("prompts-scenes", "the paper's recipe with scene groups", _PROMPTS | _SCENES),
    Recipe("lora-image-scenes", "LoRA in the image tower with scene groups", _IMAGE_LORA | _SCENES),
    Recipe("lora-both-scenes", "LoRA in both towers with scene groups", _TEXT_LORA | _IMAGE_LORA | _SCENES),
    Recipe("lora-both-scenes-mix", "lora-both-scenes with the equal mix", _TEXT_LORA | _IMAGE_LORA | _SCENES | _EQUAL_MIX),
    Recipe("image-tower-scenes", "the image tower with scene groups", _IMAGE_TOWER | _SCENES),
    Recipe("image-tower-scenes-mix", "image-tower-scenes with the equal mix", _IMAGE_TOWER | _SCENES | _EQUAL_MIX),
    Recipe("image-tower-mix", "the image tower with the equal mix by identity", _IMAGE_TOWER | _EQUAL_MIX | _PEOPLE),
    Recipe("faster-tower-scenes", "the image tower at three times the rate, with scene groups", _FASTER_TOWER | _SCENES),
    Recipe("faster-tower-lora-scenes", "faster-tower-scenes with LoRA in the text tower", _FASTER_TOWER | _SCENES | _TEXT_LORA),
    Recipe("faster-tower-scenes-noise", "faster-tower-scenes with the token alone weighted 0.3, and noise on faces",
           _FASTER_TOWER | _NOISE | _SOME_MIX | _SCENES),
    Recipe("faster-tower-scenes-noise-lora", "faster-tower-scenes-noise with LoRA in the text tower",
           _FASTER_TOWER | _NOISE | _SOME_MIX | _SCENES | _TEXT_LORA),
    Recipe("unseen-people", "faster-tower-scenes-noise with the text tower at a tenth of the rate",
           _FASTER_TOWER | _NOISE | _SOME_MIX | _SCENES | _TEXT_TOWER),
    Recipe("unseen-people-locked", "unseen-people without the image tower: an index of plain CLIP goes on serving",
           _NOISE | _SOME_MIX | _SCENES | _TEXT_TOWER),
    Recipe("sharp-scenes-mix-lora", "sharp-scenes-mix with LoRA in the text tower", _SHARP | _EQUAL_MIX | _SCENES | _TEXT_LORA),
    Recipe(
        "sharp-scenes-mix-both", "sharp-scenes-mix-lora with LoRA in the image tower too",
        _SHARP | _EQUAL_MIX | _SCENES | _TEXT_LORA | _IMAGE_LORA,
    ),
    Recipe("sharp-scenes-mix-prompts", "scene groups, mix and deep visual prompts",
           _SHARP | _EQUAL_MIX | _SCENES | _PROMPTS | {"--id-visual-prompts-deep": "true"}),
    Recipe("sharp-scenes-mix-tokens", "scene groups, mix and two tokens a person",
           _SHARP | _EQUAL_MIX | _SCENES | {"--id-tokens-per-identity": 2}),
    Recipe("sharp-scenes-mix-long", "scene groups and mix, four times the steps",
           _SHARP | _EQUAL_MIX | _SCENES, steps=4 * STEPS),
)  # fmt: skip

RECIPES: Mapping[str, Recipe] = _recipes(PLAIN, PAPER, ADAPTOR, *_PUBLISHED, *_CHANGES, *_LONGER, *_COMBINED)


def choose(names: str | Iterable[str]) -> list[Recipe]:
    """Names separated by commas, or "all" -> recipes in the order of the table; raises IdClipError for unknown ones."""
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]
    if wanted == [ALL]:
        return list(RECIPES.values())
    unknown = [name for name in wanted if name not in RECIPES]
    if unknown or not wanted:
        what = f"there is no recipe {', '.join(map(repr, unknown))}" if unknown else "no recipe is named"
        raise IdClipError(f"{what}; choose from {', '.join(RECIPES)}, or {ALL}")
    return [recipe for name, recipe in RECIPES.items() if name in wanted]
