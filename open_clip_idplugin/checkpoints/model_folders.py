"""Self-contained model folders: a loaded model in, a folder out that open_clip's `local-dir:` and `hf-hub:` understand.

Role: `write_folder` puts config, weights, tokenizer files, facts and model card side by side; `read_folder` reads them back
and refuses what was changed; `known_to_open_clip` lets also an open_clip without `local-dir:` build from them.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from open_clip_idplugin.checkpoints.delta_files import weights_digest
from open_clip_idplugin.checkpoints.model_card import Origin, model_card
from open_clip_idplugin.checkpoints.model_view import with_view
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.own_models import FOLDER_CONFIG, FOLDER_PREFIX
from open_clip_idplugin.hosts.tokenizers import vocabulary_file
from open_clip_idplugin.storage.atomic import PUBLIC
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.output_folder import building_folder, put_in_place

PREFIX, CONFIG = FOLDER_PREFIX, FOLDER_CONFIG
WEIGHTS, CARD = "open_clip_model.safetensors", "README.md"
_NOTE = "idclip"  # key of ours in open_clip_config.json, beside the host's `model_cfg` and `preprocess_cfg`
_MARKS = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")  # one of these is in the folder of a tokenizer


@dataclass(frozen=True)
class FolderNote:
    """What the host's config does not say.

    name: open_clip's name of the model that was exported. facts: of its training. base_digest: `weights_digest` of the
    plain weights, where they were at hand. digest: of the weights in the folder.
    """

    name: str
    facts: TrainingFacts
    base_digest: str | None
    digest: str


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was read. config: open_clip's model config. preprocess: mean, std and so on, as create_model takes it."""

    path: Path
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    note: FolderNote | None

    @property
    def weights(self) -> Path:
        """The file with the whole state dict."""
        return self.path / WEIGHTS


def write_folder(output: Path, model: Any, tokenizer: Any, name: str, origin: Origin) -> None:
    """Write an IdCLIP with its IdentityTokenizer; the folder is there whole or not at all.

    Raises IdClipError where something is in the way.
    """
    import open_clip
    from safetensors.torch import save_file

    config = with_view(open_clip.get_model_config(name), origin.facts.view)
    config["identity_cfg"] = model.identity_cfg.to_dict()
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    shown = replace(origin, facts=replace(origin.facts, base=_name_alone(origin.facts.base)))
    note = FolderNote(name, shown.facts, shown.base_digest, weights_digest(state))
    with building_folder(output) as folder:
        save_file(state, folder / WEIGHTS)
        _write_tokenizer(folder, tokenizer, config)
        host = importlib.import_module("open_clip.push_to_hf_hub")
        host.save_config_for_hf(model, folder / CONFIG, model_config=config)
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        (folder / CONFIG).write_text(json_text({**content, _NOTE: asdict(note)}, indent=2) + "\n", encoding="utf-8")
        (folder / CARD).write_text(model_card(output.name, name, model.identity_cfg, shown), encoding="utf-8")
        for path in folder.iterdir():
            path.chmod(PUBLIC)
        put_in_place(folder, output)


def read_folder(path: Path) -> ModelFolder:
    """Read what `write_folder` or open_clip itself wrote.

    Raises IdClipError where a file is missing or damaged, or the weights are not those that were written.
    """
    source = path / CONFIG
    if not source.is_file() or not (path / WEIGHTS).is_file():
        raise IdClipError(f"{path} is not a model folder: it needs the files {CONFIG} and {WEIGHTS}.")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        config, preprocess, note = content["model_cfg"], content.get("preprocess_cfg") or {}, content.get(_NOTE)
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise KeyError("embed_dim, vision_cfg or text_cfg")
        if note is not None:
            facts = TrainingFacts.from_dict(note["facts"], source)
            note = FolderNote(note["name"], facts, note["base_digest"], note["digest"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IdClipError(f"{source} is not the config of a model ({error}); get the folder again.") from None
    # Tuples as in open_clip's own configs: how an image index was made is told by their text.
    preprocess = {key: tuple(value) if isinstance(value, list) else value for key, value in preprocess.items()}
    return ModelFolder(path, config, preprocess, note)


def require_unchanged(folder: ModelFolder, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise IdClipError unless these are the weights that the folder was written with (where it says)."""
    if folder.note is not None and weights_digest(weights) != folder.note.digest:
        raise IdClipError(
            f"{folder.weights} was changed after it was written: its digest is another; get the file again."
        )


@contextlib.contextmanager
def known_to_open_clip(folder: ModelFolder) -> Iterator[str]:
    """Register a folder's config under a passing name, with its tokenizer's files in place, and yield the name.

    open_clip 2 has no `local-dir:`, and 3 reads it only where no other weights are named.
    """
    configs = importlib.import_module("open_clip.factory")._MODEL_CONFIGS
    name, config = f"IdCLIP-folder-{uuid4().hex}", copy.deepcopy(dict(folder.config))
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name") and any((folder.path / mark).is_file() for mark in _MARKS):
        text["hf_tokenizer_name"] = str(folder.path.absolute())
    vocabulary = vocabulary_file(config, folder.path)
    if vocabulary is not None:
        text["tokenizer_kwargs"] = {**text["tokenizer_kwargs"], "bpe_path": vocabulary}
    configs[name] = config
    try:
        yield name
    finally:
        del configs[name]


def _write_tokenizer(folder: Path, tokenizer: Any, config: dict[str, Any]) -> None:
    """Put in what the tokenizer reads from disk; open_clip's own vocabulary comes with every open_clip."""
    base = getattr(tokenizer, "base", tokenizer)
    if hasattr(base, "save_pretrained"):
        base.save_pretrained(str(folder))
    vocabulary = vocabulary_file(config)
    if vocabulary is not None:
        shutil.copy(vocabulary, folder)
        text = config["text_cfg"]
        text["tokenizer_kwargs"] = {**text["tokenizer_kwargs"], "bpe_path": Path(vocabulary).name}


def _name_alone(base: str | None) -> str | None:
    """A tag as it is, a file without its folders."""
    return base if base is None or not Path(base).is_file() else Path(base).name
