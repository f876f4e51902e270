"""A cell of the benchmark, one recipe with one seed: what determines it, and the file that keeps its result.

Role: fingerprints and results on disk. A result's file name holds a fingerprint of everything that it depends on, so that
results of other weights, worlds or settings are neither read nor overwritten. Training has a fingerprint of its own: where
only the evaluation changes, nothing is trained again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.recipes.recipes import Flags, Recipe, words
from benchmarks.recipes.world import World
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.prompts import CONFIGURATIONS
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text

FORMAT = 1  # of what a cell is; another number makes all cells anew
EVALUATION = 2  # of what is measured; another number evaluates the kept weights anew
HOSTS = ("open_clip_torch", "torch")
VALIDATION, TEST = "val", "test"
EVALUATED = (VALIDATION, TEST)
WITHOUT_FACE = ("captions", "names")
ENTITY = ("names", "conf1", "conf4")  # entity retrieval asks few texts: by name, by face and by both at any rate


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    configurations, templates: of general retrieval, see `protocols.Settings`; splits: that are
    evaluated; steps: in place of every recipe's own number;
    precision: of training; threads: of one cell
    """

    output: Path
    world: World
    model: str
    pretrained: str
    configurations: tuple[str, ...]
    templates: str = "0"
    splits: tuple[str, ...] = EVALUATED
    steps: int | None = None
    precision: str = "fp32"
    threads: int = 1

    @property
    def weights(self) -> Mapping[str, str]:
        """Name of each file that the untrained model is read from -> SHA-256."""
        return _weights(self.model, self.pretrained)

    @property
    def features(self) -> Path:
        """Cached image features of the training shards, for these weights and this world alone."""
        return self.output / "features" / _digest([self.weights, self.world.digest("train"), self.precision])[:12]


@dataclass(frozen=True)
class Cell:
    """One recipe with one seed."""

    recipe: Recipe
    seed: int

    @property
    def label(self) -> str:
        """For people: `paper-seed0`."""
        return f"{self.recipe.name}-seed{self.seed}" if self.recipe.trained else self.recipe.name

    def training_flags(self, bench: Bench) -> Flags:
        """Flags but for places."""
        flags = self.recipe.training_flags(self.seed, bench.steps)
        return {"--model": bench.model, "--pretrained": bench.pretrained, "--precision": bench.precision, **flags}

    def training_key(self, bench: Bench) -> str:
        """Fingerprint of the trained weights."""
        flags = words(self.training_flags(bench)) if self.recipe.trained else []
        versions = {name: version(name) for name in HOSTS}
        data = bench.world.digest("train") if self.recipe.trained else ""
        return _digest([FORMAT, flags, self.recipe.keeps_image_features, dict(bench.weights), data, versions])

    def weights_file(self, bench: Bench) -> Path:
        """Where the trained weights are kept, as a delta file."""
        return bench.output / "weights" / f"{self.label}-{self.training_key(bench)[:12]}.safetensors"

    def cost_file(self, bench: Bench) -> Path:
        """Where it is noted what training cost."""
        return self.weights_file(bench).with_suffix(".cost.json")

    def configurations(self, bench: Bench) -> dict[str, tuple[str, ...]]:
        """Protocol -> what is asked; an untrained adaptor answers no face."""
        asked = {
            "general": bench.configurations,
            "entity": tuple(dict.fromkeys([*ENTITY, *bench.configurations])),
        }
        if not self.recipe.trained:
            asked = {protocol: tuple(set(names) & set(WITHOUT_FACE)) for protocol, names in asked.items()}
        return {protocol: tuple(name for name in CONFIGURATIONS if name in names) for protocol, names in asked.items()}

    def result_file(self, bench: Bench) -> Path:
        """Where the result is kept. Rules and templates are chosen on validation, whatever splits are asked for."""
        data = [(split, bench.world.digest(split)) for split in (*bench.splits, VALIDATION)]
        key = _digest([EVALUATION, self.training_key(bench), self.configurations(bench), bench.templates, data])
        return bench.output / "cells" / f"{self.label}-{key[:12]}.json"


@dataclass(frozen=True)
class CellResult:
    """What a cell found: `splits["val"]` holds `metrics`, `strata`, `curves`, `failures` and `tuned` as in `protocols.Results`.

    Where a face is asked for it holds `best_template` too: the `index`, `text` and split of what was chosen. `seconds` are
    those of the wall's clock, for "training" and "evaluation"; `about["processor"]` holds the same of processors.
    """

    recipe: str
    reason: str
    seed: int
    command: tuple[str, ...]
    splits: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """The file is there whole or not at all."""
        atomic_write(path, json_text(asdict(self), indent=1) + "\n")


def read_result(path: Path) -> CellResult | None:
    """The result of a finished cell, None where it is not there; raises IdClipError for a damaged file."""
    if not path.exists():
        return None
    try:
        result = CellResult(**json.loads(path.read_text()))
        return replace(result, command=tuple(result.command))
    except (ValueError, TypeError) as error:
        raise IdClipError(f"{path} is damaged ({error}); delete it, and the cell is run again") from None


def cells_of(recipes: list[Recipe], seeds: tuple[int, ...]) -> list[Cell]:
    """Seed by seed, so that a stopped benchmark has something to say about every recipe; plain CLIP has one cell."""
    return [
        Cell(recipe, seed) for number, seed in enumerate(seeds) for recipe in recipes if recipe.trained or number == 0
    ]


@cache
def _weights(model: str, pretrained: str) -> Mapping[str, str]:
    """Digest of the pretrained file, of the vocabulary where the model has one of its own, and of a user's model's config."""
    import open_clip

    from open_clip_idplugin.assets import WEIGHTS
    from open_clip_idplugin.hosts.registration import model_config, own_config

    config = model_config(model)
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    path = Path(open_clip.factory.download_pretrained(tag)) if tag else Path(pretrained)
    if not path.is_file():
        raise IdClipError(f"there are no weights {pretrained} for {model}; give a file or a tag such as miniature")
    files = {"weights": path}
    vocabulary = config["text_cfg"].get("tokenizer_kwargs", {}).get("bpe_path")
    if vocabulary:
        files["vocabulary"] = WEIGHTS / vocabulary
    described = own_config(model)
    own = {} if described is None else {"config": _digest(described)}
    return {name: file_sha256(file) for name, file in files.items()} | own


def _digest(values: Any) -> str:
    return hashlib.sha256(json_text(values, sort_keys=True, default=dict).encode()).hexdigest()
