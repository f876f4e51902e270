"""The model card of an exported model: what is known of it -> the text of a README.md as model hubs show it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip_idplugin.checkpoints.hub_files import DELTA
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.model_identity import ModelIdentity
from open_clip_idplugin.model_store.registry import MODELS
from open_clip_idplugin.storage.file_hash import file_sha256

_METRICS = ("t2i_R@1", "t2i_R@5", "t2i_R@10", "i2t_R@1", "right_person", "entity_R@1_kmin", "entity_R@10", "mAP@10")
_MOST_RESULTS = 64 << 20  # bytes

_CARD = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
license: {licence_id}
tags:
- clip
- idclip
- cross-modal-retrieval
---
# {title}

An IdCLIP: a CLIP whose text tower also takes the embedding of a face, so that images are found of a person in a context
("[TOK] hitting a ball on the court"). Nothing is trained again for a new person.

## What it is made of

| | |
|---|---|
| model | `{model}` |
| base weights | {base} |
| SHA-256 of the base weights | {digest} |
| face model | {face_model} |
| licence of the face model | {face_licence} |
| face embedding | {face_dim} numbers |
| image index | {index} |

Parts that it adds to CLIP (`identity_cfg`):

{parts}

Training flags:

{recipe}

## Evaluation

{evaluation}

## Use

{use}

Face embeddings must come from the face model named above; vectors of another one mean nothing to this model.

## Intended use and limits

* For searching one's own pictures for people who agreed to be searched for. Face embeddings are biometric data: enrolling
  somebody needs a legal basis and, in most places, consent (in the EU: GDPR article 9).
* This file holds no face and no name; who is enrolled with it stays in the gallery of whoever enrolls.
* Not for identifying strangers, surveillance, or decisions about people. A ranking is no proof of who is in a picture.
* Face models recognise some groups of people better than others, and this model inherits it. Measure it on your own data
  (`idclip evaluate` reports groups where they are known).
* The text side knows what its base CLIP knows, with the same gaps and biases.

## Licence

{licence}
"""

_FOLDER_USE = """\
    import open_clip, open_clip_idplugin
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
    tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
    query = tokenizer(["[TOK] hitting a ball on the court"], faces=face_embedding)
    similarity = model.encode_image(images, normalize=True) @ model.encode_text(query, normalize=True).T

`local-dir:` wants open_clip 3; `open_clip_idplugin.load_model("local-dir:FOLDER")` and the flag `--model local-dir:FOLDER` of
`idclip` work with open_clip 2 as well, and check the weights against their digest."""

_DELTA_USE = """\
`{file}` holds what training changed; it is put on the base weights named above, and refuses others:

    import open_clip_idplugin
    loaded = open_clip_idplugin.load_model("{model}", "{base}+{file}")
    query = loaded.tokenizer(["[TOK] hitting a ball on the court"], faces=face_embedding)
    similarity = loaded.model.encode_image(images, normalize=True) @ loaded.model.encode_text(query, normalize=True).T

The flags of `idclip` are `--model {model} --checkpoint {base}+{file}`. In a repository of a model
hub the file is called `{hub_file}`, with this card as README.md: then `--checkpoint hf-hub:OWNER/NAME` fetches it
(`hf-hub:OWNER/NAME@REVISION` one revision of it), also for `load_model` and for `--pretrained` of training."""

_OTHERS = """\
The weights combine the work of others. The base weights keep their own licence; so does the face model, and many face models
are for non-commercial research only; the training pictures may add terms of their own."""
_STATED = "Passed on under `{licence}`, by the word of whoever exported it."
_NOT_STATED = "Fill in what applies before you pass this model on (`idclip export --licence`)."


@dataclass(frozen=True)
class Origin:
    """Where a model comes from and how it may be passed on.

    base_digest: of the plain weights, None where they were not at hand. licence: identifier as model hubs write it
    ("mit", "cc-by-nc-4.0"), None where nobody stated one. evaluation: Markdown (see `evaluation_table`), None for none.
    Raises IdClipError for another form of the licence.
    """

    facts: TrainingFacts
    base_digest: str | None = None
    licence: str | None = None
    evaluation: str | None = None

    def __post_init__(self) -> None:
        if self.licence is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", self.licence):
            raise IdClipError(f"the licence must be an identifier such as mit or cc-by-nc-4.0, not {self.licence!r}.")


_OWN_INDEX = "its own: the image tower has parts that plain CLIP lacks"
_SHARED_INDEX = "where training locked the image tower, one made with the base weights serves"


def model_card(title: str, model: str, config: IdentityConfig, origin: Origin, delta_file: str | None = None) -> str:
    """`title`: heading; model: open_clip's name; delta_file: name of the file that the card is of, None for a folder."""
    facts, licence = origin.facts, origin.licence
    use = (
        _FOLDER_USE
        if delta_file is None
        else _DELTA_USE.format(file=delta_file, model=model, base=facts.base, hub_file=DELTA)
    )
    return _CARD.format(
        title=title,
        model=model,
        base=f"`{facts.base}`" if facts.base else "not recorded",
        digest=f"`{origin.base_digest}`" if origin.base_digest else "not computed",
        face_model=f"`{facts.face_model}`" if facts.face_model else "not recorded",
        face_licence=_licence_of(facts.face_model),
        face_dim=config.face_dim,
        index=_OWN_INDEX if config.changes_image_features else _SHARED_INDEX,
        parts=_table(("option", "value"), config.to_dict()),
        recipe=_table(("flag", "value"), facts.recipe) if facts.recipe else "Not recorded.",
        evaluation=origin.evaluation or "Not recorded (`idclip export --evaluation results.json`).",
        use=use,
        licence_id=(licence or "other").lower(),
        licence=f"{_STATED.format(licence=licence) if licence else _NOT_STATED} {_OTHERS}",
    )


def evaluation_table(path: Path, checkpoint: Path) -> str:
    """What `idclip evaluate` wrote about a checkpoint -> Markdown: data, numbers of images, and recalls in percent.

    path: results.json. Raises IdClipError for another file, and for results of other weights.
    """
    try:
        if path.stat().st_size > _MOST_RESULTS:
            raise ValueError(f"more than {_MOST_RESULTS >> 20} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
        about, metrics = content["about"], content["metrics"]
        shown = [name for name in _METRICS if any(name in values for values in metrics.values())]
        rows = [[name, *(_percent(values.get(metric)) for metric in shown)] for name, values in metrics.items()]
        digests = set(about["weights"].values())
        facts = [
            f"{about[name]} {name}" for name in ("images", "identities", "scenes") if isinstance(about.get(name), int)
        ]
        data = Path(str(about["data"])).name
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise IdClipError(
            f"--evaluation: {path} is not a results.json of `idclip evaluate` ({type(error).__name__}: {error})."
        ) from None
    if not checkpoint.is_file() or file_sha256(checkpoint) not in digests:
        raise IdClipError(
            f"--evaluation: {path} is about other weights than {checkpoint}; evaluate these with `idclip evaluate`."
        )
    heads = ["query", *(name.replace("_", " ") for name in shown)]
    lines = [heads, ["---", *["---:"] * len(shown)], *rows]
    table = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    return f"On `{_cell(data)}` ({', '.join(facts)}), in percent, by what the query says:\n\n{table}"


def _percent(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a metric that is no finite number")
    return f"{100 * value:.1f}"


def _licence_of(face_model: str | None) -> str:
    """What the registry of face models knows; the model's own files say more."""
    if face_model is None:
        return "not recorded"
    identity = ModelIdentity.parse(face_model)
    pack = identity.name.partition("/")[0] if identity.kind == "insightface" else identity.kind
    known = MODELS.get(pack)
    if known is None:
        return "not known here; ask its makers before any use"
    return f"{known.licence}{f', see {known.terms}' if known.terms else ''}"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
